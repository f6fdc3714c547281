"""The slide at one magnification, as if the whole of it had been resampled at once."""

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
from PIL import Image

from .mpp_tolerance import MOST_MPP_TOLERANCE
from .slide import Slide
from .slide_error import SlideError, UnreadableError

RESAMPLING = "Pillow bilinear"  # embeddings of px that were made otherwise differ
_MOST_BLOCKS = 40  # of 448 px, 24 MB: what a batch of neighbouring patches touches
_BLOCK_PX = 448
_SOURCE_PX = 1024
_SMALLEST_LOST_PX = 16  # where a view cannot be read, squares of this side are left out, not whole blocks
MOST_UNREADABLE = 0.1  # of a slide; what is damaged more than this is refused
# 224 * (0.5 / 0.25) may come out a rounding error above a whole number.
_ROUNDING = 1e-6


def model_scale(slide: Slide, mpp: float, tolerance: float) -> tuple[float, float]:
    """How many level-0 px make one px for the model.

    A level whose um/px are the model's up to the tolerance is taken as it is. Otherwise the true factor between the
    slide and the model is returned, for which `SlideView` resamples the next finer level.

    Args:
        slide: Says its um/px.
        mpp: The model's um/px.
        tolerance: Relative difference that counts as none.

    Returns:
        `(x, y)` factors.

    Raises:
        SlideError: The slide is coarser than the model by more than the tolerance; what it lacks cannot be invented.
    """
    deviations = [
        max(abs(um * factor / mpp - 1) for um, factor in zip(slide.mpp, level.downsample)) for level in slide.levels
    ]
    closest = int(np.argmin(deviations))
    if deviations[closest] <= tolerance:
        return slide.levels[closest].downsample
    if max(slide.mpp) > mpp * (1 + tolerance):
        least = math.ceil(deviations[closest] * 100) / 100
        way_out = (
            f"to classify it nevertheless, give --mpp_tolerance {least:g}."
            if least <= MOST_MPP_TOLERANCE
            else "it is too coarse to be classified: scan it at a higher magnification."
        )
        raise SlideError(
            f"{slide.path} has {slide.mpp[0]:g} um/px at full resolution, the model was trained at {mpp:g} um/px, "
            f"which is finer by more than the tolerance of {tolerance:g}. If the slide's um/px are wrong, give the "
            f"true value as --mpp; {way_out}"
        )
    return (mpp / slide.mpp[0], mpp / slide.mpp[1])


