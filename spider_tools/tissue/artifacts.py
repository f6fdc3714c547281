"""What lies on a slide and is no tissue: ink of markers, told by its colours, and glass that is not white."""

from dataclasses import dataclass

import numpy as np
from matplotlib.colors import rgb_to_hsv
from scipy import ndimage

# Hues in degrees, and least saturations, of the inks of markers. Hematoxylin and eosin lie between 245 and 350.
_GREEN, _BLUE, _RED = ((70, 200), 0.20), ((200, 240), 0.40), ((352, 378), 0.68)
_BLACK_VALUE, _BLACK_SPREAD = 0.35, 0.10  # brightest channel, and what the darkest is below it, at most
_SMALLEST_STROKE = 12  # px of 8 um; smaller is pigment or dust
_FRINGE = 2  # px around a stroke, in which ink and glass mix
_GLASS_VALUE, _GLASS_SATURATION, _GLASS_SPREAD = 0.70, 0.17, 3.0  # least, most, most standard deviation of 5 x 5 px
_LEAST_GLASS = 0.002  # of the px: with less nothing is known of the glass


@dataclass(frozen=True)
class Glass:
    """What the slide looks like where nothing lies on it.

    Attributes:
        color: Red, green and blue, 0 to 255.
        saturation_noise: What its saturation hardly ever exceeds once it is brought to white: the mean and six standard
            deviations.
    """

    color: tuple[float, float, float]
    saturation_noise: float


def ink_of(pixels: np.ndarray) -> np.ndarray:
    """Where a marker's ink lies: blue, green, red or black.

    Args:
        pixels: uint8 `(height, width, 3)` at about 8 um/px.

    Returns:
        bool `(height, width)`, the fringe of strokes included.
    """
    hsv = rgb_to_hsv(pixels.astype(np.float32) / 255)
    hue, saturation, value = hsv[..., 0] * 360, hsv[..., 1], hsv[..., 2]
    ink = (value < _BLACK_VALUE) & (value * saturation < _BLACK_SPREAD)
    for (first, last), least in (_GREEN, _BLUE, _RED):
        ink |= ((hue - first) % 360 <= last - first) & (saturation >= least)
    strokes, _ = ndimage.label(ink, np.ones((3, 3)))
    large = np.bincount(strokes.ravel()) >= _SMALLEST_STROKE
    large[0] = False
    return ndimage.binary_dilation(large[strokes], iterations=_FRINGE)


def glass_of(pixels: np.ndarray) -> Glass:
    """What the glass of a slide looks like: the smooth, bright and little coloured of its px; white if there are few.

    Args:
        pixels: As of `ink_of`.
    """
    values = pixels.astype(np.float32)
    grey = values.mean(axis=2)
    mean, mean_square = (ndimage.uniform_filter(part, 5, mode="nearest") for part in (grey, grey**2))
    spread = np.sqrt(np.maximum(mean_square - mean**2, 0))
    brightest = values.max(axis=2)
    saturation = 1 - values.min(axis=2) / np.maximum(brightest, 1)
    smooth = (spread <= _GLASS_SPREAD) & (brightest >= 255 * _GLASS_VALUE) & (saturation <= _GLASS_SATURATION)
    if smooth.mean() < _LEAST_GLASS:
        return Glass((255.0, 255.0, 255.0), 0.0)
    # Pale tissue may be smooth too: glass is what is brightest.
    smooth &= grey >= np.quantile(grey[smooth], 0.9) - 6
    red, green, blue = np.median(values[smooth], axis=0).tolist()
    white = values[smooth] / np.maximum([red, green, blue], 1)
    noise = 1 - white.min(axis=1) / np.maximum(white.max(axis=1), 1e-6)
    return Glass((red, green, blue), float(noise.mean() + 6 * noise.std()))


def on_white_glass(pixels: np.ndarray, glass: Glass) -> np.ndarray:
    """The same slide on white glass, float32 `(height, width, 3)`, 0 to 255."""
    return np.minimum(pixels.astype(np.float32) * 255 / np.maximum(glass.color, 1), 255).astype(np.float32)
