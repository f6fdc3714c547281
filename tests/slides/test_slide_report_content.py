"""What report.html holds to be worked with: tiles of the slide, the predictions, and pictures of patches."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from slide_files import draw_slide
from slide_predictions import CLASS_NAMES, CLASSES, make_predictions

from spider_tools.slide_files.lattice import Lattice
from spider_tools.slide_files.slide import Level, Slide
from spider_tools.slide_files.slide_error import UnreadableError
from spider_tools.slide_files.view import SlideView
from spider_tools.slides import report_tiles
from spider_tools.slides.colors import looks_of
from spider_tools.slides.composition import make_composition
from spider_tools.slides.html_report import SlideMap, make_report
from spider_tools.slides.predictions import SlidePredictions
from spider_tools.slides.report_map import make_map
from spider_tools.slides.report_patches import choose_patches, patch_pictures
from spider_tools.slides.report_tiles import make_tiles


class Drawn(Slide):
    """A slide in memory, some of which may be unreadable."""

    def __init__(self, pixels, mpp=0.5, unreadable=(0, 0, 0, 0)):
        self.path = "drawn"
        self.mpp = (mpp, mpp)
        self.levels = (Level(pixels.shape[1::-1], (1.0, 1.0)),)
        self.bounds = (0, 0, *self.size)
        self.pixels = pixels
        self.unreadable = unreadable

    def read_level(self, level, corner, size):
        (x, y), (width, height) = corner, size
        left, top, right, bottom = self.unreadable
        if x < right and x + width > left and y < bottom and y + height > top:
            raise UnreadableError("damaged")
        return self.pixels[y : y + height, x : x + width]


def lattice_of(slide, patch=28):
    return Lattice(patch, patch, 5, slide.size, (1.0, 1.0))


def opened(jpeg):
    return np.asarray(Image.open(io.BytesIO(jpeg))).astype(float)


def whole(level):
    """The picture that the tiles of a level make, white where there is none."""
    picture = np.full((*level.size[::-1], 3), 255.0)
    for (column, row), jpeg in level.tiles.items():
        part = opened(jpeg)
        y, x = row * report_tiles.TILE_PX, column * report_tiles.TILE_PX
        picture[y : y + part.shape[0], x : x + part.shape[1]] = part
    return picture


@pytest.fixture(scope="module")
def large():
    """A slide of 2400 x 1700 px at 0.5 um/px, and the cells of its upper left corner."""
    slide = Drawn(draw_slide(2400, 1700, seed=3))
    cells = np.zeros(lattice_of(slide).shape, dtype=bool)
    cells[:10, :10] = True  # 280 px
    return slide, cells


def test_levels_double_and_show_the_slide(large):
    slide, cells = large
    levels = make_tiles(slide, lattice_of(slide), np.ones_like(cells), 0.5)
    assert [level.um for level in levels] == [4, 2, 1, 0.5]
    assert [level.size for level in levels] == [(300, 212), (600, 425), (1200, 850), (2400, 1700)]
    for level in levels:
        width, height = level.size
        true = Image.fromarray(slide.pixels).resize((width, height), Image.Resampling.BOX, (0, 0, *slide.size))
        assert np.abs(whole(level) - np.asarray(true)).mean() < 8
    assert levels[0].bytes == sum(map(len, levels[0].tiles.values()))


def test_the_finest_levels_hold_tissue_alone(large):
    slide, cells = large
    levels = make_tiles(slide, lattice_of(slide), cells, 0.5)
    assert [sorted(level.tiles) for level in levels[2:]] == [[(0, 0)], [(0, 0)]]
    assert len(levels[0].tiles) == 1


@pytest.mark.parametrize(
    ("model_um", "slide_um", "finest"), [(1, 0.25, 1), (0.25, 0.5, 0.5), (2, 2, 2), (8, 8, 8), (8, 1, 4)]
)
def test_nothing_is_finer_than_slide_and_model(model_um, slide_um, finest):
    slide = Drawn(draw_slide(300, 200), slide_um)
    levels = make_tiles(slide, lattice_of(slide), np.ones(lattice_of(slide).shape, bool), model_um)
    assert levels[-1].um == finest


def test_the_bound_holds_and_four_um_are_the_last_to_go(large, monkeypatch):
    slide, cells = large
    lattice, full = lattice_of(slide), np.ones_like(cells)
    sizes = [level.bytes for level in make_tiles(slide, lattice, full, 0.5)]
    for bound, finest in ((sum(sizes), 0.5), (sum(sizes[:3]) + 1000, 1), (sizes[0] + 1000, 4)):
        monkeypatch.setattr(report_tiles, "MOST_BYTES", bound)
        levels = make_tiles(slide, lattice, full, 0.5)
        assert sum(level.bytes for level in levels) <= bound
        assert levels[-1].um == finest
    monkeypatch.setattr(report_tiles, "MOST_BYTES", sizes[0] - 100)  # then glass goes, then quality
    [level] = make_tiles(slide, lattice, full, 0.5)
    assert level.um == 4
    assert level.bytes < sizes[0]


def test_a_slide_too_large_to_be_held_at_once_has_four_um_all_the_same(large, monkeypatch):
    slide, cells = large
    monkeypatch.setattr(report_tiles, "_MOST_BASE_PX", 300 * 212 / 3)
    levels = make_tiles(slide, lattice_of(slide), np.ones_like(cells), 4)
    assert [level.um for level in levels] == [8, 4]


def test_what_cannot_be_read_is_white_and_no_more(large):
    slide, cells = large
    hurt = Drawn(slide.pixels, unreadable=(1000, 1200, 1100, 1300))
    levels = make_tiles(hurt, lattice_of(slide), np.ones_like(cells), 0.5)
    picture = whole(levels[-1])
    assert (picture[1208:1292, 1008:1092] > 250).all()
    ring = np.abs(picture - slide.pixels).mean(axis=2)
    ring[1160:1340, 960:1140] = 0
    assert ring.mean() < 6


@pytest.mark.parametrize("size", [(2400, 2), (1, 1), (2, 900)])
def test_narrow_slides_have_tiles(size):
    slide = Drawn(np.full((size[1], size[0], 3), 200, np.uint8))
    lattice = Lattice(1, 1, 5, size, (1.0, 1.0))
    levels = make_tiles(slide, lattice, np.ones(lattice.shape, bool), 0.5)
    assert all(level.tiles for level in levels)


def numbers(text, dtype):
    return np.frombuffer(base64.b64decode(text), dtype)


def test_the_data_are_the_predictions(predictions):
    slide = Drawn(draw_slide(280, 336))
    data = make_map(slide, predictions, [], looks_of(predictions))
    cells = data["cells"]
    np.testing.assert_array_equal(numbers(cells["row"], "<u4"), predictions.positions[:, 0])
    np.testing.assert_array_equal(numbers(cells["column"], "<u4"), predictions.positions[:, 1])
    ordered = np.sort(predictions.probabilities, axis=1)[:, ::-1]
    for place, name in enumerate(("first", "second")):
        classes = numbers(cells[name], "<u2")
        np.testing.assert_array_equal(classes, np.argsort(-predictions.probabilities, axis=1)[:, place])
        np.testing.assert_allclose(numbers(cells[f"{name}_probability"], "<u2") / 65535, ordered[:, place], atol=1e-5)
    np.testing.assert_allclose(numbers(cells["entropy"], "<f4"), predictions.entropy, rtol=1e-6)
    assert cells["unfamiliarity"] is None
    assert data["unfamiliarity_threshold"] is None
    assert [row["name"] for row in data["classes"]] == list(CLASS_NAMES)
    x_edges, y_edges = predictions.lattice.cell_edges_level0()
    assert data["lattice"]["corner_um"] == [x_edges[0] * 0.25, y_edges[0] * 0.2]
    assert data["lattice"]["cell_um"] == pytest.approx([28 * 2 * 0.25, 28 * 3 * 0.2])
    assert data["size_um"] == [140, 168]


def test_a_model_of_one_class_has_no_second():
    one = SlidePredictions(
        Lattice(28, 28, 5, (28, 28), (1, 1)), (0.5, 0.5), np.zeros((1, 2), int), np.ones((1, 1), np.float32), ("All",)
    )
    cells = make_map(Drawn(draw_slide(28, 28)), one, [], looks_of(one))["cells"]
    assert numbers(cells["second_probability"], "<u2").tolist() == [0]


def test_patches_are_the_most_and_least_certain_and_the_most_unfamiliar(predictions):
    members = np.flatnonzero(predictions.predicted == 0)  # eight
    by_certainty = members[np.argsort(-predictions.probabilities[members, 0])]
    chosen = choose_patches(predictions, 0)
    assert chosen["Most certain"] == by_certainty[:3].tolist()
    assert chosen["Least certain"] == by_certainty[::-1][:3].tolist()
    assert "Most unfamiliar" not in chosen
    scores = np.arange(len(predictions.positions), dtype=np.float32)
    knowing = SlidePredictions(**{**predictions.__dict__, "unfamiliarity": scores, "unfamiliarity_threshold": 3.0})
    chosen = choose_patches(knowing, 0)
    left = [index for index in members[::-1] if index not in chosen["Most certain"] + chosen["Least certain"]]
    assert chosen["Most unfamiliar"] == left[:3]
    few = choose_patches(make_predictions([[0, 1], [1, 1]]), 1)
    assert sorted(few["Most certain"]) == [1, 2, 3]
    assert few["Least certain"] == []


def test_pictures_of_patches_are_of_their_places(predictions):
    slide = Drawn(draw_slide(280, 336, seed=4))
    view = SlideView(slide, predictions.lattice.scale)
    found = patch_pictures(view, predictions)
    assert set(found) == {CLASS_NAMES[number] for number in set(predictions.predicted.tolist())}
    for kinds in found.values():
        for picture in (picture for pictures in kinds.values() for picture in pictures):
            x, y = (np.array(picture.center_level0) / predictions.lattice.scale - 14).round().astype(int)
            true = Image.fromarray(view.read((x, y), (28, 28))).resize((112, 112), Image.Resampling.BOX)
            seen = opened(base64.b64decode(picture.base64))
            assert np.abs(seen - np.asarray(true)).mean() < 8
            np.testing.assert_allclose(picture.center_um, np.array(picture.center_level0) * predictions.mpp)


def test_data_in_the_page_are_read_back_whatever_classes_are_called():
    hostile = ("</script><script>alert(1)</script>", "<!--<script>", "'\"&lt;\\", "\u2028\U0001f52c")
    predictions = make_predictions(CLASSES)
    predictions = SlidePredictions(**{**predictions.__dict__, "class_names": hostile})
    slide, looks = Drawn(draw_slide(280, 336)), looks_of(predictions)
    tiles = make_tiles(slide, predictions.lattice, predictions.map_of(np.ones(14, bool), False), 0.5)
    data = make_map(slide, predictions, tiles, looks)
    composition = make_composition(predictions)
    view = SlideView(slide, predictions.lattice.scale)
    page = make_report(
        "t",
        composition,
        {},
        [],
        {},
        looks=looks,
        slide_map=SlideMap(data, patch_pictures(view, predictions), composition),
    )
    [content] = re.findall(r'<script type="application/json" id="map-data">(.*?)</script>', page, re.DOTALL)
    assert json.loads(content) == json.loads(json.dumps(data))
    assert page.count("<script") == 2
    assert page.count("up to 0.5 µm/px in the tissue") == 1
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'; img-src data:;")
