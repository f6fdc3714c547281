"""Backbones from elsewhere, held against an independent forward pass and against Transformers' own classes."""

import copy
import logging
from functools import partial

import pytest
import torch
from independent_dinov2 import forward, in_transformers_4_names, in_transformers_5_names
from small_backbones import CONFIG, HEADS, native, save_pth, write_folder
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from spider_tools.weights.loading import load_backbone


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(2, 3, 21, 21, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def saved(tmp_path):
    """`saved(content, name)`: the path of a torch.save file."""
    return partial(save_pth, tmp_path)


def load_native(source, **options):
    """A state dict of `small_backbones.native`, which cannot say how many heads it has."""
    return load_backbone(source, heads=HEADS, **options)


def assert_same_function(backbone, state, pixels, heads=HEADS):
    expected = forward(state, pixels, heads)
    assert expected.std() > 0.5
    # float64 tells rounding from a slightly wrong function.
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        with torch.no_grad():
            output = copy.deepcopy(backbone).to(dtype)(pixels.to(dtype))
        assert (output.last_hidden_state.double() - expected).abs().max() < tolerance
        assert (output.pooler_output.double() - expected[:, 0]).abs().max() < tolerance


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize(("swiglu", "width"), [(True, 344), (False, 512)])
def test_native_weights_give_what_an_independent_forward_pass_gives(saved, pixels, registers, swiglu, width):
    state = native(registers=registers, swiglu=swiglu, width=width)
    backbone = load_native(saved(state))
    assert isinstance(backbone, Dinov2WithRegistersModel)
    assert not backbone.training
    assert backbone.config.num_register_tokens == registers
    assert_same_function(backbone, state, pixels)


@pytest.mark.parametrize("rename", [in_transformers_4_names, in_transformers_5_names])
@pytest.mark.parametrize("shards", [1, 3])
def test_a_folder_in_transformers_format_gives_the_same_function(tmp_path, pixels, rename, shards):
    state = native()
    backbone = load_backbone(write_folder(tmp_path / "hibou", rename(state), shards=shards))
    assert_same_function(backbone, state, pixels)


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.encoder.backbone."])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}, "epoch": 3},
        lambda state: {"ema": {"teacher": state}, "loss": torch.ones(2)},
    ],
)
def test_prefixes_and_wrappers_of_a_state_dict_do_not_matter(saved, pixels, prefix, wrap):
    state = native()
    backbone = load_native(saved(wrap({prefix + name: tensor for name, tensor in state.items()})))
    assert_same_function(backbone, state, pixels)


def test_a_folder_that_holds_only_a_pth_file_is_read(saved, pixels):
    state = native()
    folder = saved(state).removesuffix("/hibou.pth")
    assert_same_function(load_native(folder), state, pixels)


def test_what_stock_transformers_saves_comes_back(tmp_path, pixels):
    model = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**CONFIG)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        expected = model(pixels).last_hidden_state
        model.save_pretrained(tmp_path)
        backbone = load_backbone(str(tmp_path))
        assert torch.equal(backbone(pixels).last_hidden_state, expected)
    saved = model.state_dict()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in backbone.state_dict().items())
    assert backbone.config.to_dict() == Dinov2WithRegistersConfig(**CONFIG).to_dict() | {
        name: backbone.config.to_dict()[name] for name in ("dtype", "torch_dtype") if name in backbone.config.to_dict()
    }


