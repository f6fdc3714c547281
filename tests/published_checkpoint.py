"""A published SPIDER checkpoint with tiny parts, for the tests of its import."""

import torch
from independent_dinov2 import in_transformers_4_names, random_state_dict
from transformers import BertConfig, BertModel

HIDDEN, HEADS, SIDE, WIDTH = 128, 2, 21, 48
CLASS_NAMES = ["Vessels", "Fat", "Kaposi\u2019s sarcoma"]  # not in alphabetical order: the order is the classifier's
CONFIG = {"class_names": CLASS_NAMES, "backbone": {"hidden_size": HIDDEN, "num_attention_heads": HEADS}}
PARTS = {"backbone": "feature_extractor.", "encoder": "bert.", "projection": "projector.", "classifier": "classifier."}


def bert(pooler=False, **changes):
    config = {
        "vocab_size": 1,
        "hidden_size": WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 40,
        "max_position_embeddings": 25,
    }
    with torch.random.fork_rng():
        torch.manual_seed(4)
        encoder = BertModel(BertConfig(**{**config, **changes}), add_pooling_layer=pooler).eval()
        with torch.no_grad():
            for name, parameter in encoder.named_parameters():
                if not name.startswith("pooler."):
                    parameter.add_(0.2 * torch.randn_like(parameter))
    return encoder


def linear(rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    return {
        "weight": 0.3 * torch.randn(rows, columns, generator=generator),
        "bias": torch.randn(rows, generator=generator),
    }


def native_backbone():
    """The backbone in HistAI's names."""
    return random_state_dict(
        hidden=HIDDEN, layers=2, token=7, grid=3, registers=4, swiglu=True, width=344, seed=8, std=0.1
    )


def checkpoint_parts(native):
    """The tensors of each part, by their names in it."""
    return {
        "backbone": in_transformers_4_names(native),
        "encoder": dict(bert().state_dict()),
        "projection": linear(WIDTH, HIDDEN, seed=1),
        "classifier": linear(len(CLASS_NAMES), WIDTH, seed=2),
    }


def joined(parts, prefixes=PARTS):
    return {prefixes[part] + name: tensor for part, tensors in parts.items() for name, tensor in tensors.items()}
