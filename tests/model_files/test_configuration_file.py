"""The configuration's file: every version of Transformers reads and writes the same, and loading may change it."""

import copy
import json

import pytest
from spider_configurations import NAMES, SpiderConfig, all_say, as_file, label_fields, load
from transformers import Dinov2WithRegistersConfig

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


@pytest.fixture
def folder(tmp_path):
    """A folder with a saved configuration of three classes and its code."""
    SpiderConfig(class_names=NAMES).save_pretrained(tmp_path)
    return tmp_path


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
