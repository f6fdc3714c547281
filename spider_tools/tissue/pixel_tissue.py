"""Tissue in the pixels of a slide at low magnification: by its saturation, on glass that is brought to white.

Otsu's threshold on saturation, between bounds, and without the ink of markers.
"""

from dataclasses import dataclass
from typing import Optional

import numpy as np
from scipy import ndimage

from .artifacts import glass_of, ink_of, on_white_glass
from .search import TissueSearch

# A slide without glass, or without tissue, has no valley between two peaks for Otsu to find. White glass is less
# saturated than the first value, and than its noise says; stained tissue is more than the second even if it is pale.
_SATURATION_RANGE = (0.03, 0.12)
_BLACK = 0.1  # below this brightness it is ink or unscanned, and its saturation means nothing
_CLOSING_RADIUS = 4  # px: closes fat cells and the lumina of glands
_SMALLEST_AREA = 40  # px: smaller is dust


AUTOMATIC = TissueSearch()


@dataclass(frozen=True, eq=False)
class FoundTissue:
    """What was found in the pixels of a slide.

    Attributes:
        mask: bool `(height, width)`.
        coverage: See `TissueMask`.
        ink: bool `(height, width)`; None if it was to be kept.
        threshold: Saturation in [0, 1].
    """

    mask: np.ndarray
    coverage: np.ndarray
    ink: Optional[np.ndarray]
    threshold: float


def tissue_of(pixels: np.ndarray, search: TissueSearch = AUTOMATIC) -> FoundTissue:
    """Tissue by its saturation.

    Args:
        pixels: uint8 `(height, width, 3)` at about 8 um/px.
        search: How.
    """
    ink = None if search.keep_artifacts else ink_of(pixels)
    glass = glass_of(pixels)
    saturation = _saturation(on_white_glass(pixels, glass))
    threshold = search.threshold
    if threshold is None:
        counted = saturation if ink is None or ink.all() else saturation[~ink]
        least, most = _SATURATION_RANGE
        threshold = float(np.clip(otsu_threshold(counted), max(least, glass.saturation_noise), most))
    mask = ndimage.median_filter(saturation, size=3) > threshold
    if ink is not None:
        mask &= ~ink
    mask = _without_holes_and_dust(mask)
    if ink is not None:
        mask &= ~ink  # closing bridges strokes
    return FoundTissue(mask, _coverage(saturation, mask, ink), ink, threshold)


def _without_holes_and_dust(mask: np.ndarray) -> np.ndarray:
    y, x = np.ogrid[-_CLOSING_RADIUS : _CLOSING_RADIUS + 1, -_CLOSING_RADIUS : _CLOSING_RADIUS + 1]
    # Padded, so that closing does not eat tissue at the edge of the slide.
    padded = np.pad(mask, _CLOSING_RADIUS, mode="edge")
    disk = x**2 + y**2 <= _CLOSING_RADIUS**2
    closed = ndimage.binary_closing(padded, disk)[_CLOSING_RADIUS:-_CLOSING_RADIUS, _CLOSING_RADIUS:-_CLOSING_RADIUS]
    pieces, _ = ndimage.label(closed)
    large = np.bincount(pieces.ravel()) >= min(_SMALLEST_AREA, mask.size)
    large[0] = False
    return large[pieces]


def _coverage(saturation: np.ndarray, mask: np.ndarray, ink: Optional[np.ndarray]) -> np.ndarray:
    """How much of each px is tissue: at the edge of the mask, where a px is partly glass, by its saturation.

    A threshold below half of the tissue's saturation takes px for tissue that are mostly glass, which makes a core of
    50 um a sixteenth wider than it is.
    """
    coverage = mask.astype(np.float32)
    inner, outer = ndimage.binary_erosion(mask, border_value=1), ndimage.binary_dilation(mask)
    if not inner.any() or outer.all():
        return coverage
    glass, tissue = np.median(saturation[~outer]), np.median(saturation[inner])
    edge = outer & ~inner
    if ink is not None:
        edge &= ~ndimage.binary_dilation(ink)
    if tissue > glass:
        coverage[edge] = np.clip((saturation[edge] - glass) / (tissue - glass), 0, 1)
    return coverage


def _saturation(pixels: np.ndarray) -> np.ndarray:
    """float32 `(height, width)` in [0, 1], of values from 0 to 255."""
    brightest = pixels.max(axis=2).astype(np.float32)
    spread = brightest - pixels.min(axis=2)
    return np.divide(spread, brightest, out=np.zeros_like(brightest), where=brightest > 255 * _BLACK)


def otsu_threshold(values: np.ndarray, bins: int = 256) -> float:
    """The threshold between two classes of values in [0, 1] with the largest variance between them (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=bins, range=(0, 1))
    centers = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    mass = np.cumsum(counts * centers)
    mean_below = mass / np.maximum(below, 1)
    mean_above = (mass[-1] - mass) / np.maximum(above, 1)
    return float(edges[1 + np.argmax(below * above * (mean_below - mean_above) ** 2)])
