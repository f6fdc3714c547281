"""The frozen backbone as a function of patches, against a loop over single patches normalised by hand."""

import copy
import shutil

import numpy as np
import pytest
import torch

from spider_tools.embeddings.embedder import PatchEmbedder
from spider_tools.embeddings.settings import check_precision

CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler (g++) on this machine")


def patches_of(count, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, 28, 28, 3), dtype=np.uint8))


def one_by_one(model, patches):
    """Class tokens of single patches, float32 `(patches, hidden)`."""
    mean, std = np.array([0.7068, 0.5755, 0.7220]), np.array([0.1950, 0.2316, 0.1816])
    rows = []
    for patch in patches.numpy():
        pixels = ((patch / 255 - mean) / std).transpose(2, 0, 1)
        with torch.no_grad():
            rows.append(model.backbone(torch.from_numpy(pixels[None]).float()).last_hidden_state[0, 0])
    return torch.stack(rows)


@pytest.mark.parametrize("count", [1, 6, 7, 8, 15])
def test_embeddings_equal_those_of_single_patches(model, processor, count):
    patches = patches_of(count)
    embeddings = PatchEmbedder(model, processor.image_processor, CPU)(patches)
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings, one_by_one(model, patches), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("size", "expected"), [(3, [3, 3, 3, 1]), (64, [8, 2])])
def test_no_more_patches_go_through_the_backbone_than_the_model_allows_or_the_cache_holds(
    make_model, processor, size, expected
):
    model = make_model(backbone_batch_size=size)
    counts = []
    model.backbone.register_forward_pre_hook(lambda _, args: counts.append(len(args[0])))
    PatchEmbedder(model, processor.image_processor, CPU)(patches_of(10))
    assert counts == expected


def test_the_model_stays_as_it_was(model, processor):
    model.train()
    model.backbone.train()
    before = copy.deepcopy(model.state_dict())
    PatchEmbedder(model, processor.image_processor, CPU, "bfloat16")(patches_of(2))
    assert model.training
    assert model.backbone.training
    assert model.dtype == torch.float32
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.06)])
def test_a_compiled_backbone_gives_the_same_for_any_number_of_patches_and_is_compiled_once(
    model, processor, precision, tolerance
):
    embed = PatchEmbedder(model, processor.image_processor, CPU, precision, compiled=True)
    with torch.compiler.set_stance("fail_on_recompile"):
        for count in (7, 1, 9, 16):
            patches = patches_of(count, seed=count)
            embeddings = embed(patches)
            assert embeddings.dtype == getattr(torch, precision)
            expected = one_by_one(model, patches)
            torch.testing.assert_close(embeddings.float(), expected, atol=tolerance, rtol=tolerance)


@needs_compiler
@pytest.mark.slow
def test_without_a_compiler_the_error_says_what_is_missing(make_model, processor, monkeypatch, tmp_path):
    from torch._inductor import config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    torch.compiler.reset()
    with (
        config.patch({"cpp.cxx": (str(tmp_path / "no-compiler"),)}),
        pytest.raises(RuntimeError, match=r"cannot be compiled here\. Expected a working C\+\+ compiler"),
    ):
        PatchEmbedder(make_model(), processor.image_processor, CPU, compiled=True)


def test_unknown_precisions_are_refused():
    with pytest.raises(ValueError, match=r"must be one of .*'int8'.* got 'float8'"):
        check_precision("float8")


def test_int8_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr("spider_tools.embeddings.settings.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="int8 needs the package torchao"):
        check_precision("int8")
