"""A precision that a CPU has no instructions for is warned of, and others are not."""

import time

import pytest
import torch

from spider_tools.embeddings import slow_dtypes
from spider_tools.embeddings.embedder import PatchEmbedder, float_dtype
from spider_tools.embeddings.slow_dtypes import times_float32

CPU = torch.device("cpu")


def warnings_of(model, processor, precision, caplog):
    caplog.clear()
    PatchEmbedder(model, processor.image_processor, CPU, precision)
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize(("times", "said"), [(0.5, False), (2.9, False), (36.4, True)])
def test_a_cpu_that_would_be_slow_is_warned_of(model, processor, caplog, monkeypatch, precision, times, said):
    monkeypatch.setattr(slow_dtypes, "times_float32", lambda dtype: times)
    expected = f"This CPU is slow in {precision}: a matrix product takes 36 times as long as in float32."
    found = warnings_of(model, processor, precision, caplog)
    assert [message.startswith(expected) for message in found] == [True] * said


def test_float32_int8_and_gpus_are_not_even_measured(model, processor, caplog, monkeypatch):
    monkeypatch.setattr(slow_dtypes, "times_float32", None)
    assert warnings_of(model, processor, "float32", caplog) == []
    slow_dtypes.warn_if_slow(float_dtype("int8"), CPU)
    slow_dtypes.warn_if_slow(torch.bfloat16, torch.device("cuda"))


def test_times_are_those_of_products(monkeypatch):
    """A clock that only products move: those of a dtype take as long as it is told."""
    now = 0.0

    def product(left, right):
        nonlocal now
        now += {torch.float32: 0.25, torch.bfloat16: 10.0}[left.dtype]
        return left

    monkeypatch.setattr(torch.Tensor, "__matmul__", product)
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    times_float32.cache_clear()
    try:
        assert (times_float32(torch.bfloat16), times_float32(torch.float32)) == (40.0, 1.0)
    finally:
        times_float32.cache_clear()
