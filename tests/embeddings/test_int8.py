"""The backbone in int8, against its linear layers rounded by hand. `make test` has an environment with torchao."""

import logging
import shutil
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from accelerate import Accelerator

logging.getLogger("torchao").setLevel(logging.ERROR)  # it names its CUDA extensions, which do not load on a CPU
pytest.importorskip("torchao", reason="torchao is not installed here")
if shutil.which("g++") is None:
    pytest.skip("no C++ compiler (g++) on this machine", allow_module_level=True)

from spider_tools.embeddings.embedder import PatchEmbedder  # noqa: E402
from spider_tools.embeddings.precompute import embed_patches_once  # noqa: E402
from spider_tools.embeddings.settings import EmbeddingSettings  # noqa: E402

CPU = torch.device("cpu")


def patches_of(count):
    return torch.from_numpy(np.random.default_rng(1).integers(0, 256, (count, 28, 28, 3), dtype=np.uint8))


class RoundedLinear(torch.nn.Module):
    """A linear layer with weights rounded to 256 levels per output channel, and inputs to 256 per token."""

    def __init__(self, linear):
        super().__init__()
        self.weight, self.bias = self.rounded(linear.weight), linear.bias

    @staticmethod
    def rounded(rows):
        step = rows.abs().amax(dim=-1, keepdim=True) / 127.5
        return (rows / step).round().clamp(-128, 127) * step

    def forward(self, x):
        return self.rounded(x) @ self.weight.T + self.bias


def by_hand(model, processor, patches):
    """Embeddings of patches with every linear layer of the backbone rounded by hand."""
    for module in list(model.backbone.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Linear):
                setattr(module, name, RoundedLinear(child))
    return PatchEmbedder(model, processor.image_processor, CPU)(patches)


def test_int8_rounds_weights_per_channel_and_activations_per_token(make_model, processor):
    patches = patches_of(9)
    exact = PatchEmbedder(make_model(), processor.image_processor, CPU)(patches)
    embeddings = PatchEmbedder(make_model(), processor.image_processor, CPU, "int8")(patches)
    expected = by_hand(make_model(), processor, patches)
    drift = (expected - exact).pow(2).mean().sqrt()
    assert embeddings.dtype == torch.float32
    assert 1e-3 < drift < 0.1  # rounding is seen, and is small beside embeddings of standard deviation 1
    # Ties that fall to the other side multiply from layer to layer; any other way of rounding is 1.4 drifts away.
    assert (embeddings - expected).pow(2).mean().sqrt() < 0.7 * drift


def test_the_caller_keeps_its_exact_weights(model, make_model, processor):
    PatchEmbedder(model, processor.image_processor, CPU, "int8")
    original = make_model().state_dict()
    assert all(torch.equal(tensor, original[name]) for name, tensor in model.state_dict().items())


def test_int8_is_refused_on_a_gpu_before_anything_is_copied_there(model, processor):
    with pytest.raises(ValueError, match="int8 is for CPUs, got the device cuda"):
        PatchEmbedder(model, processor.image_processor, torch.device("cuda"), "int8")


@dataclass(frozen=True)
class Patches:
    fingerprint: str = "made up"

    def read(self, name):
        return patches_of(6).numpy()[int(name)]


def test_embeddings_in_int8_have_a_store_of_their_own(model, processor, tmp_path):
    names = [str(number) for number in range(6)]
    stores = {
        dtype: embed_patches_once(
            names,
            Patches(),
            model,
            processor.image_processor,
            Accelerator(cpu=True),
            EmbeddingSettings(tmp_path, dtype, num_workers=0),
        )
        for dtype in ("float32", "int8")
    }
    assert stores["int8"].folder != stores["float32"].folder
    exact, rounded = (stores[dtype][np.arange(6)].float() for dtype in ("float32", "int8"))
    assert 0 < (rounded - exact).abs().max() < 0.3
