"""Slides that were classified once for all tests of this folder."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from slide_files import draw_slide, write_pyramid, write_scn

from spider_tools.slide_sources.task import SlideTask
from spider_tools.slides.model import SlideModel
from spider_tools.slides.one import map_slide
from spider_tools.slides.settings import SlideSettings

CORNER = (131, 57)  # of what was scanned of the slide "b"


@pytest.fixture(scope="session")
def classified_once(tmp_path_factory, make_model, processor):
    """The slides a, b and c, of which b was scanned in part, and their results; only to be read."""
    folder = tmp_path_factory.mktemp("classified")
    slides, results = folder / "slides", folder / "results"
    slides.mkdir()
    model = SlideModel(make_model(), processor.image_processor, torch.device("cpu"))
    paths = {
        "a": write_pyramid(slides / "a.tif", draw_slide(420, 380, seed=1), 0.5),
        "b": write_scn(slides / "b.scn", draw_slide(384, 320, seed=2), CORNER, (700, 500)),
        "c": write_pyramid(slides / "c.tif", draw_slide(760, 600, seed=3), 0.25),  # a px of the model is two of its own
    }
    for name, path in paths.items():
        map_slide(SlideTask(path, name), model, SlideSettings("tiny", results, num_workers=0))
    return SimpleNamespace(slides=slides, results=results, paths=paths)


@pytest.fixture
def classified(classified_once, tmp_path):
    """The same, to be changed at will."""
    results = shutil.copytree(classified_once.results, tmp_path / "results")
    return SimpleNamespace(slides=classified_once.slides, results=results, paths=classified_once.paths)
