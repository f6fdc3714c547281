"""The server of the Hub's API, and a trained model to publish there."""

import shutil
from types import SimpleNamespace

import pytest
from hub_server import Account, Hub, serve
from huggingface_hub import constants, file_download
from huggingface_hub.utils import _http as hub_http
from publishing_folders import READER, STRANGER, WRITER, evaluate_at_random, save_model


@pytest.fixture
def hub(monkeypatch):
    """The server's state; this process's client talks to the server."""
    accounts = {
        WRITER: Account("anna", ("lab",)),
        READER: Account("bert", ("lab",), role="read"),
        STRANGER: Account("carl"),
    }
    hub = Hub(accounts)
    forget_sessions = getattr(hub_http, "reset_sessions", None) or hub_http.close_session
    with serve(hub) as endpoint:
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        for module in (constants, file_download):  # where older and newer clients read it
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        # The client waits up to 8 s between attempts.
        monkeypatch.setattr(hub_http, "time", SimpleNamespace(sleep=lambda seconds: None, time=lambda: 0.0))
        forget_sessions()
        yield hub
        forget_sessions()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, make_model):
    """A model folder as training and evaluation leave it, with everything around the model that stays at home."""
    folder = tmp_path_factory.mktemp("trained")
    save_model(make_model(), folder)
    checkpoint = folder / "training" / "checkpoints" / "step_00000007"
    checkpoint.mkdir(parents=True)
    for path in (checkpoint / "optimizer.bin", folder / "optimizer.pt", folder / ".env", folder / "notes.txt"):
        path.write_text("HF_TOKEN=hf_abcdefghijklmnopqrstuvwxyzabcdefgh")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "modeling_spider.pyc").write_bytes(b"cache")
    evaluate_at_random(folder / "evaluation", make_model().config.class_names)
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    """A trained model of one's own."""
    return shutil.copytree(trained, tmp_path / "runs" / "first")
