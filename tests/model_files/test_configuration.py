"""The published architecture: that of the defaults, and that of the repository's own config.json.

The expected architecture is written down here by hand, from the paper's Table A2 and the published facts of Hibou-L.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from spider_configurations import HIBOU_L, SpiderConfig, all_say, as_file, label_fields, load
from transformers import BertModel, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from spider_tools import remote_code

ROOT = Path(__file__).resolve().parents[2]
COLORECTAL = [
    "Adenocarcinoma high grade",
    "Adenocarcinoma low grade",
    "Adenoma high grade",
    "Adenoma low grade",
    "Fat",
    "Hyperplastic polyp",
    "Inflammation",
    "Mucus",
    "Muscle",
    "Necrosis",
    "Sessile serrated lesion",
    "Stroma healthy",
    "Vessels",
]


# --- The defaults


def test_the_default_backbone_is_hibou_l():
    backbone = SpiderConfig().backbone_config
    assert isinstance(backbone, Dinov2WithRegistersConfig)
    assert {field: getattr(backbone, field) for field in HIBOU_L} == HIBOU_L


def test_the_default_backbone_has_the_parameters_of_hibou_l():
    with torch.device("meta"):
        backbone = Dinov2WithRegistersModel(SpiderConfig().backbone_config)
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 303_659_264
    shapes = {tuple(parameter.shape) for parameter in backbone.parameters()}
    assert {(1, 257, 1024), (1, 4, 1024), (1024, 3, 14, 14), (1024, 2736)} <= shapes


def test_the_default_head_is_that_of_the_paper():
    config = SpiderConfig(class_names=COLORECTAL)
    bert = config.context_encoder_config()
    assert (config.context_size, config.patch_size, config.mpp) == (5, 224, 0.5)
    assert (bert.hidden_size, bert.num_hidden_layers, bert.num_attention_heads, bert.intermediate_size) == (
        128,
        1,
        1,
        128,
    )
    assert bert.max_position_embeddings == 25
    assert (bert.hidden_dropout_prob, bert.attention_probs_dropout_prob, config.head_dropout_prob) == (0.5, 0.3, 0.3)
    assert config.freeze_backbone is True


def test_the_published_model_has_303_9_million_parameters():
    config = SpiderConfig.from_pretrained(ROOT)
    with torch.device("meta"):
        model = remote_code.model_class()(config)
    linear = 128 * 128 + 128
    projection, classifier = 1024 * 128 + 128, 128 * 13 + 13
    embeddings = (1 + 25 + 2) * 128 + 2 * 128  # words, positions, token types, layer norm
    layer = 4 * linear + 2 * 128 + 2 * linear + 2 * 128
    total = sum(parameter.numel() for parameter in model.parameters())
    assert total == 303_659_264 + projection + embeddings + layer + classifier
    assert round(total / 1e6, 1) == 303.9


@pytest.mark.parametrize(
    ("context_size", "patches", "center", "region"),
    [(1, 1, 0, 224), (3, 9, 4, 672), (5, 25, 12, 1120), (7, 49, 24, 1568)],
)
def test_the_context_size_decides_the_grid_and_the_positions(context_size, patches, center, region):
    config = SpiderConfig(context_size=context_size)
    assert (config.num_context_patches, config.center_index, config.region_size) == (patches, center, region)
    assert config.context_encoder_config().max_position_embeddings == patches


def test_the_head_fields_reach_the_encoder():
    config = SpiderConfig(
        head_hidden_size=24,
        head_num_hidden_layers=3,
        head_num_attention_heads=4,
        head_intermediate_size=40,
        head_hidden_dropout_prob=0.1,
        head_attention_probs_dropout_prob=0.2,
    )
    encoder = BertModel(config.context_encoder_config(), add_pooling_layer=False)
    assert len(encoder.encoder.layer) == 3
    assert encoder.encoder.layer[0].intermediate.dense.weight.shape == (40, 24)
    assert encoder.encoder.layer[0].attention.self.num_attention_heads == 4
    assert encoder.embeddings.dropout.p == 0.1
    assert encoder.encoder.layer[0].attention.self.dropout.p == 0.2


# --- The repository's own config.json


def test_the_config_of_the_repository_is_what_saving_the_published_architecture_gives(tmp_path):
    SpiderConfig(class_names=COLORECTAL, architectures=["SpiderForImageClassification"]).save_pretrained(tmp_path)
    generated = json.loads((tmp_path / "config.json").read_text())
    # The version that happened to write the file says nothing of the model, which loads in all.
    del generated["transformers_version"]
    assert json.loads((ROOT / "config.json").read_text()) == generated


def test_the_config_of_the_repository_names_the_published_classes_and_its_code():
    fields = json.loads((ROOT / "config.json").read_text())
    assert fields["class_names"] == COLORECTAL
    assert fields["auto_map"] == {
        "AutoConfig": "configuration_spider.SpiderConfig",
        "AutoModel": "modeling_spider.SpiderForImageClassification",
        "AutoModelForImageClassification": "modeling_spider.SpiderForImageClassification",
    }
    assert fields["architectures"] == ["SpiderForImageClassification"]
    written = {field: fields["backbone_config"][field] for field in HIBOU_L}
    assert written == HIBOU_L


def test_the_config_of_the_repository_loads_through_auto_config():
    config = load(ROOT)
    assert type(config).__name__ == "SpiderConfig"
    assert label_fields(config) == all_say(COLORECTAL)
    assert os.fspath(ROOT) not in json.dumps(as_file(config))
