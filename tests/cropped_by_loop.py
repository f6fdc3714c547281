"""Regions and their patches, cropped one by one in float64, for the tests of the image processor.

Regions are of 5x5 patches of 8 px; images have rows that differ from columns, so that a swap shows.
"""

import numpy as np

from spider_tools import remote_code

FIELDS = ("context_size", "patch_size", "do_rescale", "do_normalize")
FIELDS += ("image_mean", "image_std", "allow_missing_context")
N, P = 5, 8
SIDE = N * P
MEAN = np.array([0.7068, 0.5755, 0.7220])
STD = np.array([0.1950, 0.2316, 0.1816])

SpiderImageProcessor = remote_code.image_processor_class()


def region_processor(**fields):
    """A processor for regions of 5x5 patches of 8 px."""
    return SpiderImageProcessor(context_size=N, patch_size=P, **fields)


def random_rgb(height=SIDE, width=SIDE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def normalised_patches(levels, n=N, p=P):
    """Patches `(n * n, 3, p, p)` of `(H, W, 3)` levels in 0..255, cropped one by one around the centre, in float64."""
    top, left = (levels.shape[0] - n * p) // 2, (levels.shape[1] - n * p) // 2
    patches = []
    for row in range(n):
        for column in range(n):
            y, x = top + row * p, left + column * p
            patches.append([(levels[y : y + p, x : x + p, c] / 255.0 - MEAN[c]) / STD[c] for c in range(3)])
    return np.array(patches, dtype=np.float64)


def levels_of(result):
    """Levels 0..255 `(B, n, n, 3, p, p)` of a result without normalisation."""
    return result["pixel_values"].numpy().reshape(-1, N, N, 3, P, P) * 255.0


def whole(result):
    """The first region of a result without normalisation, put together again: levels `(H, W, 3)`."""
    return levels_of(result)[0].transpose(0, 3, 1, 4, 2).reshape(SIDE, SIDE, 3)