class SlideView:
    """Pixels of a slide at a scale of its own.

    A pixel depends on its place alone, not on the window that is read: overlapping windows agree to the last digit.
    The coarsest level that is not coarser than the view is read, in blocks at fixed places, and reduced by Pillow's
    antialiased bilinear resizing, a triangle filter that is two pixels of the coarser side wide. Each block is read
    with all that its filter reaches, so that it is what resizing the whole slide at once would give, up to one grey
    level of rounding. At the scale of a level its own pixels are returned.

    Args:
        slide: Is read.
        scale: `(x, y)`, level-0 px per px of the view.
        coarsest: The last level that may be read, by default the last one of the slide.
    """

    def __init__(self, slide: Slide, scale: tuple[float, float], coarsest: Optional[int] = None) -> None:
        self.slide = slide
        self.scale = scale
        self.size = (int(slide.size[0] / scale[0] + _ROUNDING), int(slide.size[1] / scale[1] + _ROUNDING))
        finer = [
            number
            for number, level in enumerate(slide.levels[: None if coarsest is None else coarsest + 1])
            if all(factor <= s * (1 + _ROUNDING) for factor, s in zip(level.downsample, scale))
        ]
        self.level = max(finer, key=lambda number: slide.levels[number].downsample[0], default=0)
        level = slide.levels[self.level]
        self._factors = (scale[0] / level.downsample[0], scale[1] / level.downsample[1])
        self._block_px = int(min(max(_SOURCE_PX / max(self._factors), 16), _BLOCK_PX))
        self._blocks: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._unreadable: dict[tuple[int, int], str] = {}  # blocks that are not tried again

    @property
    def mpp(self) -> tuple[float, float]:
        """`(x, y)`, um per px of the view."""
        return (self.slide.mpp[0] * self.scale[0], self.slide.mpp[1] * self.scale[1])

    @property
    def is_resampled(self) -> bool:
        """Whether its px are made from those of a finer level; otherwise they are those of a level."""
        return self._factors != (1.0, 1.0)

    def read(self, corner: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        """A window of the view.

        Args:
            corner: `(x, y)` of the upper left px, in px of the view.
            size: `(width, height)` in px; the window lies inside the view.

        Returns:
            uint8 `(height, width, 3)`, a copy.

        Raises:
            UnreadableError: The file is damaged there.
            SlideError: The window leaves the slide.
        """
        (x, y), (width, height) = corner, size
        if x < 0 or y < 0 or x + width > self.size[0] or y + height > self.size[1]:
            raise SlideError(
                f"{self.slide.path}: the window {corner} of {size} px leaves the {self.size} px of the view."
            )
        try:
            return self._from_blocks(corner, size)
        except UnreadableError:
            if max(size) > self._block_px:
                raise
            return self._made(corner, size)  # what cannot be read may lie in a block beside the window

    def read_all(self) -> np.ndarray:
        """The whole view, uint8 `(height, width, 3)`; meant for views at low magnification."""
        return self.read((0, 0), self.size)

    def read_readable(self) -> tuple[np.ndarray, np.ndarray]:
        """The whole view, as far as it can be read; meant for views at low magnification.

        Where a level is damaged, a finer one is read. What no level holds is white.

        Returns:
            uint8 `(height, width, 3)`, and bool `(height, width)`, True where it was read.

        Raises:
            SlideError: More than a tenth cannot be read.
        """
        pixels = np.full((*self.size[::-1], 3), 255, dtype=np.uint8)
        readable = np.ones(self.size[::-1], dtype=bool)
        self._fill(pixels, readable, (0, 0), self.size)
        return pixels, readable

    def _fill(self, pixels: np.ndarray, readable: np.ndarray, corner: tuple[int, int], size: tuple[int, int]) -> None:
        """Read a window into an image of the whole view; where that fails, its quarters, down to small squares."""
        (x, y), (width, height) = corner, size
        window = (slice(y, y + height), slice(x, x + width))
        try:
            pixels[window] = self.read(corner, size)
        except UnreadableError as error:
            if max(size) > _SMALLEST_LOST_PX:
                for begin, part in _quarters(corner, size):
                    self._fill(pixels, readable, begin, part)
            elif self.level > 0:
                SlideView(self.slide, self.scale, self.level - 1)._fill(pixels, readable, corner, size)
            else:
                readable[window] = False
                if (~readable).sum() > max(MOST_UNREADABLE * readable.size, _SMALLEST_LOST_PX**2):
                    raise SlideError(f"{error} More than {MOST_UNREADABLE:.0%} of the slide cannot be read.") from error

    def _from_blocks(self, corner: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        (x, y), (width, height) = corner, size
        window = np.empty((height, width, 3), dtype=np.uint8)
        side = self._block_px
        for row in range(y // side, (y + height - 1) // side + 1):
            for column in range(x // side, (x + width - 1) // side + 1):
                block = self._block(row, column)
                top, left = max(y, row * side), max(x, column * side)
                part = block[top - row * side :, left - column * side :][: y + height - top, : x + width - left]
                window[top - y :, left - x :][: part.shape[0], : part.shape[1]] = part
        return window

    def _block(self, row: int, column: int) -> np.ndarray:
        if (row, column) in self._blocks:
            self._blocks.move_to_end((row, column))
            return self._blocks[row, column]
        if (row, column) in self._unreadable:
            raise UnreadableError(self._unreadable[row, column])
        if len(self._blocks) >= _MOST_BLOCKS:
            self._blocks.popitem(last=False)
        corner = (column * self._block_px, row * self._block_px)
        size = (min(self._block_px, self.size[0] - corner[0]), min(self._block_px, self.size[1] - corner[1]))
        try:
            self._blocks[row, column] = block = self._made(corner, size)
        except UnreadableError as error:
            self._unreadable[row, column] = str(error)
            raise
        return block

    def _made(self, corner: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        """A window of the view, made from those px of its level that it needs and no others."""
        if not self.is_resampled:
            return self.slide.read_level(self.level, corner, size)
        level_size = self.slide.levels[self.level].size
        x, y = (
            _source(corner[axis], size[axis], self._factors[axis], level_size[axis], self.size[axis]) for axis in (0, 1)
        )
        pixels = self.slide.read_level(self.level, (x.start, y.start), (x.length, y.length))
        if x.missing or y.missing:
            pixels = np.pad(pixels, ((0, y.missing), (0, x.missing), (0, 0)), mode="edge")
        box = (x.box[0], y.box[0], x.box[1], y.box[1])
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR, box))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_blocks": OrderedDict()}


@dataclass(frozen=True)
class _Source:
    """What of a level makes a block of the view, along one axis.

    Attributes:
        start: First px of the level that is read.
        length: How many are read.
        missing: How many px the view is larger there than the level, of which a scanner may have dropped the last.
        box: Where the block begins and ends, in px from `start`.
    """

    start: int
    length: int
    missing: int
    box: tuple[float, float]


def _quarters(corner: tuple[int, int], size: tuple[int, int]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Corner and size of the parts of a window, halved along every side that is longer than one px."""
    halves = [[(0, length)] if length == 1 else [(0, length // 2), (length // 2, length)] for length in size]
    return [
        ((corner[0] + left, corner[1] + top), (right - left, bottom - top))
        for top, bottom in halves[1]
        for left, right in halves[0]
    ]


def _source(first: int, count: int, factor: float, level_length: int, view_length: int) -> _Source:
    """The px of the level for the px `first` to `first + count` of the view, and for all that their filter reaches."""
    begin, end = first * factor, (first + count) * factor
    whole = max(level_length, math.ceil((view_length - 2 * _ROUNDING) * factor))
    margin = math.ceil(max(factor, 1.0)) + 1
    start = max(math.floor(begin) - margin, 0)
    stop = min(math.ceil(end) + margin, whole)
    length = min(stop, level_length) - start
    return _Source(start, length, stop - start - length, (begin - start, min(end, whole) - start))
