"""What the tests of the configuration share: Hibou-L's published sizes, three classes, and what label fields say."""

import json

from transformers import AutoConfig

from spider_tools import remote_code

NAMES = ["Stroma", "Epidermis", "Fat"]  # not alphabetical: the order is the logits'
HIBOU_L = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "mlp_ratio": 4, "image_size": 224}
HIBOU_L |= {"patch_size": 14, "num_channels": 3, "num_register_tokens": 4, "use_swiglu_ffn": True, "qkv_bias": True}
HIBOU_L |= {"layerscale_value": 1.0, "layer_norm_eps": 1e-6, "hidden_dropout_prob": 0.0}
HIBOU_L |= {"attention_probs_dropout_prob": 0.0, "drop_path_rate": 0.0}

SpiderConfig = remote_code.config_class()


def label_fields(config):
    return config.class_names, config.id2label, config.label2id, config.num_labels


def all_say(names):
    return (
        names,
        {index: name for index, name in enumerate(names)},
        {name: index for index, name in enumerate(names)},
        len(names),
    )


def load(folder, **changes):
    return AutoConfig.from_pretrained(folder, trust_remote_code=True, **changes)


def as_file(config):
    return json.loads(config.to_json_string())
