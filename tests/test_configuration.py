"""The configuration: what it holds, what it refuses, and that every version of Transformers reads and writes the same.

The expected architecture is written down here by hand, from the paper's Table A2 and the published facts of Hibou-L.
"""

import copy
import json
import os
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, BertModel, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from spider_tools import remote_code

ROOT = Path(__file__).resolve().parent.parent
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
NAMES = ["Stroma", "Epidermis", "Fat"]  # not alphabetical: the order is the logits'
ID2LABEL = {0: "Stroma", 1: "Epidermis", 2: "Fat"}
LABEL2ID = {"Stroma": 0, "Epidermis": 1, "Fat": 2}
HIBOU_L = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "mlp_ratio": 4,
    "image_size": 224,
    "patch_size": 14,
    "num_channels": 3,
    "num_register_tokens": 4,
    "use_swiglu_ffn": True,
    "layerscale_value": 1.0,
    "layer_norm_eps": 1e-6,
    "qkv_bias": True,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "drop_path_rate": 0.0,
}
# What each version of Transformers adds to the backbone's fields when it writes them by itself.
ADDED_BY_TRANSFORMERS = {
    "4.57.6": {"out_features": ["stage24"], "out_indices": [24], "stage_names": ["stem"], "layer_norm_eps": 1e-06},
    "5.23.0": {
        "_name_or_path": "",
        "architectures": None,
        "chunk_size_feed_forward": 0,
        "dtype": None,
        "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
        "label2id": {"LABEL_0": 0, "LABEL_1": 1},
        "is_encoder_decoder": False,
        "out_features": ["stage24"],
        "out_indices": [24],
        "output_attentions": False,
        "output_hidden_states": False,
        "problem_type": None,
        "return_dict": True,
    },
}

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


@pytest.fixture
def folder(tmp_path):
    """A folder with a saved configuration of three classes and its code."""
    SpiderConfig(class_names=NAMES).save_pretrained(tmp_path)
    return tmp_path


def load(folder, **changes):
    return AutoConfig.from_pretrained(folder, trust_remote_code=True, **changes)


def as_file(config):
    return json.loads(config.to_json_string())


# --- The published architecture


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


# --- Class names


@pytest.mark.parametrize(
    "labels",
    [
        {"class_names": NAMES},
        {"class_names": tuple(NAMES)},
        {"id2label": ID2LABEL},
        {"id2label": {"2": "Fat", "0": "Stroma", "1": "Epidermis"}},  # JSON makes strings of keys, in any order
        {"label2id": {"Fat": 2, "Stroma": 0, "Epidermis": 1}},
        {"id2label": ID2LABEL, "label2id": LABEL2ID, "num_labels": 3},
        {"class_names": NAMES, "id2label": ID2LABEL, "label2id": LABEL2ID, "num_labels": 3},
    ],
    ids=lambda labels: "+".join(labels),
)
def test_all_label_fields_agree_whichever_is_given(labels):
    assert label_fields(SpiderConfig(**labels)) == all_say(NAMES)


def test_more_than_ten_classes_keep_their_order_through_the_strings_of_json():
    names = [f"class {letter}" for letter in "nmlkjihgfedcba"]
    by_string = sorted((str(index), name) for index, name in enumerate(names))
    assert [index for index, _ in by_string[:3]] == ["0", "1", "10"]
    assert SpiderConfig(id2label=dict(by_string)).class_names == names


