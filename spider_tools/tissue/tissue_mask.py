"""Which cells of a slide hold tissue: found by its colour or by another tool, or drawn by the user."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import numpy as np

from ..slide_files.lattice import Lattice
from ..slide_files.slide import Slide
from ..slide_files.slide_error import SlideError
from ..slide_files.view import SlideView
from .drawings import read_drawing
from .learned_masks import read_learned_mask
from .left_out import LeftOut, find_left_out
from .pixel_tissue import AUTOMATIC, tissue_of
from .search import TissueSearch

logger = logging.getLogger(__name__)

# One px of the mask is a fourteenth of a patch, 8 um for a patch of 112 um.
_MASK_PX_PER_PATCH = 14
_LARGEST_MASK = 4096
_BLACK = 64  # grey levels: ink and what was not scanned is darker
_NEARLY_ALL = 0.95  # of what was scanned: a drawing that marks more was often read the wrong way round


@dataclass(frozen=True, eq=False)
class TissueMask:
    """Tissue at low magnification.

    Attributes:
        mask: bool `(height, width)`.
        coverage: Share of each px that is tissue, float32 `(height, width)` in [0, 1]; None for all or nothing.
        scale: `(x, y)`, level-0 px per px of the mask.
        origin: How it was found, for the report.
        warnings: What the reader of the report has to know of it.
        left_out: What is no part of it, by kind; None where nobody looked.
    """

    mask: np.ndarray
    scale: tuple[float, float]
    origin: str
    warnings: tuple[str, ...] = ()
    coverage: Optional[np.ndarray] = None
    left_out: Optional[LeftOut] = None

    @property
    def left_out_in_words(self) -> str:
        """What is left out and how much it is, for the report."""
        if self.left_out is None:
            return "nothing: pen, bubbles, folds and blur were not looked for"
        return self.left_out.sentence

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
            kept = "" if self.left_out is None else self.left_out.way_back
            raise SlideError(
                f"No tissue was found ({self.origin}): no cell has a share of {min_tissue:g}, the largest is "
                f"{share.max():.3f}. Draw the tissue yourself with --mask, or lower --min_tissue or "
                f"--tissue_threshold.{kept}"
            )
        return cells


def find_tissue(
    slide: Slide,
    lattice: Lattice,
    drawn: Optional[Path] = None,
    search: TissueSearch = AUTOMATIC,
    learned: Optional[Path] = None,
) -> TissueMask:
    """The tissue of a slide.

    Args:
        slide: Is read at low magnification, and at 2 um/px for blur.
        lattice: Says how large a patch is.
        drawn: What `drawings.read_drawing` takes; it is trusted whole.
        search: How tissue is found that nobody has drawn.
        learned: What `learned_masks.read_learned_mask` takes, instead of tissue by its colour; artifacts are left out.

    Raises:
        SlideError: The slide, the drawing or the mask cannot be used.
    """
    patch = [lattice.patch_size * factor / _MASK_PX_PER_PATCH for factor in lattice.scale]
    coarser = max(1.0, *(side / factor / _LARGEST_MASK for side, factor in zip(slide.size, patch)))
    # Neither finer than the slide nor so coarse that nothing is left of it.
    scale = tuple(min(max(1.0, factor * coarser), float(side)) for factor, side in zip(patch, slide.size))
    view = SlideView(slide, (scale[0], scale[1]))
    if drawn is None:
        found = _found(view, search, learned)
    else:
        mask, origin = read_drawing(drawn, view)
        found = TissueMask(mask, view.scale, origin, _of_drawing(mask, view))
    for warning in found.warnings:
        logger.warning("%s: %s", slide.path, warning)
    return found


def _found(view: SlideView, search: TissueSearch, learned: Optional[Path]) -> TissueMask:
    """Tissue by its colour or as another tool has found it, without artifacts unless these are to be kept."""
    pixels, readable = view.read_readable()
    warnings = _of_damage(readable)
    coverage: Optional[np.ndarray]
    if learned is None:
        by_color = tissue_of(pixels, search)
        mask, coverage, origin = by_color.mask, by_color.coverage, f"saturation above {by_color.threshold:.3f}"
    else:
        mask, origin = read_learned_mask(learned, view)
        coverage = None
        _check_is_darker(learned, mask, pixels)
        warnings += _of_drawing(mask, view)
    if search.keep_artifacts:
        return TissueMask(mask, view.scale, origin, warnings, coverage)
    left_out = find_left_out(view.slide, pixels, mask, view.scale)
    mask = mask & ~left_out.anywhere
    if coverage is not None:
        coverage = np.where(left_out.anywhere, np.float32(0), coverage)
    return TissueMask(mask, view.scale, origin, (*warnings, *left_out.warnings), coverage, left_out)


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


def _check_is_darker(path: Path, mask: np.ndarray, pixels: np.ndarray) -> None:
    """Some segmenters write 0 for tissue: refuse a mask of what is brighter than the rest, black frames left aside."""
    brightness = pixels.mean(axis=2)
    seen = brightness > _BLACK
    inside, outside = brightness[mask & seen], brightness[~mask & seen]
    if inside.size and outside.size and inside.mean() > outside.mean():
        raise SlideError(
            f"The mask {path} marks what is brighter than the rest of the slide, {inside.mean():.0f} to "
            f"{outside.mean():.0f} grey levels: save it with 0 for glass. --mask takes a drawing as it is."
        )


def _nearest_px(edges: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """First px of every cell, and one beyond its last, at least one px for each."""
    px = np.rint(edges).astype(np.int64)
    first = np.clip(px[:-1], 0, length - 1)
    return first, np.clip(np.maximum(px[1:], first + 1), 1, length)
