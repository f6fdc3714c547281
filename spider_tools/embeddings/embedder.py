"""The frozen backbone as a function from patches to embeddings: on one device, in one precision, compiled or not."""

import copy
import logging
import time
from typing import TYPE_CHECKING

import torch

from ..normalization import normalizing
from .settings import check_precision
from .slow_dtypes import warn_if_slow

if TYPE_CHECKING:
    from ..remote_code import SpiderForImageClassification, SpiderImageProcessor

logger = logging.getLogger(__name__)

# On CPUs larger batches leave the cache: they are slower by a few percent and need more memory.
_CPU_BATCH = 8


def float_dtype(precision: str) -> torch.dtype:
    """The dtype that a backbone has outside its matrix products: of its norms, its embeddings and its output."""
    return torch.float32 if precision == "int8" else getattr(torch, precision)


class PatchEmbedder:
    """Embeds patches with a model's backbone in evaluation mode.

    Compiling takes half a minute for Hibou-L, int8 one minute, once for each process; embeddings then come out faster.
    Compiled or not, they are equal up to the rounding of their precision. Where a CPU would be much slower in the
    precision than in float32, that is warned of.

    `"int8"` computes the backbone's linear layers in 8 bits and everything else in float32: weights rounded once, for
    each output channel, activations as they come, for each token. It is always compiled, and needs the package
    torchao, a C++ compiler and a CPU; one with VNNI or AMX instructions is what makes it fast.

    Args:
        model: It is not changed, whatever its mode, dtype and device.
        image_processor: Its own.
        device: Where to embed.
        precision: `"float32"`, `"bfloat16"`, `"float16"` or `"int8"`.
        compiled: Whether to compile the backbone; on a CPU that needs a C++ compiler.

    Raises:
        ValueError: The precision is unknown, lacks its package, or is not for this device.
        RuntimeError: The backbone cannot be compiled here.
    """

    def __init__(
        self,
        model: "SpiderForImageClassification",
        image_processor: "SpiderImageProcessor",
        device: torch.device,
        precision: str = "float32",
        compiled: bool = False,
    ) -> None:
        check_precision(precision)
        if precision == "int8" and device.type != "cpu":
            raise ValueError(f"The dtype int8 is for CPUs, got the device {device}. Take bfloat16 or float16 there.")
        dtype = float_dtype(precision)
        warn_if_slow(dtype, device)
        ready = not model.backbone.training and model.device == device and model.dtype == dtype
        if not ready or precision == "int8":
            model = copy.deepcopy(model).to(device=device, dtype=dtype).eval()
        model = normalizing(model, image_processor)
        if precision == "int8":
            _quantize(model.backbone)
        batch = model.config.backbone_batch_size
        self._batch = min(batch, _CPU_BATCH) if device.type == "cpu" else batch
        self._device = device
        self._embed = model.embed_patches
        self._compiled = compiled or precision == "int8"
        if self._compiled:
            self._compile(model)

    @torch.no_grad()
    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """Embeddings, float `(patches, hidden)` on the device, of patches, uint8 `(patches, P, P, 3)`."""
        # Bytes travel to the device, a quarter of the size of floats, and are normalised there.
        on_device = patches.to(self._device, non_blocking=True)
        return torch.cat([self._embed_chunk(chunk) for chunk in on_device.split(self._batch)])

    def _embed_chunk(self, patches: torch.Tensor) -> torch.Tensor:
        present = len(patches)
        if self._compiled and present < self._batch:
            # Every other number of patches would be compiled anew.
            patches = torch.cat([patches, patches.new_zeros(self._batch - present, *patches.shape[1:])])
        return self._embed(patches.permute(0, 3, 1, 2))[:present]

    @torch.no_grad()
    def _compile(self, model: "SpiderForImageClassification") -> None:
        # Constant weights can be brought into the layout that the CPU's matrix products want, once for all batches.
        options = {"freezing": True} if self._device.type == "cpu" else None
        self._embed = torch.compile(model.embed_patches, dynamic=False, options=options)
        side = model.config.patch_size
        blank = torch.zeros(self._batch, side, side, 3, dtype=torch.uint8, device=self._device)
        logger.info("compiling the backbone, once for this process: about a minute for Hibou-L")
        started = time.monotonic()
        try:
            self._embed(blank.permute(0, 3, 1, 2))
        except Exception as error:  # compilers fail in many ways and with errors of many classes
            raise RuntimeError(
                "The backbone cannot be compiled here. Expected a working C++ compiler, such as g++, on a CPU, or "
                f"Triton on a GPU; embed without compiling otherwise. {type(error).__name__}: {error}"
            ) from error
        logger.info("compiled the backbone in %.0f s", time.monotonic() - started)


def _quantize(backbone: torch.nn.Module) -> None:
    """Turn the linear layers into int8, in place."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    quantize_(backbone, Int8DynamicActivationInt8WeightConfig())
