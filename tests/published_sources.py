"""Repositories as the published ones may be: a tiny checkpoint and remote code of its own, in many variants.

The code is written down here from stock Transformers classes and knows nothing of this project.
"""

import json

from independent_dinov2 import in_transformers_4_names, save_folder
from published_checkpoint import CLASS_NAMES, HEADS, HIDDEN, PARTS, SIDE, WIDTH, bert, joined, linear, native_backbone

CONFIGURATION = """
from transformers import PretrainedConfig

class PublishedConfig(PretrainedConfig):
    model_type = "published_spider"

    def __init__(self, class_names=None, **kwargs):
        super().__init__(**kwargs)
        self.class_names = class_names
"""

MODELING = """
from dataclasses import dataclass
from typing import Any, Optional

import torch
from torch import nn
from transformers import BertConfig, BertModel, Dinov2WithRegistersConfig, Dinov2WithRegistersModel, PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_published import PublishedConfig

WIDTH, HIDDEN, SIDE, CLASSES = {width}, {hidden}, {side}, {classes}


@dataclass
class PublishedOutput(ModelOutput):
    logits: Optional[torch.Tensor] = None
    label: Optional[torch.Tensor] = None
    predicted_class_names: Any = None


class PublishedModel(PreTrainedModel):
    config_class = PublishedConfig

    def __init__(self, config):
        super().__init__(config)
        self.feature_extractor = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(
            hidden_size=HIDDEN, num_hidden_layers=2, num_attention_heads={backbone_heads}, mlp_ratio=4,
            use_swiglu_ffn=True, patch_size=7, image_size=SIDE, num_register_tokens=4, layer_norm_eps=1e-6))
        self.projector = nn.Linear(HIDDEN, WIDTH)
        self.bert = BertModel(BertConfig(
            vocab_size=1, hidden_size=WIDTH, num_hidden_layers={layers}, num_attention_heads={heads},
            intermediate_size=40, max_position_embeddings=25, hidden_act="{activation}"), add_pooling_layer={pooler})
        self.classifier = nn.Linear({classifier_width}, CLASSES)
        self.post_init()

    def forward(self, pixel_values):
        if pixel_values.ndim == 4:
            n = len(pixel_values)
            pixel_values = pixel_values.reshape(n, 3, 5, SIDE, 5, SIDE).permute(0, 2, 4, 1, 3, 5)
        patches = pixel_values.reshape(-1, 25, 3, SIDE, SIDE)
        n = len(patches)
        features = self.feature_extractor(patches.reshape(-1, 3, SIDE, SIDE))
        embeddings = ({embedding}).reshape(n, 25, HIDDEN)
        order = {order}
        embeddings = embeddings[:, order]
        x = self.projector(embeddings)
        center = order.index(12)
        types = torch.full((n, 25), {token_type}, dtype=torch.long)
        types[:, center] = {center_type}
        out = self.bert(inputs_embeds=x, token_type_ids=types)
        h = out.last_hidden_state
        read = {read}
        logits = self.classifier(read){after}
        label = logits.argmax(-1)
        names = {names}
        return PublishedOutput(logits=logits, label=label, predicted_class_names=[names[i] for i in label.tolist()])
"""

PROCESSING = """
import numpy as np
import torch
from transformers import BaseImageProcessor, BatchFeature

SIDE = {side}


class PublishedImageProcessor(BaseImageProcessor):
    model_input_names = ["pixel_values"]

    def preprocess(self, images, return_tensors=None, **kwargs):
        images = images if isinstance(images, list) else [images]
        regions = []
        for image in images:
            pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
            top, left = (pixels.shape[0] - 5 * SIDE) // 2, (pixels.shape[1] - 5 * SIDE) // 2
            pixels = pixels[top : top + 5 * SIDE, left : left + 5 * SIDE] / 255
            pixels = (pixels - np.array({mean}, np.float32)) / np.array({std}, np.float32)
            region = torch.from_numpy(pixels).permute(2, 0, 1)
            regions.append({tiles})
        return BatchFeature({{"pixel_values": torch.stack(regions)}})
"""

