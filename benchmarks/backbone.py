"""Patches to embeddings: Hibou-L in every precision, compiled or not, beside a plain forward and the machine's limit.

The limit is a large matrix product in the same dtype, measured in the same rounds.
"""

import statistics
from typing import Any

import torch

from .measuring import Goal, Options, Section, Way, alternate, comparison
from .models import SMALL, PlainDinov2, flops_per_patch, random_model

# Largest mean square of a difference, as a share of the embeddings' variance, that rounding explains.
TOLERANCE = {"float32": 1e-8, "bfloat16": 1e-2, "float16": 1e-3}
GOALS = {"cpu": 0.85, "cuda": 0.6}


@torch.no_grad()
def measure(options: Options) -> list[Section]:
    model = random_model(SMALL if options.quick else None, options.device)
    dtypes = ("bfloat16",) if options.quick else ("float32", "bfloat16") if options.bfloat16 else ("float32",)
    return [_in(dtype, model, options) for dtype in dtypes]


def _in(dtype: str, model: Any, options: Options) -> Section:
    backbone, device = model.backbone.to(getattr(torch, dtype)), options.device
    patches = 2 if options.quick else 8 if device.type == "cpu" else 64
    pixels = torch.randn(patches, 3, 224, 224, generator=torch.Generator().manual_seed(1)).to(device, backbone.dtype)
    compiled = _compiled(backbone, device)
    ways: dict[str, Way] = {
        "plain DINOv2": _in_evaluation(PlainDinov2(backbone), pixels),
        "eager attention": lambda: _with_attention(backbone, "eager", pixels),
        "sdpa attention": lambda: _with_attention(backbone, "sdpa", pixels),
        "sdpa, compiled": lambda: compiled(pixels).pooler_output,
    }
    _check_agreement(ways, dtype)
    size = 256 if options.quick else 4096 if device.type == "cpu" else 8192
    left, right = (torch.randn(size, size, device=device, dtype=backbone.dtype) for _ in range(2))
    rounds = 2 if options.quick else 3
    seconds = alternate({**ways, "limit": lambda: left @ right.T}, rounds, device)
    limit = 2 * size**3 / statistics.median(seconds.pop("limit"))
    rows = comparison(seconds, patches, "patch", "plain DINOv2")
    for row in rows:
        row["share of the limit"] = row["patches/s"] * flops_per_patch(backbone.config) / limit
    best = max(row["share of the limit"] for row in rows)
    goals = [Goal("the best way's share of the limit", best, GOALS[device.type])] if dtype == "bfloat16" else []
    notes = (
        f"{'A tiny backbone' if options.quick else 'Hibou-L'} of random weights, {patches} patches at once; a patch "
        f"takes {flops_per_patch(backbone.config) / 1e9:.0f} GFLOP. The limit is a product of two {size} x {size} "
        f"matrices: {limit / 1e9:.0f} GFLOP/s.{options.left_out}"
    )
    return Section(f"Backbone in {dtype}", notes, rows, goals)


def _compiled(backbone: Any, device: torch.device) -> Any:
    return torch.compile(backbone, dynamic=False, options={"freezing": True} if device.type == "cpu" else None)


def _in_evaluation(way: Any, pixels: torch.Tensor) -> Way:
    return lambda: way(pixels)


def _with_attention(backbone: Any, implementation: str, pixels: torch.Tensor) -> torch.Tensor:
    backbone.set_attn_implementation(implementation)
    return backbone(pixels).pooler_output


def _check_agreement(ways: dict[str, Way], dtype: str) -> None:
    """Refuse to compare ways whose embeddings differ by more than rounding."""
    embeddings = {name: way().double() for name, way in ways.items()}
    reference = embeddings["plain DINOv2"]
    for name, embedding in embeddings.items():
        difference = ((embedding - reference).pow(2).mean() / reference.var()).item()
        if not difference < TOLERANCE[dtype]:
            raise RuntimeError(f"{name} in {dtype} differs from plain DINOv2 by {difference:.2g} of the variance.")
