"""Every field of the configuration has a type and a range, and names that are no field do not pass in silence."""

import json
import time
import warnings

import pytest
from spider_configurations import NAMES, SpiderConfig, as_file, load
from transformers import AutoModel, Dinov2WithRegistersConfig

SIZES = ["context_size", "patch_size", "head_hidden_size", "head_num_hidden_layers", "head_num_attention_heads"]
SIZES += ["head_intermediate_size", "backbone_batch_size"]
BACKBONE_SIZES = ["hidden_size", "num_hidden_layers", "num_attention_heads", "mlp_ratio", "image_size"]
BACKBONE_FLAGS = ["qkv_bias", "use_swiglu_ffn", "apply_layernorm", "reshape_hidden_states"]
BACKBONE_PROBABILITIES = ["hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate"]
BACKBONE_NUMBERS = ["initializer_range", "layer_norm_eps", "layerscale_value"]
NO_NUMBERS = ["0.1", None, True, [0.1], float("nan"), float("inf"), -1e9, 1e9]
BACKBONE_REFUSED = [
    *((field, value) for field in BACKBONE_SIZES for value in (0, -1, 24.0, "24", True, None, [24], 10**6, 10**9)),
    *((field, value) for field in BACKBONE_FLAGS for value in (0, 1, "no", None)),
    *((field, value) for field in BACKBONE_PROBABILITIES for value in (*NO_NUMBERS, 1)),
    *((field, value) for field in BACKBONE_NUMBERS for value in NO_NUMBERS),
    *(("patch_size", value) for value in (-1, 14.0, "14", True, None, 10**9)),
    *(("num_channels", value) for value in (1, 4, 3.0, "3", True, None)),
    *(("num_register_tokens", value) for value in (-1, 4.0, "4", True, None, 10**9)),
    *(("hidden_act", value) for value in (5, None, True, ["gelu"])),
]


@pytest.fixture
def folder(tmp_path):
    """A folder with a saved configuration of three classes and its code."""
    SpiderConfig(class_names=NAMES).save_pretrained(tmp_path)
    return tmp_path


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# --- Ranges


@pytest.mark.parametrize("field", SIZES)
def test_sizes_beyond_all_reason_are_refused(field):
    with pytest.raises(ValueError, match=rf"`{field}` must be at most \d+, got {10**12 + 1}\."):
        SpiderConfig(**{field: 10**12 + 1})


@pytest.mark.parametrize("mpp", [0, -0.5, 0.0005, 1e9, 10**400, float("nan"), "0.5", None, True, [0.5]])
def test_a_pixel_has_a_size_that_a_microscope_can_see(mpp):
    with pytest.raises(ValueError, match=r"`mpp` must be a positive number .* got .*; 0\.01 to 1000 are possible"):
        SpiderConfig(mpp=mpp)


@pytest.mark.parametrize("value", [10**9, 2.0, True])
def test_labels_beyond_all_reason_are_refused(value):
    with pytest.raises(ValueError, match=r"`num_labels` must be .* got"):
        SpiderConfig(num_labels=value)


@pytest.mark.parametrize(("field", "value"), BACKBONE_REFUSED, ids=repr)
def test_each_field_of_the_backbone_is_checked_by_type_and_range(folder, field, value):
    backbone = {**as_file(SpiderConfig())["backbone_config"], field: value}
    config = SpiderConfig()
    ways = {
        "constructor": lambda: SpiderConfig(backbone_config={field: value}),
        "loading": lambda: load(folder, backbone_config={field: value}),
        "file": lambda: edit(folder, backbone_config=backbone) or load(folder),
        "assignment": lambda: setattr(config, "backbone_config", backbone),
    }
    for run in ways.values():
        with pytest.raises(ValueError, match=rf"`backbone_config\.{field}` .*got"):
            run()
    assert as_file(config) == as_file(SpiderConfig())