ROWS = list(range(25))
COLUMNS = [5 * (i % 5) + i // 5 for i in range(25)]
AROUND = [i for i in ROWS if i != 12]
PLAIN = {
    "heads": 1,
    "layers": 1,
    "backbone_heads": HEADS,
    "activation": "gelu",
    "pooler": False,
    "classifier_width": "WIDTH",
    "embedding": "features.pooler_output",
    "order": ROWS,
    "token_type": 0,
    "center_type": 0,
    "read": "h[:, center]",
    "after": "",
    "names": "self.config.class_names",
    "mean": (0.7068, 0.5755, 0.7220),
    "std": (0.1950, 0.2316, 0.1816),
    "tiles": "region",
}
DENSE = "torch.tanh(self.bert.pooler.dense({}))"
# What the published code may be. `weights` says which of the tensors are others than in the plain one.
EXPRESSIBLE = {
    "plain": {},
    "centre first, token 0": {"order": [12, *AROUND], "read": "h[:, 0]"},
    "mean over tokens": {"read": "h.mean(1)"},
    "centre of token type 1": {"center_type": 1},
    "context of token type 1": {"token_type": 1},
    "column-major": {"order": COLUMNS},
    "four heads unstated": {"heads": 4, "config": {"heads": None}},
    "fresh pooler is read": {"pooler": True, "read": "out.pooler_output", "weights": "fresh pooler"},
    "fresh pooler is not read": {"pooler": True, "weights": "fresh pooler"},
    "residual": {"read": "(h + x)[:, center]"},
    "residual and mean": {"read": "(h + x).mean(1)"},
    "trained pooler on the corner": {"pooler": True, "read": "out.pooler_output", "weights": "pooler"},
    "trained pooler on the centre": {"pooler": True, "order": [12, *AROUND], "read": "out.pooler_output",
                                     "weights": "pooler"},
    "trained pooler on the mean": {"pooler": True, "read": DENSE.format("h.mean(1)"), "weights": "pooler"},
    "the corner": {"read": "h[:, 0]"},
    "centre last": {"order": [*AROUND, 12], "read": "h[:, -1]"},
    "column-major, centre first, of type 1": {"order": [12, *(i for i in COLUMNS if i != 12)], "center_type": 1,
                                              "read": "h[:, 0]"},
    "from below": {"order": [5 * (4 - i // 5) + i % 5 for i in ROWS]},
    "embedding before": {"classifier_width": "HIDDEN + WIDTH", "weights": "wide",
                         "read": "torch.cat([embeddings[:, center], h[:, center]], -1)"},
    "projection after": {"classifier_width": "2 * WIDTH", "weights": "double",
                         "read": "torch.cat([h[:, center], x[:, center]], -1)"},
    "colours of its own": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    "patches column by column": {
        "order": ROWS,
        "tiles": "region.reshape(3, 5, SIDE, 5, SIDE).permute(3, 1, 0, 2, 4).reshape(25, 3, SIDE, SIDE)",
    },
    "two layers, three heads, in shards": {"layers": 2, "heads": 3, "weights": "two layers", "shards": 3},
    "class token by hand": {"embedding": "features.last_hidden_state[:, 0]"},
}  # fmt: skip
INEXPRESSIBLE = {
    "maximum over tokens": {"read": "h.max(1).values"},
    "another corner": {"read": "h[:, 4]"},
    "mean of the backbone's tokens": {"embedding": "features.last_hidden_state[:, 5:].mean(1)"},
    "another activation": {"activation": "relu"},
    "softened logits": {"after": " / 2"},
    "probabilities": {"after": ".softmax(-1)"},
    "tokens in a snake": {"order": [5 * (i // 5) + (i % 5 if i // 5 % 2 == 0 else 4 - i % 5) for i in ROWS]},
    "other heads in the backbone": {"backbone_heads": 4},
}
REFUSED_BY_PIXELS = {
    "mirrored regions": {"tiles": "region.flip(2)"},
    "values up to 255": {"mean": (-0.1, -0.1, -0.1), "std": (1 / 255, 1 / 255, 1 / 255)},
    "clipped values": {"tiles": "region.clamp(-1, 1)"},
    "a thumbnail made large": {"tiles": "region[:, 1::3, 1::3].repeat_interleave(3, 1).repeat_interleave(3, 2)"},
}


def write_source(folder, recipe, shards=1, auto_map_prefix=""):
    """Write a repository, config, code and safetensors; returns its path as a string."""
    recipe = dict(recipe)
    config, weights, shards = recipe.pop("config", {}), recipe.pop("weights", None), recipe.pop("shards", shards)
    recipe = PLAIN | recipe
    head = {"hidden_size": WIDTH, "num_attention_heads": config.get("heads", recipe["heads"])}
    content = {
        "architectures": ["PublishedModel"],
        "model_type": "published_spider",
        "auto_map": {
            "AutoConfig": f"{auto_map_prefix}configuration_published.PublishedConfig",
            "AutoModel": f"{auto_map_prefix}modeling_published.PublishedModel",
        },
        "class_names": CLASS_NAMES,
        "id2label": {str(i): f"LABEL_{i}" for i in range(len(CLASS_NAMES))},
        "backbone": {"hidden_size": HIDDEN, "num_attention_heads": HEADS},
        **({"head": head} if head["num_attention_heads"] else {}),
    }
    save_folder(folder, tensors_of(weights, recipe), content, shards)
    sizes = {"width": WIDTH, "hidden": HIDDEN, "side": SIDE, "classes": len(CLASS_NAMES)}
    (folder / "configuration_published.py").write_text(CONFIGURATION)
    (folder / "modeling_published.py").write_text(MODELING.format(**sizes, **recipe))
    (folder / "processing_published.py").write_text(PROCESSING.format(**sizes, **recipe))
    preprocessor = {
        "image_processor_type": "PublishedImageProcessor",
        "auto_map": {"AutoImageProcessor": f"{auto_map_prefix}processing_published.PublishedImageProcessor"},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return str(folder)


def tensors_of(weights, recipe):
    """The tensors of a repository, by their names in it."""
    layers = {"num_hidden_layers": 2} if weights == "two layers" else {}
    encoder = dict(bert(pooler=recipe["pooler"], **layers).state_dict())
    if weights == "pooler":
        dense = linear(WIDTH, WIDTH, seed=5)
        encoder |= {f"pooler.dense.{name}": tensor for name, tensor in dense.items()}
    columns = {"wide": HIDDEN + WIDTH, "double": 2 * WIDTH}.get(weights, WIDTH)
    parts = {
        "backbone": in_transformers_4_names(native_backbone()),
        "encoder": encoder,
        "projection": linear(WIDTH, HIDDEN, seed=1),
        "classifier": linear(len(CLASS_NAMES), columns, seed=2),
    }
    return {name: tensor.clone() for name, tensor in joined(parts, PARTS).items()}
