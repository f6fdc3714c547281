"""Whether a published repository's own processor and this project's make the same of a region."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Optional

import numpy as np
import torch

from .head_reading import ROW_MAJOR, token_orders

if TYPE_CHECKING:
    from ..remote_code import SpiderImageProcessor

_TOLERANCE = 1e-3  # a grey level is 0.02


def normalised_alike(
    name: str, image_processor: "SpiderImageProcessor", regions: Sequence[np.ndarray], theirs: Sequence[torch.Tensor]
) -> tuple["SpiderImageProcessor", torch.Tensor]:
    """An image processor whose pixel values are those of a repository's own, and these values.

    Args:
        name: Of the repository, for messages.
        image_processor: Tried first. If the other one differs from it in mean and standard deviation alone, they are
            read off its values.
        regions: uint8 `(height, width, 3)` each.
        theirs: What the other makes of each: whole regions, or patches in any order of `token_orders`.

    Returns:
        The image processor, and float32 patches `(regions, patches, 3, P, P)` of it.

    Raises:
        ValueError: The other one does something else.
    """
    ours = _patches(image_processor, regions)
    given = [_as_patches(name, values, image_processor) for values in theirs]
    orders = token_orders(image_processor.context_size)
    for order in orders.values() if any(own for _, own in given) else [orders[ROW_MAJOR]]:
        target = torch.stack([_reordered(values, order) for values in given])
        if _alike(ours, target):
            return image_processor, ours
        changed = _with_statistics_of(image_processor, ours, target)
        if changed is not None:
            patches = _patches(changed, regions)
            if _alike(patches, target):
                return changed, patches
    difference = float((ours - torch.stack([values[0] for values in given])).abs().max())
    raise ValueError(
        f"{name}: its own processor makes other pixel values of the same regions (the largest difference is "
        f"{difference:.3g}), not only another mean and standard deviation. This project's cannot do what it does."
    )


def _patches(image_processor: "SpiderImageProcessor", regions: Sequence[np.ndarray]) -> torch.Tensor:
    return image_processor(list(regions), return_tensors="pt")["pixel_values"]


def _as_patches(name: str, values: torch.Tensor, image_processor: "SpiderImageProcessor") -> tuple[torch.Tensor, bool]:
    """Patches `(patches, 3, P, P)`, and whether they are in an order of the repository's own."""
    side, across = image_processor.patch_size, image_processor.context_size
    region = image_processor.region_size
    if values.shape[-3:] == (3, side, side) and values.numel() == across**2 * 3 * side**2:
        return values.reshape(-1, 3, side, side), True
    if values.shape[-3:] == (3, region, region) and values.numel() == 3 * region**2:
        rows = values.reshape(3, across, side, across, side)
        return rows.permute(1, 3, 0, 2, 4).reshape(-1, 3, side, side), False
    raise ValueError(
        f"{name}: its own processor makes pixel values of shape {tuple(values.shape)} of one region, expected "
        f"{across**2} patches of {side} px or a region of {region} px."
    )


def _reordered(values: tuple[torch.Tensor, bool], order: Sequence[int]) -> torch.Tensor:
    """Patches in row-major order, if theirs are in this one."""
    patches, in_own_order = values
    if not in_own_order:
        return patches
    sorted_patches = torch.empty_like(patches)
    sorted_patches[list(order)] = patches
    return sorted_patches


def _alike(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return bool(theirs.isfinite().all()) and float((ours - theirs).abs().max()) < _TOLERANCE


def _with_statistics_of(
    image_processor: "SpiderImageProcessor", ours: torch.Tensor, theirs: torch.Tensor
) -> Optional["SpiderImageProcessor"]:
    """The image processor with the mean and deviation that fit another's values best, None where none can be."""
    mean, std = [], []
    for channel in range(3):
        x, y = ours[:, :, channel].double().flatten(), theirs[:, :, channel].double().flatten()
        x = x * image_processor.image_std[channel] + image_processor.image_mean[channel]
        slope = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
        offset = float(y.mean() - slope * x.mean())
        if not slope > 0:
            return None
        mean.append(round(-offset / slope, 6))
        std.append(round(1 / slope, 6))
    try:
        return type(image_processor)(
            patch_size=image_processor.patch_size,
            context_size=image_processor.context_size,
            image_mean=mean,
            image_std=std,
        )
    except ValueError:
        return None
