"""The configuration's fields: labels that always agree, sizes in range, and what is refused."""

import copy
import re

import pytest
from spider_configurations import HIBOU_L, NAMES, SpiderConfig, all_say, as_file, label_fields
from transformers import Dinov2WithRegistersConfig

ID2LABEL = {0: "Stroma", 1: "Epidermis", 2: "Fat"}
LABEL2ID = {"Stroma": 0, "Epidermis": 1, "Fat": 2}


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


# --- Sizes and the backbone

SIZES = ["context_size", "patch_size", "head_hidden_size", "head_num_hidden_layers", "head_num_attention_heads"]
SIZES += ["head_intermediate_size", "backbone_batch_size"]


@pytest.mark.parametrize("field", SIZES)
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


def test_the_given_objects_stay_as_they_are():
    names, backbone = list(NAMES), {**HIBOU_L, "model_type": "dinov2_with_registers"}
    given = copy.deepcopy((names, backbone))
    config = SpiderConfig(class_names=names, backbone_config=backbone)
    config.class_names.append("Nerves")
    config.backbone_config.hidden_size = 8
    assert (names, backbone) == given
