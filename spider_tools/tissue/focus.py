"""Out-of-focus tissue: where fine detail is missing beside coarse detail, whatever the contrast."""

from dataclasses import dataclass
from typing import Optional

import numpy as np
from PIL import Image
from scipy import ndimage

from ..slide_files.slide import Slide
from ..slide_files.slide_error import UnreadableError

# At 2 um/px a blur of 2 um (standard deviation) shows and the sharp scans that were tried do not look blurred; and most
# slides hold a level that is not much finer, a sixteenth of their px.
_MPP, _MPP_TOLERANCE = 2.0, 0.06
_WINDOW, _SMALLEST_WINDOW = 64, 24  # px at 2 um/px
_CHEAP_MPP = 0.9  # a level finer than this is read in every second window of both axes only
_MOST_WINDOWS = 4096
_LEAST_TISSUE = 0.3  # of a window
# Standard deviations, in px, of the Gaussians between which detail is fine (0 to 0.7) or coarse (1.4 to 5.6).
_FINE, _COARSE_FROM, _COARSE_TO = 0.7, 1.4, 5.6
# Fine to coarse detail: 0.44 to 2.5 in 1267 windows of sharp skin and gut, at most 0.29 where they are blurred by 3 um.
_BLURRED = 0.28
_LEAST_DETAIL = 2.0  # grey levels of coarse detail: with less, as in mucus, nothing is known
_LEAST_WINDOWS = 3  # that touch, unless the slide has not as many
_BATCH = 256


@dataclass(frozen=True, eq=False)
class _Squares:
    """A grid of squares over the slide, in the middle of each of which is a window.

    Attributes:
        row: Of the square of every row of the tissue mask, int64 `(height,)`.
        column: The same of columns, int64 `(width,)`.
        tissue: bool `(rows, columns)`, where there is enough of it.
        side: `(x, y)` in level-0 px.
    """

    row: np.ndarray
    column: np.ndarray
    tissue: np.ndarray
    side: tuple[float, float]


def blurred_of(slide: Slide, tissue: np.ndarray, scale: tuple[float, float]) -> Optional[np.ndarray]:
    """Where tissue is out of focus by about 2.5 um (standard deviation of a Gaussian) or more.

    Fine detail is compared with the coarse detail of the same window, in which contrast, stain and brightness cancel;
    a window without detail is not judged by itself but by its neighbours. The bound is the same for all slides, so
    that one which is blurred all over is told.

    Args:
        slide: Is read at about 2 um/px, in at most 4096 windows of 128 um.
        tissue: bool `(height, width)`; nothing else is looked at.
        scale: `(x, y)`, level-0 px per px of `tissue`.

    Returns:
        bool `(height, width)`, inside the tissue; None if the slide is coarser than 2 um/px.
    """
    level = _level_for(slide)
    if level is None:
        return None
    fine = max(um * factor for um, factor in zip(slide.mpp, slide.levels[level].downsample)) < _CHEAP_MPP
    step = 2 if fine else 1
    squares = _squares(slide, tissue, scale, step)
    while squares.tissue.sum() > _MOST_WINDOWS:
        step += 1
        squares = _squares(slide, tissue, scale, step)
    ratio = _ratios(slide, level, squares, tissue, scale)
    blurred = _touching(ratio < _BLURRED, int(np.isfinite(ratio).sum()))
    blurred |= _like_neighbours(blurred, np.isfinite(ratio)) & ~np.isfinite(ratio)
    return blurred[np.ix_(squares.row, squares.column)] & tissue


def _level_for(slide: Slide) -> Optional[int]:
    """The coarsest level that is fine enough."""
    fitting = [
        number
        for number, level in enumerate(slide.levels)
        if max(um * factor for um, factor in zip(slide.mpp, level.downsample)) <= _MPP * (1 + _MPP_TOLERANCE)
    ]
    return max(fitting, key=lambda number: slide.levels[number].downsample[0], default=None)


def _squares(slide: Slide, tissue: np.ndarray, scale: tuple[float, float], step: int) -> _Squares:
    side = (step * _WINDOW * _MPP / slide.mpp[0], step * _WINDOW * _MPP / slide.mpp[1])
    column, row = (
        ((np.arange(count) + 0.5) * factor / length).astype(np.int64)
        for count, factor, length in zip(tissue.shape[::-1], scale, side)
    )
    shape = (int(row[-1]) + 1, int(column[-1]) + 1)
    number = row[:, None] * shape[1] + column
    shares = np.bincount(number.ravel(), tissue.ravel(), shape[0] * shape[1]) / np.maximum(
        np.bincount(number.ravel()), 1
    )
    return _Squares(row, column, (shares >= _LEAST_TISSUE / step).reshape(shape), side)