def test_a_number_of_labels_alone_gives_generic_names():
    assert label_fields(SpiderConfig(num_labels=3)) == all_say(["LABEL_0", "LABEL_1", "LABEL_2"])
    assert label_fields(SpiderConfig()) == all_say(["LABEL_0", "LABEL_1"])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            {"class_names": NAMES, "id2label": {0: "Stroma", 1: "Fat", 2: "Epidermis"}},
            "`id2label` contradicts `class_n",
        ),
        (
            {"class_names": NAMES, "label2id": {"Stroma": 1, "Epidermis": 0, "Fat": 2}},
            "`label2id` contradicts `class_n",
        ),
        (
            {"id2label": ID2LABEL, "label2id": {"Stroma": 2, "Epidermis": 1, "Fat": 0}},
            "`label2id` contradicts `id2labe",
        ),
        ({"class_names": NAMES, "num_labels": 4}, "`num_labels` is 4, but `class_names` names 3 classes"),
        ({"id2label": ID2LABEL, "num_labels": 2}, "`num_labels` is 2, but `id2label` names 3 classes"),
        ({"class_names": ["Fat", "Fat"]}, "`class_names` must name at least one class, each by a different"),
        ({"class_names": ["Fat", ""]}, "different, non-empty string"),
        ({"class_names": ["Fat", 3]}, "different, non-empty string"),
        ({"class_names": []}, "at least one class"),
        ({"class_names": "Fat"}, "`class_names` must be a list of strings, got 'Fat'"),
        ({"id2label": {}}, "`id2label` must name at least one class"),
        ({"id2label": ["Fat", "Stroma"]}, "`id2label` must be a dict"),
        ({"label2id": ["Fat", "Stroma"]}, "`label2id` must be a dict"),
        ({"id2label": {1: "Fat", 2: "Stroma"}}, r"`id2label` must number its classes 0 to 1, got \[1, 2\]"),
        ({"id2label": {"0": "Fat", 0: "Stroma"}}, r"`id2label` must number its classes 0 to 1, got \['0', 0\]"),
        ({"id2label": {"first": "Fat"}}, r"`id2label` must number its classes 0 to 0, got \['first'\]"),
        ({"id2label": {0.0: "Fat"}}, r"`id2label` must number its classes 0 to 0, got \[0.0\]"),
        ({"label2id": {"Fat": 0, "Stroma": 0}}, r"`label2id` must number its classes 0 to 1, got \[0, 0\]"),
        ({"label2id": {"Fat": 0, "Stroma": 1.5}}, "`label2id` must number its classes 0 to 1"),
        ({"label2id": {"Fat": None}}, "`label2id` must number its classes 0 to 0"),
        ({"num_labels": 0}, "`num_labels` must be a positive integer, got 0"),
        ({"num_labels": -2}, "`num_labels` must be a positive integer, got -2"),
        ({"num_labels": "3"}, "`num_labels` must be a positive integer, got '3'"),
    ],
)
def test_labels_that_contradict_or_miss_each_other_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        SpiderConfig(**labels)


@pytest.mark.parametrize(
    ("field", "value", "names"),
    [
        ("class_names", ["Alveoli", "Detritus", "Fibrosis"], ["Alveoli", "Detritus", "Fibrosis"]),
        ("id2label", {2: "Fibrosis", 0: "Alveoli", 1: "Detritus"}, ["Alveoli", "Detritus", "Fibrosis"]),
        ("num_labels", 3, ["LABEL_0", "LABEL_1", "LABEL_2"]),
        ("num_labels", 2, ["Pigment", "Pleura"]),
        ("label2id", {"Pleura": 1, "Pigment": 0}, ["Pigment", "Pleura"]),
    ],
)
def test_setting_one_label_field_moves_the_others(field, value, names):
    config = SpiderConfig(class_names=["Pigment", "Pleura"])
    setattr(config, field, value)
    assert label_fields(config) == all_say(names)


def test_setting_a_contradiction_is_refused_and_changes_nothing():
    config = SpiderConfig(class_names=NAMES)
    with pytest.raises(ValueError, match="`label2id` contradicts `class_names`"):
        config.label2id = {"Stroma": 2, "Epidermis": 1, "Fat": 0}
    with pytest.raises(ValueError, match="non-empty string"):
        config.class_names = ["Fat", "Fat"]
    assert label_fields(config) == all_say(NAMES)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda config: config.class_names.append("Nerves"), "`id2label` contradicts `class_names`"),
        (lambda config: config.id2label.update({0: "Nerves"}), "`id2label` contradicts `class_names`"),
        (lambda config: config.label2id.update(Fat=0), "`label2id` must number its classes 0 to 2"),
        (lambda config: setattr(config, "context_size", 4), "`context_size` must be odd"),
        (lambda config: setattr(config.backbone_config, "image_size", 112), "must equal `backbone_config.image_size`"),
    ],
    ids=["class_names", "id2label", "label2id", "context_size", "backbone"],
)
def test_a_configuration_edited_into_nonsense_is_not_saved(tmp_path, edit, message):
    config = SpiderConfig(class_names=list(NAMES))
    config.save_pretrained(tmp_path)
    before = (tmp_path / "config.json").read_text()
    edit(config)
    with pytest.raises(ValueError, match=message):
        config.save_pretrained(tmp_path)
    assert (tmp_path / "config.json").read_text() == before


def test_the_given_objects_stay_as_they_are():
    names, backbone = list(NAMES), {**HIBOU_L, "model_type": "dinov2_with_registers"}
    given = copy.deepcopy((names, backbone))
    config = SpiderConfig(class_names=names, backbone_config=backbone)
    config.class_names.append("Nerves")
    config.backbone_config.hidden_size = 8
    assert (names, backbone) == given


# --- Sizes


