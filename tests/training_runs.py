"""What tests of training share: a tiny backbone, and a look at what a run leaves."""

import csv
from pathlib import Path

import torch
from safetensors.torch import load_file

from spider_tools.training.settings import TrainingSettings

PATCH_SIZE = 28
REGIONS, PATCHES = 23, 9  # of the fixture `grid`
BACKBONE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "mlp_ratio": 2,
    "image_size": PATCH_SIZE,
    "patch_size": 14,
    "num_register_tokens": 1,
    "use_swiglu_ffn": True,
}
NO_DROPOUT = {
    "head_hidden_dropout_prob": 0.0,
    "head_attention_probs_dropout_prob": 0.0,
    "head_dropout_prob": 0.0,
}


_REMEMBERED = ("familiarity.", "class_sets.")


def weights_of(folder):
    """What training changes or keeps; not what the model remembers of it, see `remembered_by`."""
    weights = load_file(Path(folder) / "model.safetensors")
    return {name: tensor for name, tensor in weights.items() if not name.startswith(_REMEMBERED)}


def remembered_by(folder):
    weights = load_file(Path(folder) / "model.safetensors")
    return {name: tensor for name, tensor in weights.items() if name.startswith(_REMEMBERED)}


def assert_equal_weights(a, b, **tolerance):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], **(tolerance or {"rtol": 0, "atol": 0}), msg=name)


def history_of(folder):
    with open(folder / "training" / "history.csv") as file:
        return list(csv.DictReader(file))


def run_settings(output_dir, backbone_config, **changes):
    """Settings of a run of the tiny backbone."""
    return TrainingSettings(
        output_dir=output_dir,
        backbone="random",
        backbone_config=str(backbone_config),
        batch_size=16,
        num_workers=0,
        mixed_precision="no",
        **changes,
    )
