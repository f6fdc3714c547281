"""A DINOv2 of two layers in HistAI's names, and its files, for the tests that load backbones."""

import torch
from independent_dinov2 import random_state_dict, save_folder

HEADS = 2
SIZES = {"hidden": 128, "layers": 2, "token": 7, "grid": 3, "registers": 4, "swiglu": True, "width": 344}
CONFIG = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "image_size": 21,
    "patch_size": 7,
    "num_register_tokens": 4,
    "use_swiglu_ffn": True,
    "model_type": "dinov2_with_registers",
}


def native(**changes):
    return random_state_dict(**{**SIZES, **changes})


def save_pth(folder, content, name="hibou.pth"):
    """Write a torch.save file; returns its path as a string."""
    torch.save(content, folder / name)
    return str(folder / name)


def write_folder(folder, tensors, config=CONFIG, shards=1):
    return save_folder(folder, tensors, config, shards)
