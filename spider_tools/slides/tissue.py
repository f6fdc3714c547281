"""Which cells of a slide hold tissue: found by Otsu's threshold on saturation, or drawn by the user."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import numpy as np
from scipy import ndimage

from .drawings import read_drawing
from .lattice import Lattice
from .reader import Slide
from .slide_error import SlideError
from .view import SlideView

logger = logging.getLogger(__name__)

# One px of the mask is a fourteenth of a patch, 8 um for a patch of 112 um.
_MASK_PX_PER_PATCH = 14
_LARGEST_MASK = 4096
# A slide without glass, or without tissue, has no valley between two peaks for Otsu to find. Glass is less saturated
# than the first value even if it is yellowish, stained tissue more than the second even if it is pale.
_SATURATION_RANGE = (0.05, 0.12)
_BLACK = 0.1  # below this brightness it is a marker's ink or unscanned, and its saturation means nothing
_CLOSING_RADIUS = 4  # px: closes fat cells and the lumina of glands
_SMALLEST_AREA = 40  # px: smaller is dust
_NEARLY_ALL = 0.95  # of what was scanned: a drawing that marks more was often read the wrong way round


@dataclass(frozen=True, eq=False)
class TissueMask:
    """Tissue at low magnification.

    Attributes:
        mask: bool `(height, width)`.
        coverage: Share of each px that is tissue, float32 `(height, width)` in [0, 1], where the mask is bool alone.
        scale: `(x, y)`, level-0 px per px of the mask.
        origin: How it was found, for the report.
        warnings: What the reader of the report has to know of it.
    """

    mask: np.ndarray
    scale: tuple[float, float]
    origin: str
    warnings: tuple[str, ...] = ()
    coverage: Optional[np.ndarray] = None

    def area_mm2(self, mpp: tuple[float, float]) -> float:
        """Area of all tissue of the slide, whose level 0 has so many um/px, x and y."""
        counted = self.mask if self.coverage is None else self.coverage
        return float(counted.sum(dtype=np.float64) * self.scale[0] * mpp[0] * self.scale[1] * mpp[1] / 1e6)

    def share(self, lattice: Lattice) -> np.ndarray:
        """Share of tissue in every cell, float64 of the lattice's shape, 0 to 1."""
        counted = self.mask if self.coverage is None else self.coverage
        sums = np.pad(np.cumsum(np.cumsum(counted, axis=0, dtype=np.float64), axis=1), ((1, 0), (1, 0)))
        (left, right), (top, bottom) = (
            _nearest_px(edges / scale, length)
            for edges, scale, length in zip(lattice.cell_edges_level0(), self.scale, self.mask.shape[::-1])
        )
        counts = (
            sums[np.ix_(bottom, right)]
            - sums[np.ix_(top, right)]
            - sums[np.ix_(bottom, left)]
            + sums[np.ix_(top, left)]
        )
        return np.clip(counts / np.outer(bottom - top, right - left), 0, 1)

    def cells(self, lattice: Lattice, min_tissue: float) -> np.ndarray:
        """Cells with at least this share of tissue, bool of the lattice's shape.

        Raises:
            SlideError: There are none.
        """
        share = self.share(lattice)
        cells = share >= min_tissue
        if not cells.any():
            raise SlideError(
                f"No tissue was found ({self.origin}): no cell has a share of {min_tissue:g}, the largest is "
                f"{share.max():.3f}. Draw the tissue yourself with --mask, or lower --min_tissue."
            )
        return cells


def find_tissue(slide: Slide, lattice: Lattice, drawn: Optional[Path] = None) -> TissueMask:
    """The tissue of a slide.

    Args:
        slide: Is read at low magnification.
        lattice: Says how large a patch is.
        drawn: What `drawings.read_drawing` takes.

    Raises:
        SlideError: The slide or the drawing cannot be used.
    """
    patch = [lattice.patch_size * factor / _MASK_PX_PER_PATCH for factor in lattice.scale]
    coarser = max(1.0, *(side / factor / _LARGEST_MASK for side, factor in zip(slide.size, patch)))
    # Neither finer than the slide nor so coarse that nothing is left of it.
    scale = tuple(min(max(1.0, factor * coarser), float(side)) for factor, side in zip(patch, slide.size))
    view = SlideView(slide, (scale[0], scale[1]))
    if drawn is None:
        pixels, readable = view.read_readable()
        mask, threshold = tissue_of(pixels)
        coverage = coverage_of(pixels, mask)
        origin, warnings = f"saturation above {threshold:.3f}", _of_damage(readable)
    else:
        mask, origin = read_drawing(drawn, view)
        coverage = None
        warnings = _of_drawing(mask, view)
    for warning in warnings:
        logger.warning("%s: %s", slide.path, warning)
    return TissueMask(mask, view.scale, origin, warnings, coverage)


