"""Folds: bands where the tissue lies double and absorbs about twice as much of every colour as beside them."""

import numpy as np
from scipy import ndimage

_SMOOTHING = 1.0  # px of 8 um: single nuclei go, folds of 30 um stay
_SURROUNDINGS = 61  # px: what a px is compared with first
_DARKER = 1.4  # times its surroundings, with the fold itself among them
_SMALLEST, _LEAST_ELONGATION = 80, 3.5  # px; area to that of the largest disk inside: 3 times as long as wide
_LARGEST_RADIUS = 25  # px; what is thicker is another piece or kind of tissue
_GAP, _REACH = 2, 8  # px beside a band, in which it fades, and up to which its surroundings are looked at
_LEAST_RATIO, _MOST_RATIO = 1.5, 2.8  # of the absorption in a band and beside it: 2 is the truth
# Epithelium, lymphocytes, muscle and blood absorb more of the colour of one stain; a fold absorbs more of all alike.
_MOST_UNEVEN = 1.25
_LEAST_TISSUE_BESIDE = 0.7  # of what lies beside a band; the horny layer of skin has glass at one side
_MOST_MIXED = 1.6  # upper to lower quartile of the absorption beside it: the edge between two tissues is no fold
_LEAST_ABSORPTION = 0.02  # optical density of a colour beside a fold that can be compared


def folds_of(white: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    """Where tissue lies double: elongated, and about twice as dense in all three colours as right beside it.

    By the Beer-Lambert law two layers absorb twice in every colour, whatever the stains, where a structure that is
    only dark has its own proportions of them. Both sides of a band must lie in tissue.

    Args:
        white: `(height, width, 3)` at about 8 um/px, 0 to 255, on white glass (`artifacts.on_white_glass`).
        tissue: bool `(height, width)`, what counts as tissue.

    Returns:
        bool `(height, width)`, inside the tissue.
    """
    folds = np.zeros(tissue.shape, dtype=bool)
    if not tissue.any():
        return folds
    density = -np.log10(np.clip(white, 1, 255).astype(np.float32) / 255)
    smooth = np.stack([ndimage.gaussian_filter(density[..., channel], _SMOOTHING) for channel in range(3)], axis=-1)
    total = smooth.sum(axis=2)
    weight = ndimage.uniform_filter(tissue.astype(np.float32), _SURROUNDINGS, mode="constant")
    around = ndimage.uniform_filter(np.where(tissue, total, 0), _SURROUNDINGS, mode="constant") / np.maximum(
        weight, 1e-6
    )
    dark = tissue & (total > _DARKER * around)
    bands, count = ndimage.label(ndimage.binary_opening(dark), np.ones((3, 3)))
    sizes = np.bincount(bands.ravel(), minlength=count + 1)
    for number, window in enumerate(ndimage.find_objects(bands), start=1):
        if sizes[number] < _SMALLEST:
            continue
        near = tuple(slice(max(part.start - _REACH, 0), part.stop + _REACH) for part in window)
        band = bands[near] == number
        if _is_long(band) and _is_double(smooth[near], band, tissue[near] & ~dark[near]):
            folds[near] |= ndimage.binary_dilation(band) & tissue[near]
    return folds


def _is_long(band: np.ndarray) -> bool:
    radius = float(ndimage.distance_transform_edt(np.pad(band, 1)).max())
    return radius <= _LARGEST_RADIUS and band.sum() >= _LEAST_ELONGATION * np.pi * radius**2


def _is_double(density: np.ndarray, band: np.ndarray, single: np.ndarray) -> bool:
    """Whether a band has twice the density of what lies beside it, alike in all colours."""
    distance = ndimage.distance_transform_edt(~band)
    ring = (distance > _GAP) & (distance <= _REACH)
    beside = ring & single
    if beside.sum() < _LEAST_TISSUE_BESIDE * ring.sum():
        return False
    below = np.median(density[beside], axis=0)
    low, high = np.quantile(density[beside].sum(axis=1), (0.25, 0.75))
    if below.min() < _LEAST_ABSORPTION or high > _MOST_MIXED * low:
        return False
    ratios = np.median(density[band], axis=0) / below
    return bool(ratios.min() >= _LEAST_RATIO and ratios.max() <= min(_MOST_RATIO, _MOST_UNEVEN * ratios.min()))