def _ratios(slide: Slide, level: int, squares: _Squares, tissue: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    """Fine to coarse detail of every square, float64 `(rows, columns)`; NaN where nothing is known."""
    ratios = np.full(squares.tissue.shape, np.nan)
    batches: dict[tuple[int, ...], list] = {}
    for place in np.argwhere(squares.tissue):
        window = _read_window(slide, level, squares, tuple(place))
        if window is None:
            continue
        grey, (x, y) = window
        weight = tissue[np.ix_(_px(y, scale[1], tissue.shape[0]), _px(x, scale[0], tissue.shape[1]))]
        if weight.mean() >= _LEAST_TISSUE:
            batch = batches.setdefault(grey.shape, [])
            batch.append((place, grey, weight))
            if len(batch) == _BATCH:
                _judge(ratios, batches.pop(grey.shape))
    for batch in batches.values():
        _judge(ratios, batch)
    return ratios


def _px(places: np.ndarray, factor: float, count: int) -> np.ndarray:
    return np.minimum((places / factor).astype(np.int64), count - 1)


def _read_window(
    slide: Slide, level: int, squares: _Squares, place: tuple[int, ...]
) -> Optional[tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]]:
    """Grey levels at about 2 um/px, and the places of its columns and rows in level-0 px; None if it cannot be had."""
    corner, size, small = [], [], []
    for axis, number in enumerate(place[::-1]):
        factor = slide.levels[level].downsample[axis]
        mpp = slide.mpp[axis] * factor
        length = slide.levels[level].size[axis]
        take = _WINDOW if abs(mpp / _MPP - 1) <= _MPP_TOLERANCE else round(_WINDOW * _MPP / mpp)
        size.append(min(take, length))
        small.append(_WINDOW if size[-1] == take else int(size[-1] * _WINDOW / take))
        middle = (number + 0.5) * squares.side[axis] / factor
        corner.append(int(np.clip(round(middle - size[-1] / 2), 0, length - size[-1])))
    if min(small) < _SMALLEST_WINDOW:
        return None
    try:
        pixels = slide.read_level(level, (corner[0], corner[1]), (size[0], size[1]))
    except UnreadableError:
        return None
    if small != size:
        pixels = np.asarray(Image.fromarray(pixels).resize((small[0], small[1]), Image.Resampling.BOX))
    x, y = (
        (corner[axis] + (np.arange(small[axis]) + 0.5) * size[axis] / small[axis])
        * slide.levels[level].downsample[axis]
        for axis in (0, 1)
    )
    return pixels.mean(axis=2, dtype=np.float32), (x, y)


def _judge(ratios: np.ndarray, batch: list) -> None:
    places, grey, weight = (np.stack(parts) for parts in zip(*batch))
    ratios[tuple(places.T)] = detail_ratio(grey, weight)


def detail_ratio(grey: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Fine detail as a share of coarse detail, by differences of Gaussians.

    Args:
        grey: float32 `(count, height, width)`, grey levels at 2 um/px, 0 to 255.
        weight: bool of the same shape, what counts.

    Returns:
        float64 `(count,)`; NaN where there is too little coarse detail to tell.
    """

    def smooth(deviation: float) -> np.ndarray:
        return ndimage.gaussian_filter(grey, (0, deviation, deviation), mode="reflect")

    def energy(difference: np.ndarray) -> np.ndarray:
        return (difference**2 * weight).sum(axis=(1, 2), dtype=np.float64) / np.maximum(weight.sum(axis=(1, 2)), 1)

    middle = (_COARSE_FROM * _COARSE_TO) ** 0.5
    coarse_parts = [smooth(deviation) for deviation in (_COARSE_FROM, middle, _COARSE_TO)]
    coarse = energy(coarse_parts[0] - coarse_parts[1]) + energy(coarse_parts[1] - coarse_parts[2])
    fine = energy(grey - smooth(_FINE))
    known = coarse >= _LEAST_DETAIL**2
    return np.where(known, np.sqrt(fine / np.where(known, coarse, 1)), np.nan)


def _touching(blurred: np.ndarray, judged: int) -> np.ndarray:
    """Without single windows, which may be of a tissue that is smooth itself."""
    groups, _ = ndimage.label(blurred, np.ones((3, 3)))
    large = np.bincount(groups.ravel()) >= min(_LEAST_WINDOWS, max(judged, 1))
    large[0] = False
    return large[groups]


def _like_neighbours(blurred: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Where more than half of the neighbours that are known are blurred."""
    around = np.ones((3, 3))
    counts = ndimage.convolve(blurred.astype(np.int64), around, mode="constant")
    return 2 * counts > ndimage.convolve(known.astype(np.int64), around, mode="constant")