def _of_damage(readable: np.ndarray) -> tuple[str, ...]:
    if readable.all():
        return ()
    return (f"{1 - readable.mean():.2%} of the slide cannot be read at low magnification and counts as glass.",)


def _of_drawing(mask: np.ndarray, view: SlideView) -> tuple[str, ...]:
    (x, y, width, height), scale = view.slide.bounds, view.scale
    left, top = max(0, int(x / scale[0])), max(0, int(y / scale[1]))
    scanned = mask[top : int(np.ceil((y + height) / scale[1])), left : int(np.ceil((x + width) / scale[0]))]
    share = float(scanned.mean()) if scanned.size else 0.0
    if 0 < share <= _NEARLY_ALL:
        return ()
    what = "nearly all" if share else "nothing"
    return (f"The mask marks {what} of the slide, {share:.0%}: check that it is this slide's and not inverted.",)


def tissue_of(pixels: np.ndarray) -> tuple[np.ndarray, float]:
    """Tissue by its saturation.

    Args:
        pixels: uint8 `(height, width, 3)` at about 8 um/px.

    Returns:
        The mask, bool `(height, width)`, and the threshold, saturation in [0, 1].
    """
    saturation = _saturation(pixels)
    threshold = float(np.clip(otsu_threshold(saturation), *_SATURATION_RANGE))
    mask = ndimage.median_filter(saturation, size=3) > threshold
    y, x = np.ogrid[-_CLOSING_RADIUS : _CLOSING_RADIUS + 1, -_CLOSING_RADIUS : _CLOSING_RADIUS + 1]
    # Padded, so that closing does not eat tissue at the edge of the slide.
    padded = np.pad(mask, _CLOSING_RADIUS, mode="edge")
    disk = x**2 + y**2 <= _CLOSING_RADIUS**2
    closed = ndimage.binary_closing(padded, disk)[_CLOSING_RADIUS:-_CLOSING_RADIUS, _CLOSING_RADIUS:-_CLOSING_RADIUS]
    pieces, _ = ndimage.label(closed)
    large = np.bincount(pieces.ravel()) >= min(_SMALLEST_AREA, mask.size)
    large[0] = False
    return large[pieces], threshold


def coverage_of(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """How much of each px is tissue: at the edge of the mask, where a px is partly glass, by its saturation.

    A threshold below half of the tissue's saturation takes px for tissue that are mostly glass, which makes a core of
    50 um a sixteenth wider than it is.

    Args:
        pixels: As of `tissue_of`.
        mask: What that has found.

    Returns:
        float32 `(height, width)` in [0, 1].
    """
    coverage = mask.astype(np.float32)
    inner, outer = ndimage.binary_erosion(mask, border_value=1), ndimage.binary_dilation(mask)
    if not inner.any() or outer.all():
        return coverage
    saturation = _saturation(pixels)
    glass, tissue = np.median(saturation[~outer]), np.median(saturation[inner])
    edge = outer & ~inner
    if tissue > glass:
        coverage[edge] = np.clip((saturation[edge] - glass) / (tissue - glass), 0, 1)
    return coverage


def _saturation(pixels: np.ndarray) -> np.ndarray:
    """float32 `(height, width)` in [0, 1]."""
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


def _nearest_px(edges: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """First px of every cell, and one beyond its last, at least one px for each."""
    px = np.rint(edges).astype(np.int64)
    first = np.clip(px[:-1], 0, length - 1)
    return first, np.clip(np.maximum(px[1:], first + 1), 1, length)
