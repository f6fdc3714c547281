"""The server of the Hub's API, and a trained model to publish there."""

import json
import shutil

import pytest
from hub_client import talk_to_a_hub
from publishing_folders import REPO, evaluate_at_random, save_model

from spider_tools.data.settings import DataSettings
from spider_tools.demo.synthetic import SyntheticSettings, write_dataset
from spider_tools.training.settings import TrainingSettings


@pytest.fixture
def hub(monkeypatch):
    """The server's state; this process's client talks to the server."""
    with talk_to_a_hub(monkeypatch) as hub:
        yield hub


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


@pytest.fixture
def training(fresh_accelerator, tmp_path):
    """Settings of a short training run that publishes, and of its data."""
    write_dataset(tmp_path / "tissue", SyntheticSettings(4, 1, lattice=9, patch_size=28, seed=5))
    backbone = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 14}
    (tmp_path / "backbone.json").write_text(json.dumps(backbone | {"image_size": 28}))
    settings = TrainingSettings(
        output_dir=tmp_path / "run",
        backbone="random",
        backbone_config=str(tmp_path / "backbone.json"),
        epochs=1,
        num_workers=0,
        mixed_precision="no",
        push_to_hub=True,
        hub_model_id=REPO,
        hub_private=True,
    )
    data = DataSettings(str(tmp_path / "tissue"), cache_dir=tmp_path / "cache", patch_size=28, validation_fraction=0.0)
    return settings, data