@pytest.mark.parametrize(
    "field",
    [
        "context_size",
        "patch_size",
        "head_hidden_size",
        "head_num_hidden_layers",
        "head_num_attention_heads",
        "head_intermediate_size",
        "backbone_batch_size",
    ],
)
@pytest.mark.parametrize("value", [0, -1, 5.0, "5", True, None])
def test_sizes_are_positive_integers(field, value):
    with pytest.raises(ValueError, match=re.escape(f"`{field}` must be a positive integer, got {value!r}.")):
        SpiderConfig(**{field: value})


@pytest.mark.parametrize(
    "field", ["head_hidden_dropout_prob", "head_attention_probs_dropout_prob", "head_dropout_prob"]
)
@pytest.mark.parametrize("value", [-0.1, 1, float("nan"), "0.5", None, False])
def test_dropouts_are_probabilities_below_one(field, value):
    with pytest.raises(ValueError, match=re.escape(f"`{field}` must lie in [0, 1), got {value!r}.")):
        SpiderConfig(**{field: value})
    assert getattr(SpiderConfig(**{field: 0}), field) == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"context_size": 4}, "`context_size` must be odd, so that one patch is the centre, got 4"),
        ({"mpp": 0}, "`mpp` must be a positive number of micrometres per pixel, got 0"),
        ({"mpp": float("nan")}, "`mpp` must be a positive number .* got nan"),
        ({"mpp": float("inf")}, "`mpp` must be a positive number .* got inf"),
        ({"mpp": "0.5"}, "`mpp` must be a positive number .* got '0.5'"),
        ({"freeze_backbone": "false"}, "`freeze_backbone` must be True or False, got 'false'"),
        ({"head_hidden_size": 100, "head_num_attention_heads": 3}, r"`head_hidden_size` \(100\) must be a multiple of"),
        ({"patch_size": 112}, r"`patch_size` \(112\) must equal `backbone_config.image_size` \(224\)"),
        (
            {"backbone_config": {"image_size": 112}},
            r"`patch_size` \(224\) must equal `backbone_config.image_size` \(112",
        ),
        ({"backbone_config": {"patch_size": 15}}, r"must be a multiple of .* `backbone_config.patch_size` \(15\)"),
        ({"backbone_config": {"patch_size": 0}}, r"must be a multiple of .* `backbone_config.patch_size` \(0\)"),
        ({"backbone_config": {"num_channels": 4}}, "`backbone_config.num_channels` must be 3, got 4"),
        ({"backbone_config": {"model_type": "vit"}}, "must have the model_type 'dinov2_with_registers', got 'vit'"),
        (
            {"backbone_config": "histai/hibou-L"},
            "`backbone_config` must be a dict or a Dinov2WithRegistersConfig, got s",
        ),
    ],
)
def test_fields_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        SpiderConfig(**fields)


def test_a_backbone_may_be_given_as_dict_or_as_configuration():
    fields = {"hidden_size": 64, "image_size": 56, "patch_size": 7}
    from_dict = SpiderConfig(patch_size=56, backbone_config=fields)
    from_object = SpiderConfig(patch_size=56, backbone_config=Dinov2WithRegistersConfig(**fields))
    assert as_file(from_dict) == as_file(from_object)
    assert from_dict.backbone_config.hidden_size == 64
    from_dict.backbone_config = {"hidden_size": 32, "image_size": 56}
    assert isinstance(from_dict.backbone_config, Dinov2WithRegistersConfig)


# --- Loading with changes


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, NAMES),
        ({"num_labels": 3}, NAMES),
        ({"num_labels": 2}, ["LABEL_0", "LABEL_1"]),
        ({"id2label": {0: "Mucus", 1: "Muscle"}}, ["Mucus", "Muscle"]),
        ({"id2label": {"1": "Muscle", "0": "Mucus"}, "num_labels": 2}, ["Mucus", "Muscle"]),
        ({"label2id": {"Muscle": 1, "Mucus": 0}}, ["Mucus", "Muscle"]),
        ({"class_names": ["Mucus", "Muscle"], "num_labels": 2}, ["Mucus", "Muscle"]),
        ({"id2label": {0: "Mucus", 1: "Muscle"}, "label2id": {"Mucus": 0, "Muscle": 1}}, ["Mucus", "Muscle"]),
        ({"id2label": None, "label2id": None, "num_labels": None}, NAMES),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_labels_given_when_loading_replace_those_of_the_file(folder, changes, names):
    assert label_fields(load(folder, **changes)) == all_say(names)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id2label": {0: "Mucus", 1: "Muscle"}, "num_labels": 3}, "`num_labels` is 3, but `id2label` names 2"),
        ({"id2label": {0: "Mucus"}, "label2id": {"Muscle": 0}}, "`label2id` contradicts `id2label`"),
        ({"class_names": ["Mucus"], "id2label": {0: "Muscle"}}, "`id2label` contradicts `class_names`"),
        ({"context_size": 4}, "`context_size` must be odd"),
        ({"patch_size": 112}, "must equal `backbone_config.image_size`"),
        ({"head_dropout_prob": 2}, r"`head_dropout_prob` must lie in \[0, 1\)"),
        ({"backbone_config": {"image_size": 112}}, "must equal `backbone_config.image_size`"),
        ({"backbone_config": {"model_type": "vit"}}, "must have the model_type"),
    ],
)
def test_contradictions_given_when_loading_are_refused(folder, changes, message):
    with pytest.raises(ValueError, match=message):
        load(folder, **changes)


