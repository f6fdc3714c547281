"""A drawn data set and the settings of a run that takes seconds."""

import json

import numpy as np
import pytest
from training_runs import BACKBONE, PATCH_SIZE, PATCHES, REGIONS, run_settings

from spider_tools.data.grid import RegionGrid
from spider_tools.data.settings import DataSettings
from spider_tools.demo.synthetic import SyntheticSettings, write_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "tissue"
    write_dataset(folder, SyntheticSettings(train_slides=6, test_slides=2, lattice=9, patch_size=PATCH_SIZE, seed=5))
    return folder


@pytest.fixture(scope="module")
def backbone_config(tmp_path_factory):
    path = tmp_path_factory.mktemp("backbone") / "backbone.json"
    path.write_text(json.dumps(BACKBONE))
    return path


@pytest.fixture
def data_settings(dataset, tmp_path):
    return DataSettings(str(dataset), cache_dir=tmp_path / "cache", patch_size=PATCH_SIZE, validation_fraction=0.3)


@pytest.fixture
def settings(tmp_path, backbone_config):
    return run_settings(tmp_path / "run", backbone_config, epochs=2)


@pytest.fixture
def grid():
    """Regions of four slides as numbers; two patches are missing."""
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 40, size=(REGIONS, PATCHES))
    rows[2, 0] = rows[5, 8] = -1
    return RegionGrid(rows=rows, labels=rng.integers(0, 3, REGIONS), slides=np.repeat([4, 7, 9, 2], [3, 9, 5, 6]))
