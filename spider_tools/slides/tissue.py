"""Which cells of a slide hold tissue: found by its colour, or drawn by the user."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import numpy as np

from .drawings import read_drawing
from .lattice import Lattice
from .pixel_tissue import AUTOMATIC, tissue_of
from .reader import Slide
from .settings import TissueSearch
from .slide_error import SlideError
from .view import SlideView

logger = logging.getLogger(__name__)

# One px of the mask is a fourteenth of a patch, 8 um for a patch of 112 um.
_MASK_PX_PER_PATCH = 14
_LARGEST_MASK = 4096
_NEARLY_ALL = 0.95  # of what was scanned: a drawing that marks more was often read the wrong way round


@dataclass(frozen=True, eq=False)
class TissueMask:
    """Tissue at low magnification.

    Attributes:
        mask: bool `(height, width)`.
        coverage: Share of each px that is tissue, float32 `(height, width)` in [0, 1]; None for all or nothing.
        ink: Where markers wrote, bool `(height, width)`; None where nobody looked.
        scale: `(x, y)`, level-0 px per px of the mask.
        origin: How it was found, for the report.
        warnings: What the reader of the report has to know of it.
    """

    mask: np.ndarray
    scale: tuple[float, float]
    origin: str
    warnings: tuple[str, ...] = ()
    coverage: Optional[np.ndarray] = None
    ink: Optional[np.ndarray] = None

    @property
    def ink_share(self) -> float:
        """Of the slide, 0 to 1."""
        return 0.0 if self.ink is None else float(self.ink.mean())

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
                f"{share.max():.3f}. Draw the tissue yourself with --mask, or lower --min_tissue or --tissue_threshold."
            )
        return cells


def find_tissue(
    slide: Slide, lattice: Lattice, drawn: Optional[Path] = None, search: TissueSearch = AUTOMATIC
) -> TissueMask:
    """The tissue of a slide.

    Args:
        slide: Is read at low magnification.
        lattice: Says how large a patch is.
        drawn: What `drawings.read_drawing` takes.
        search: How tissue is found that nobody has drawn.

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
        found = tissue_of(pixels, search)
        mask, coverage, ink = found.mask, found.coverage, found.ink
        origin, warnings = f"saturation above {found.threshold:.3f}", _of_damage(readable)
    else:
        mask, origin = read_drawing(drawn, view)
        coverage, ink = None, None
        warnings = _of_drawing(mask, view)
    for warning in warnings:
        logger.warning("%s: %s", slide.path, warning)
    return TissueMask(mask, view.scale, origin, warnings, coverage, ink)


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


def _nearest_px(edges: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """First px of every cell, and one beyond its last, at least one px for each."""
    px = np.rint(edges).astype(np.int64)
    first = np.clip(px[:-1], 0, length - 1)
    return first, np.clip(np.maximum(px[1:], first + 1), 1, length)