@pytest.mark.parametrize("use_swiglu_ffn", [True, False])
def test_a_dinov2_without_registers_gives_the_outputs_of_its_own_class(tmp_path, pixels, use_swiglu_ffn):
    config = {**CONFIG, "use_swiglu_ffn": use_swiglu_ffn, "model_type": "dinov2", "layer_norm_eps": 1e-3}
    del config["num_register_tokens"]
    model = Dinov2Model(Dinov2Config(**config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model.save_pretrained(tmp_path)
        theirs, ours = model(pixels), load_backbone(str(tmp_path))(pixels)
    assert theirs.pooler_output.std() > 0.1
    torch.testing.assert_close(ours.last_hidden_state, theirs.last_hidden_state, atol=1e-6, rtol=0)
    torch.testing.assert_close(ours.pooler_output, theirs.pooler_output, atol=1e-6, rtol=0)


def test_code_of_a_remote_code_repository_is_not_run(tmp_path, pixels):
    # As histai/hibou-L has it: its own code, and a model type that does not say that there are registers.
    auto_map = {"AutoConfig": "configuration_dinov2.Dinov2Config", "AutoModel": "modeling_dinov2.Dinov2Model"}
    config = {**CONFIG, "model_type": "dinov2", "auto_map": auto_map}
    del config["num_register_tokens"]
    state = native()
    folder = write_folder(tmp_path / "hibou", in_transformers_4_names(state), config)
    for name in ("configuration_dinov2", "modeling_dinov2"):
        (tmp_path / "hibou" / f"{name}.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')")
    backbone = load_backbone(folder)
    assert backbone.config.num_register_tokens == 4
    assert_same_function(backbone, state, pixels)
    assert not (tmp_path / "was-run").exists()


def test_the_sizes_of_hibou_b_are_recognised_from_its_tensors(saved):
    state = native(hidden=768, layers=12, token=14, grid=16, width=2048)
    config = load_backbone(saved(state)).config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (768, 12, 12)
    assert (config.image_size, config.patch_size, config.num_register_tokens) == (224, 14, 4)
    assert (config.use_swiglu_ffn, config.mlp_ratio, config.qkv_bias) == (True, 4, True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_sources_come_in_as_float32(tmp_path, dtype):
    state = {name: tensor.to(dtype) for name, tensor in in_transformers_4_names(native()).items()}
    backbone = load_backbone(write_folder(tmp_path / "half", state))
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.float32}
    assert torch.equal(backbone.embeddings.cls_token, state["embeddings.cls_token"].float())


def test_no_parameter_is_a_view_of_a_larger_storage(tmp_path):
    backbone = load_backbone(write_folder(tmp_path / "hibou", in_transformers_4_names(native())))
    for name, parameter in backbone.named_parameters():
        assert parameter.untyped_storage().nbytes() == parameter.nbytes, name


def test_an_absent_mask_token_is_zero_and_changes_no_embedding(saved, pixels):
    state = native()
    del state["mask_token"]
    backbone = load_native(saved(state))
    assert not backbone.embeddings.mask_token.any()
    assert_same_function(backbone, state, pixels)


def test_layers_without_query_key_and_value_bias_are_recognised(saved, pixels):
    state = {name: tensor for name, tensor in native().items() if not name.endswith("qkv.bias")}
    backbone = load_native(saved(state))
    assert backbone.config.qkv_bias is False
    zeros = {f"blocks.{number}.attn.qkv.bias": torch.zeros(384) for number in range(2)}
    assert_same_function(backbone, state | zeros, pixels)


# --- Positions of another grid


def test_position_embeddings_of_another_grid_are_refused_unless_interpolation_is_asked_for(saved):
    with pytest.raises(ValueError, match=r"grid of 3x3 tokens; images of 35 px need 5x5.*\(interpolate_positions\)"):
        load_native(saved(native()), patch_size=35)
    with pytest.raises(ValueError, match="images of 36 px cannot be cut into tokens of 7 px"):
        load_native(saved(native()), patch_size=36, interpolate_positions=True)
    assert load_native(saved(native()), patch_size=21).config.image_size == 21


@pytest.mark.parametrize(
    ("model_class", "config_class"),
    [(Dinov2Model, Dinov2Config), (Dinov2WithRegistersModel, Dinov2WithRegistersConfig)],
)
@pytest.mark.parametrize("size", [14, 35])
def test_interpolated_positions_embed_other_sizes_as_the_original_class_does(tmp_path, model_class, config_class, size):
    config = {name: value for name, value in CONFIG.items() if name not in ("model_type", "num_register_tokens")}
    model = model_class(config_class(**config)).eval()
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        model.embeddings.position_embeddings.normal_()
        model.save_pretrained(tmp_path)
        backbone = load_backbone(str(tmp_path), patch_size=size, interpolate_positions=True)
        assert backbone.config.image_size == size
        assert backbone.embeddings.position_embeddings.shape == (1, 1 + (size // 7) ** 2, 128)
        expected = model(images).last_hidden_state
        torch.testing.assert_close(backbone(images).last_hidden_state, expected, atol=1e-6, rtol=1e-5)


def test_interpolation_is_logged(saved, caplog):
    with caplog.at_level(logging.INFO, logger="spider_tools"):
        load_native(saved(native()), patch_size=35, interpolate_positions=True)
    assert "from 3x3 to 5x5" in caplog.text
