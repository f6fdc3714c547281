"""Air bubbles under the cover slip: a thin, dark and colourless rim around what is paler than its surroundings."""

import numpy as np
from scipy import ndimage

_THICKEST_RIM = 4  # px of 8 um to each side of its middle; the strokes of pens are thicker
_RIM_DROP, _RIM_VALUE, _RIM_CHROMA = 0.15, 0.60, 0.15  # darker than beside it by, brightest channel, and its spread
_SMALLEST_SIDE = 20  # px
_MOST_RIM = 0.5  # of the bubble's area
_LEAST_ROUND, _LEAST_AXES = 0.9, 0.5  # area to that of the ellipse of the same moments; short to long axis
_REACH = 8  # px around a bubble to compare it with
_WASHED_OUT = 0.75  # of the absorption around it, at most
_GLASS_DENSITY = 0.09  # sum of the optical densities of three colours that is glass and noise


def bubbles_of(white: np.ndarray) -> np.ndarray:
    """Where air lies under the cover slip, as far as a closed rim tells it.

    Not found are bubbles that leave the slide, touch another dark line, or have a rim too faint to be told from tissue.
    What is ringed by a thin black pen is no bubble, unless it is paler inside than outside.

    Args:
        white: `(height, width, 3)` at about 8 um/px, 0 to 255, on white glass (`artifacts.on_white_glass`).

    Returns:
        bool `(height, width)`, rims included.
    """
    brightest = white.max(axis=2) / 255
    chroma = brightest - white.min(axis=2) / 255
    around = ndimage.grey_closing(brightest, size=(2 * _THICKEST_RIM + 1,) * 2, mode="nearest")
    rims = (around - brightest >= _RIM_DROP) & (brightest <= _RIM_VALUE) & (chroma <= _RIM_CHROMA)
    lines, _ = ndimage.label(ndimage.binary_dilation(rims), np.ones((3, 3)))
    bubbles = np.zeros(rims.shape, dtype=bool)
    density = -np.log10(np.clip(white, 1, 255).astype(np.float32) / 255).sum(axis=2)
    for number, window in enumerate(ndimage.find_objects(lines), start=1):
        if min(part.stop - part.start for part in window) < _SMALLEST_SIDE:
            continue
        near = tuple(slice(max(part.start - _REACH, 0), part.stop + _REACH) for part in window)
        line = lines[near] == number
        whole = _largest(ndimage.binary_opening(ndimage.binary_fill_holes(line), iterations=3))
        if (line & whole).sum() <= _MOST_RIM * whole.sum() and _is_round(whole):
            inside, beside = whole & ~line, ndimage.binary_dilation(whole, iterations=_REACH) & ~(whole | line)
            if _is_paler(density[near], ndimage.binary_erosion(inside), beside):
                bubbles[near] |= whole | line & ndimage.binary_dilation(whole, iterations=2)
    return bubbles


def _largest(mask: np.ndarray) -> np.ndarray:
    pieces, count = ndimage.label(mask)
    return pieces == 1 + int(np.argmax(np.bincount(pieces.ravel(), minlength=2)[1:])) if count else mask


def _is_round(whole: np.ndarray) -> bool:
    points = np.argwhere(whole)
    if len(points) < _SMALLEST_SIDE**2 / 2:
        return False
    short, long = np.sqrt(np.linalg.eigvalsh(np.cov(points.T)))  # a quarter of the axes of an ellipse
    return bool(short >= _LEAST_AXES * long and len(points) >= _LEAST_ROUND * 4 * np.pi * short * long)


def _is_paler(density: np.ndarray, inside: np.ndarray, beside: np.ndarray) -> bool:
    """Whether all of the inside is washed out, or glass: a piece of tissue that a pen has ringed is not."""
    if not inside.any() or not beside.any():
        return False
    within, without = (np.quantile(density[part], (0.5, 0.99)) for part in (inside, beside))
    return bool((within <= np.maximum(_WASHED_OUT * without, _GLASS_DENSITY)).all())
