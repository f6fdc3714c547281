"""A handler of Inference Endpoints for the tiny model."""

import shutil

import endpoint_toolkit
import pytest
from tiny_spider import ROOT


@pytest.fixture(scope="session")
def endpoint_folder(model_folder, tmp_path_factory):
    """A saved repository of the tiny model with handler.py; only to be read."""
    folder = tmp_path_factory.mktemp("endpoint") / "tiny-endpoint"
    shutil.copytree(model_folder, folder)
    shutil.copy(ROOT / "handler.py", folder)
    return folder


@pytest.fixture(scope="session")
def handler(endpoint_folder):
    """Its handler, as the toolkit starts it."""
    return endpoint_toolkit.start(endpoint_folder)
