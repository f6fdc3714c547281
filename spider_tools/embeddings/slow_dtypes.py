"""Precisions that a CPU computes at a small part of float32's speed, since it has no instructions for them."""

import functools
import logging
import time

import torch

logger = logging.getLogger(__name__)

_SLOW = 3.0  # times float32: with instructions of its own bfloat16 takes half, without up to ninety times
_SIZE, _RUNS = 256, 3


@functools.cache
def times_float32(dtype: torch.dtype) -> float:
    """How long a matrix product takes on this CPU, as multiple of one in float32; measured, in under a second."""
    return _fastest(dtype) / _fastest(torch.float32)


def is_slow(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a backbone would be much faster in float32; only CPUs are asked."""
    return device.type == "cpu" and dtype != torch.float32 and times_float32(dtype) > _SLOW


def warn_if_slow(dtype: torch.dtype, device: torch.device) -> None:
    """Say so where a backbone would be faster in float32."""
    if is_slow(dtype, device):
        logger.warning(
            "This CPU is slow in %s: a matrix product takes %.0f times as long as in float32. Embed in float32 here, "
            "or on a GPU.",
            *(str(dtype).removeprefix("torch."), times_float32(dtype)),
        )


def _fastest(dtype: torch.dtype) -> float:
    """Seconds of the fastest of a few products, after one that makes ready."""
    square = torch.ones(_SIZE, _SIZE, dtype=dtype, device="cpu")
    seconds = []
    for _ in range(1 + _RUNS):
        start = time.perf_counter()
        square @ square
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
