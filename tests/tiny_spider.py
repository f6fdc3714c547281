"""Where the repository is, and the sizes of the tiny model that conftest.py makes."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CLASS_NAMES = ["Stroma", "Epidermis", "Fat", "Vessels"]  # not in alphabetical order: the order is the logits'
PATCH_SIZE = 28
HIDDEN = 32
BACKBONE = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "mlp_ratio": 2,
    "image_size": PATCH_SIZE,
    "patch_size": 14,
    "num_register_tokens": 3,
    "use_swiglu_ffn": True,
}