def test_sizes_given_when_loading_replace_those_of_the_file(folder):
    config, unused = load(
        folder,
        context_size=3,
        patch_size=112,
        backbone_config={"image_size": 112, "num_hidden_layers": 2},
        another_option=1,
        return_unused_kwargs=True,
    )
    assert (config.context_size, config.patch_size, config.class_names) == (3, 112, NAMES)
    assert (config.backbone_config.num_hidden_layers, config.backbone_config.hidden_size) == (2, 1024)
    assert unused == {"another_option": 1}


@pytest.mark.parametrize(
    ("field", "value"), [("id2label", {"0": "Mucus"}), ("label2id", {"Mucus": 0}), ("num_labels", 9)]
)
def test_a_file_that_contradicts_itself_is_not_loaded(folder, field, value):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(ValueError, match=f"`{field}`"):
        load(folder)


# --- The file


def test_everything_survives_saving_and_loading(tmp_path):
    changed = {
        "context_size": 7,
        "patch_size": 56,
        "mpp": 0.25,
        "head_hidden_size": 48,
        "head_num_hidden_layers": 2,
        "head_num_attention_heads": 3,
        "head_intermediate_size": 96,
        "head_hidden_dropout_prob": 0.25,
        "head_attention_probs_dropout_prob": 0.125,
        "head_dropout_prob": 0.0,
        "backbone_batch_size": 3,
        "freeze_backbone": False,
    }
    backbone = {"image_size": 56, "patch_size": 7, "hidden_size": 96, "mlp_ratio": 2, "use_swiglu_ffn": True}
    config = SpiderConfig(class_names=NAMES, backbone_config=backbone, **changed)
    config.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert {field: getattr(loaded, field) for field in changed} == changed
    assert {field: getattr(loaded.backbone_config, field) for field in backbone} == backbone
    assert label_fields(loaded) == all_say(NAMES)
    assert as_file(loaded) == as_file(config)


@pytest.mark.parametrize("version", ADDED_BY_TRANSFORMERS)
def test_a_file_with_the_keys_of_either_version_of_transformers_loads_and_is_tidied(folder, version):
    path = folder / "config.json"
    tidy = json.loads(path.read_text())
    added = {
        "backbone_config": tidy["backbone_config"] | ADDED_BY_TRANSFORMERS[version],
        "transformers_version": version,
    }
    path.write_text(json.dumps(tidy | added))
    load(folder).save_pretrained(folder)
    assert json.loads(path.read_text()) == tidy


def test_the_file_does_not_say_where_the_backbone_came_from(tmp_path):
    elsewhere = tmp_path / "home" / "somebody" / "hibou"
    SpiderConfig().backbone_config.save_pretrained(elsewhere)
    backbone = Dinov2WithRegistersConfig.from_pretrained(elsewhere)
    backbone.name_or_path = str(elsewhere)
    SpiderConfig(backbone_config=backbone).save_pretrained(tmp_path)
    assert "somebody" not in (tmp_path / "config.json").read_text()


def test_a_loaded_configuration_forgets_the_repository_it_came_from(folder):
    path = folder / "config.json"
    fields = json.loads(path.read_text())
    fields["auto_map"] = {auto: f"histai/SPIDER-skin-model--{code}" for auto, code in fields["auto_map"].items()}
    assert "--" not in json.dumps(as_file(SpiderConfig.from_dict(fields)))


def test_copies_are_equal_and_apart():
    config = SpiderConfig(class_names=NAMES)
    copied = copy.deepcopy(config)
    assert as_file(copied) == as_file(config)
    copied.class_names = ["Fat"]
    copied.backbone_config.hidden_size = 8
    assert label_fields(config) == all_say(NAMES)
    assert config.backbone_config.hidden_size == 1024


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
