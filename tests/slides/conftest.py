"""What the tests of several files of this folder share."""

import pytest
from slide_files import draw_slide
from slide_predictions import CLASSES, MPP, make_predictions

from spider_tools.slides import pictures


@pytest.fixture
def predictions():
    """Fourteen predictions, of the classes in `CLASSES`."""
    return make_predictions(CLASSES)


@pytest.fixture
def thumbnail():
    """What the predictions lie on."""
    pixels = draw_slide(280, 336, seed=2)
    return pictures.Thumbnail(pixels, (280 * MPP[0] / 1000, 336 * MPP[1] / 1000))
