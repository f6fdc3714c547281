"""Pixels as the backbone takes them: tiled into patches, bytes normalised."""

from collections.abc import Sequence
from typing import Any, Optional

import torch

from .checks_spider import describe, fits

# Mean and standard deviation of each channel, for values in [0, 1], as Hibou was trained with.
HIBOU_MEAN = (0.7068, 0.5755, 0.7220)
HIBOU_STD = (0.1950, 0.2316, 0.1816)


def are_pixels(tensor: torch.Tensor, *shape: int) -> bool:
    """Whether a batch of floats or of bytes has this shape after its first axis."""
    return fits(tensor, *shape) or (tensor.dtype == torch.uint8 and tuple(tensor.shape[1:]) == shape)


def check_pixels(pixel_values: torch.Tensor, config: Any) -> None:
    """Raise `ValueError` unless these are regions, whole or tiled, for a model of this configuration."""
    side, patches, region = config.patch_size, config.num_context_patches, config.region_size
    shape = (3, region, region) if pixel_values.ndim == 4 else (patches, 3, side, side)
    if not are_pixels(pixel_values, *shape) or pixel_values.shape[0] == 0:
        raise ValueError(
            f"Expected float or uint8 `pixel_values` of shape (B, {patches}, 3, {side}, {side}) with B > 0, got "
            f"{describe(pixel_values)}. The processor makes them from {region} px regions; whole regions, (B, 3, "
            f"{region}, {region}), normalised or uint8, are taken too."
        )


def normalize(values: torch.Tensor, mean: Sequence[float], std: Sequence[float], white: float) -> torch.Tensor:
    """Subtract a mean and divide by a standard deviation, in place.

    Args:
        values: Float32 `(..., 3, height, width)`, with values in [0, white].
        mean: Of each channel, for values in [0, 1].
        std: Likewise.
        white: 255 or 1.

    Returns:
        The same tensor.
    """
    shift = torch.tensor(mean, dtype=torch.float32, device=values.device).mul_(white).view(3, 1, 1)
    scale = torch.tensor(std, dtype=torch.float32, device=values.device).mul_(white).view(3, 1, 1)
    return values.sub_(shift).div_(scale)


def as_backbone_input(
    patches: torch.Tensor, mean: Optional[Sequence[float]], std: Optional[Sequence[float]], dtype: torch.dtype
) -> torch.Tensor:
    """Patches `(N, 3, P, P)` as the backbone takes them: bytes are normalised in float32, floats are already.

    Args:
        patches: Uint8 or float.
        mean: Of each channel, for values in [0, 1]; None if it is not known.
        std: Likewise.
        dtype: That bytes end in.

    Raises:
        ValueError: Bytes cannot be normalised.
    """
    if patches.dtype != torch.uint8:
        return patches
    if mean is None or std is None:
        raise ValueError(
            "Expected float `pixel_values`, got torch.uint8: the model's config.json does not say how to normalise "
            "bytes. Let the processor do it, without do_rescale=False and do_normalize=False, or set "
            "`config.image_mean` and `config.image_std` to those of preprocessor_config.json."
        )
    return normalize(patches.to(torch.float32, memory_format=torch.contiguous_format), mean, std, 255.0).to(dtype)


def tiled(regions: torch.Tensor, context_size: int) -> torch.Tensor:
    """The patches `(B, context_size**2, 3, P, P)` of regions `(B, 3, R, R)`, row-major; copied once."""
    side = regions.shape[-1] // context_size
    rows_and_columns = regions.unflatten(3, (context_size, side)).unflatten(2, (context_size, side))
    return rows_and_columns.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
