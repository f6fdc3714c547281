"""The pixels of disturbed patches, and the grids of turned regions.

Stains are told apart by colour deconvolution: Ruifrok and Johnston, "Quantification of histochemical staining by color
deconvolution", Analytical and Quantitative Cytology and Histology 23 (2001). Each stain absorbs red, green and blue
light in fixed ratios, and their optical densities add up, so that the amounts of three stains are a linear map of the
densities of three colours.
"""

import io
import math
from dataclasses import replace

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from .disturbances import Disturbance
from .grid import RegionGrid
from .loaders import turn
from .patches import PatchSource

# Optical densities of hematoxylin, eosin and DAB in red, green and blue, of the paper's table.
_STAIN_DENSITIES = np.array([(0.650, 0.704, 0.286), (0.072, 0.990, 0.105), (0.268, 0.570, 0.776)])


class DisturbedPatches(PatchSource):
    """The patches of another source, disturbed.

    Args:
        source: Reads them.
        disturbance: What happens to each.
        mpp: Micrometres per pixel of the source.
    """

    def __init__(self, source: PatchSource, disturbance: Disturbance, mpp: float) -> None:
        self.patch_size = source.patch_size
        self.fingerprint = source.fingerprint
        self.for_threads = source.for_threads
        if disturbance.fingerprint:
            self.fingerprint += f" disturbed: {disturbance.fingerprint}"
        if disturbance.blur_um:
            self.fingerprint += f" at {mpp:g} um/px"
        self._source, self._disturbance, self._mpp = source, disturbance, mpp

    def read(self, name: str) -> np.ndarray:
        """See the base class."""
        return disturbed(self._source.read(name), self._disturbance, self._mpp)


def disturbed(patch: np.ndarray, disturbance: Disturbance, mpp: float) -> np.ndarray:
    """What is left of a patch after a disturbance.

    Edges are mirrored where pixels from outside the patch would be needed.

    Args:
        patch: uint8 `(P, P, 3)`, RGB.
        disturbance: What happens to it, in the order in which light meets it: tissue, lens, sensor, file.
        mpp: Micrometres per pixel of the patch.

    Returns:
        uint8 `(P, P, 3)`, contiguous.
    """
    patch = turn(patch, disturbance.turn, axes=(0, 1))
    if (disturbance.hematoxylin, disturbance.eosin) != (1, 1):
        patch = _stained(patch, disturbance.hematoxylin, disturbance.eosin)
    if disturbance.brightness != 1:
        patch = _as_bytes(patch * disturbance.brightness)
    if disturbance.blur_um:
        sigma = disturbance.blur_um / mpp
        patch = _as_bytes(gaussian_filter(patch.astype(np.float64), (sigma, sigma, 0), mode="reflect"))
    if disturbance.mpp_ratio != 1:
        patch = _magnified(patch, disturbance.mpp_ratio)
    if disturbance.jpeg_quality is not None:
        patch = _compressed(patch, disturbance.jpeg_quality)
    return patch


def turned_grid(grid: RegionGrid, number: int) -> RegionGrid:
    """The same regions turned and mirrored as whole images, see `loaders.turn`."""
    side = math.isqrt(grid.rows.shape[1])
    rows = turn(grid.rows.reshape(-1, side, side), number, axes=(1, 2))
    return replace(grid, rows=rows.reshape(grid.rows.shape))


def _stained(patch: np.ndarray, hematoxylin: float, eosin: float) -> np.ndarray:
    """More or less of two stains; the third, where the two do not explain a colour, stays as it is."""
    factors = np.diag([hematoxylin, eosin, 1.0])
    change = np.linalg.inv(_STAIN_DENSITIES) @ factors @ _STAIN_DENSITIES
    density = -np.log10(np.maximum(patch, 1) / 255)  # of black, 0, it would be infinite
    return _as_bytes(255 * 10 ** -(density @ change))


def _magnified(patch: np.ndarray, ratio: float) -> np.ndarray:
    side = len(patch)
    margin = max(math.ceil((ratio - 1) * side / 2), 0)
    padded = np.pad(patch, ((margin, margin), (margin, margin), (0, 0)), mode="symmetric")
    left = margin - (ratio - 1) * side / 2
    box = (left, left, left + ratio * side, left + ratio * side)
    return np.array(Image.fromarray(padded).resize((side, side), Image.Resampling.BICUBIC, box=box))


def _compressed(patch: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(patch).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))


def _as_bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
