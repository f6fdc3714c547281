"""Tensors and configurations that are no backbone, or not one, are refused by the names of what is wrong."""

from functools import partial

import pytest
import torch
from independent_dinov2 import in_transformers_4_names
from small_backbones import CONFIG, native, save_pth, write_folder

from spider_tools.weights.loading import load_backbone


@pytest.fixture
def saved(tmp_path):
    """`saved(content, name)`: the path of a torch.save file."""
    return partial(save_pth, tmp_path)


def without(*names):
    return lambda state: {name: tensor for name, tensor in state.items() if name not in names}


def changed(name, tensor):
    return lambda state: state | {name: tensor}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("blocks.1.attn.qkv.weight"), "missing: blocks.1.attn.qkv.weight.$"),
        (without("cls_token", "norm.bias"), "missing: cls_token, norm.bias.$"),
        (without("pos_embed"), "missing: pos_embed"),
        (without("blocks.0.ls1.gamma"), "missing: blocks.0.ls1.gamma.$"),
        (without("blocks.1.attn.qkv.bias"), "missing: blocks.1.attn.qkv.bias.$"),
        (changed("head.weight", torch.ones(3)), "unused: head.weight.$"),
        (changed("blocks.0.attn.gate", torch.ones(3)), "unused: blocks.0.attn.gate.$"),
        (changed("blocks.00.norm1.weight", torch.ones(128)), "unused: blocks.00.norm1.weight.$"),
        (changed("blocks.1.mlp.fc1.bias", torch.ones(3)), "unused: blocks.1.mlp.fc1.bias.$"),
        (changed("norm.bias", torch.ones(127)), r"mis-shaped: norm.bias .*\(127,\), expected \(128,\).$"),
        (
            changed("blocks.1.attn.qkv.weight", torch.ones(385, 128)),
            r"mis-shaped: blocks.1.attn.qkv.weight \(385, 128\), expected 3 equal parts.$",
        ),
        (
            changed("blocks.1.attn.qkv.weight", torch.ones(387, 128)),
            r"mis-shaped: blocks.1.attn.qkv.weight .*k_proj.weight\) \(129, 128\), expected \(128, 128\)",
        ),
        (changed("register_tokens", torch.ones(1, 4, 64)), r"register_tokens .*\(1, 4, 64\), expected \(1, 4, 128\)"),
        (changed("register_tokens", torch.ones(4)), r"mis-shaped: register_tokens \(4,\), expected 3 axes"),
        (changed("pos_embed", torch.ones(1, 9, 128)), r"pos_embed .*\(1, 9, 128\), expected \(1, 5, 128\)"),
        (changed("norm.bias", torch.ones(128, dtype=torch.int8)), "not of floating point: norm.bias torch.int8"),
        (changed("norm.bias", torch.full((128,), torch.nan)), "not finite: norm.bias"),
        (changed("patch_embed.proj.weight", torch.ones(128, 3, 7)), "expected 4 axes"),
    ],
)
def test_a_state_dict_that_does_not_fit_is_refused_by_name(saved, change, message):
    with pytest.raises(ValueError, match=message):
        load_backbone(saved(change(native())))


def test_missing_unused_and_mis_shaped_names_are_listed_together(tmp_path):
    tensors = in_transformers_4_names(native())
    del tensors["encoder.layer.1.mlp.weights_in.bias"]
    tensors["classifier.weight"] = torch.ones(2, 128)
    tensors["layernorm.weight"] = torch.ones(5)
    with pytest.raises(
        ValueError,
        match=r"missing: enc.*1.mlp.weights_in.bias; unused: classifier.weight; mis-shaped: layernorm.weight .*",
    ):
        load_backbone(write_folder(tmp_path / "hibou", tensors))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_hidden_layers": 3}, "missing: encoder.layer.2.attention.attention.key.bias"),
        ({"num_register_tokens": 5}, r"embeddings.register_tokens .*\(1, 4, 128\), expected \(1, 5, 128\)"),
        ({"hidden_size": 64}, "mis-shaped: "),
        ({"num_attention_heads": 3}, r"hidden_size \(128\) is no multiple of num_attention_heads \(3\)"),
        ({"use_swiglu_ffn": False}, "missing: encoder.layer.0.mlp.fc1.bias, .*unused: .*0.mlp.weights_in"),
        ({"patch_size": [7, 8]}, r"patch_size must be one positive number of px, or that twice, got \[7, 8\]"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers must be a positive integer, got '2'"),
        ({"num_attention_heads": 0}, "num_attention_heads must be a positive integer, got 0"),
        ({"mlp_ratio": 2.5}, "mlp_ratio must be a positive integer, got 2.5"),
        ({"hidden_act": "sinus"}, "hidden_act 'sinus' is no activation of Transformers"),
        ({"image_size": 20}, "images of 20 px cannot be cut into tokens of 7 px"),
        ({"model_type": "vit"}, "a model of type 'vit', expected dinov2 or dinov2_with_registers"),
    ],
)
def test_a_configuration_that_contradicts_the_tensors_is_refused(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        load_backbone(write_folder(tmp_path / "hibou", in_transformers_4_names(native()), {**CONFIG, **fields}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"teacher": native(), "student": native(seed=1)}, r"several models: \['student'\], \['teacher'\]"),
        (
            {f"{role}.{name}": tensor for role in ("student", "teacher") for name, tensor in native().items()},
            r"several DINOv2 backbones, which is ambiguous: student.\*, teacher.\*",
        ),
        ({"conv.weight": torch.ones(2)}, "no DINOv2 backbone: expected names such as .*, got conv.weight"),
        ({"a": {"x": torch.ones(2)}, "b": {"x": torch.ones(2)}}, r"no state dict of a model .*, got \['a'\], \['b'\]"),
        ([torch.ones(2)], "no state dict of a model that is known here, got list"),
        ({}, "no state dict of a model that is known here, got dict"),
    ],
)
def test_a_file_without_exactly_one_backbone_is_refused(saved, content, message):
    with pytest.raises(ValueError, match=message):
        load_backbone(saved(content))