@pytest.mark.parametrize(("field", "value"), [("num_hidden_layers", 10**6), ("hidden_size", -8), ("qkv_bias", "no")])
def test_a_backbone_that_was_edited_into_nonsense_is_not_saved(tmp_path, field, value):
    config = SpiderConfig()
    config.backbone_config.__dict__[field] = value
    with pytest.raises(ValueError, match=rf"`backbone_config\.{field}` .*got"):
        config.save_pretrained(tmp_path)
    backbone = Dinov2WithRegistersConfig()
    backbone.__dict__[field] = value
    with pytest.raises(ValueError, match=rf"`backbone_config\.{field}` .*got"):
        SpiderConfig(backbone_config=backbone)


@pytest.mark.parametrize("layers", [10**6, 10**9])
def test_a_file_that_claims_a_million_layers_is_refused_before_anything_is_built(folder, layers):
    backbone = json.loads((folder / "config.json").read_text())["backbone_config"]
    for changes in ({"head_num_hidden_layers": layers}, {"backbone_config": backbone | {"num_hidden_layers": layers}}):
        SpiderConfig(class_names=NAMES).save_pretrained(folder)
        edit(folder, **changes)
        start = time.monotonic()
        for auto_load in (lambda: load(folder), lambda: AutoModel.from_pretrained(folder, trust_remote_code=True)):
            with pytest.raises(ValueError, match=f"num_hidden_layers` must be at most 512, got {layers}"):
                auto_load()
        assert time.monotonic() - start < 10


# --- Names

MISSPELT = {
    "freeze_backbon": "freeze_backbone",
    "contextsize": "context_size",
    "head_dropout": "head_dropout_prob",
    "num_attention_heads": "head_num_attention_heads",
    "backbone_confg": "backbone_config",
}


@pytest.mark.parametrize("name", MISSPELT)
def test_a_misspelt_keyword_is_refused_with_the_field_that_was_meant(folder, name):
    message = f"There is no field `{name}`. Did you mean `{MISSPELT[name]}`"
    for run in (
        lambda: SpiderConfig(**{name: 3}),
        lambda: load(folder, **{name: 3}),
        lambda: AutoModel.from_pretrained(folder, trust_remote_code=True, **{name: 3}),
    ):
        with pytest.raises(TypeError, match=message):
            run()


def test_a_misspelt_field_of_the_backbone_is_refused():
    message = "There is no field `backbone_config.num_hiden_layers`. Did you mean `backbone_config.num_hidden_layers`"
    with pytest.raises(TypeError, match=message):
        SpiderConfig(backbone_config={"num_hiden_layers": 3})


def test_a_keyword_that_resembles_no_field_is_kept_with_a_warning():
    with pytest.warns(UserWarning, match=r"SpiderConfig keeps \['colour'\], which have no effect"):
        config = SpiderConfig(colour="pink")
    assert as_file(config)["colour"] == "pink"


def test_a_misspelt_field_of_a_file_is_warned_of(folder):
    edit(folder, freeze_backbon=False)
    with pytest.warns(UserWarning, match=r"config\.json has `freeze_backbon` \(is it `freeze_backbone`\?\)"):
        assert load(folder).freeze_backbone is True


def test_whatever_else_is_in_a_file_is_kept_in_silence(folder):
    foreign = {"spider_tools_version": "0.9", "training": {"epochs": 3}, "task_specific_params": None, "stain": "H&E"}
    edit(folder, **foreign, torch_dtype="float32", is_decoder=False, pruned_heads={}, _commit_hash="abc")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = load(folder)
        copied = SpiderConfig.from_dict(config.to_dict())
        changed = load(folder, stain="IHC")
    assert (config.spider_tools_version, config.training, config.stain) == ("0.9", {"epochs": 3}, "H&E")
    assert as_file(copied) == as_file(config)
    assert changed.stain == "IHC"


def test_what_any_configuration_has_is_no_unknown_name():
    common = {"problem_type": None, "return_dict": False, "architectures": ["A"], "name_or_path": "here"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = SpiderConfig(
            **common, attn_implementation="eager", dtype="float32", training={}, output_attentions=True
        )
        SpiderConfig(**SpiderConfig().to_dict())
    assert config._attn_implementation == "eager"
