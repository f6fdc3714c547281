"""What the tests of several files of this folder share."""

import pytest
import torch
from slide_files import draw_slide, write_pyramid
from slide_predictions import CLASSES, MPP, make_predictions

from spider_tools.slides import pictures
from spider_tools.slides.model import SlideModel
from spider_tools.slides.settings import SlideSettings


@pytest.fixture
def predictions():
    """Fourteen predictions, of the classes in `CLASSES`."""
    return make_predictions(CLASSES)


@pytest.fixture
def thumbnail():
    """What the predictions lie on."""
    pixels = draw_slide(280, 336, seed=2)
    return pictures.Thumbnail(pixels, (280 * MPP[0] / 1000, 336 * MPP[1] / 1000))


@pytest.fixture
def settings(model_folder, tmp_path):
    """Of a run with the tiny model into a folder that does not exist."""
    return SlideSettings(str(model_folder), tmp_path / "R", num_workers=0)


@pytest.fixture(scope="module")
def slide_model(make_model, processor):
    """The tiny model as slides need it."""
    return SlideModel(make_model(), processor.image_processor, torch.device("cpu"))


@pytest.fixture
def slide_file(tmp_path):
    """A small slide with its um/px."""
    return write_pyramid(tmp_path / "slide.tif", draw_slide(300, 230, seed=1), 0.5)
