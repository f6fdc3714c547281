"""Slides of which only a part was scanned: QuPath counts from that part's corner, OpenSlide from the slide's."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import openslide
import pyarrow.parquet as pq
import pytest
import shapely
from PIL import Image
from slide_files import GLASS, write_mirax, write_pyramid, write_scn

from spider_tools.slide_files.lattice import Lattice
from spider_tools.slide_files.reader import SlideError, bounds_of, open_slide
from spider_tools.slide_sources.task import SlideTask
from spider_tools.slides.one import map_slide
from spider_tools.tissue.tissue_mask import find_tissue

# Of what was scanned, which is all that QuPath shows: x from 84 to 252, y from 112 to 196.
LEFT, TOP, RIGHT, BOTTOM = 84, 112, 252, 196
PLACES = {"scn": ((131, 57), (700, 500)), "mrxs": ((192, 128), (768, 576))}  # corner, and size of the whole
SIDE = 28


def scanned():
    """Glass with one piece of tissue, uint8 `(256, 384, 3)`."""
    pixels = np.empty((256, 384, 3), dtype=np.uint8)
    pixels[:] = GLASS
    noise = np.random.default_rng(3).integers(0, 60, (BOTTOM - TOP, RIGHT - LEFT, 3))
    pixels[TOP:BOTTOM, LEFT:RIGHT] = np.array([215, 110, 180]) - noise
    return pixels


@pytest.fixture(params=PLACES)
def part(request, tmp_path):
    """A slide of which a part was scanned: its file, and the corner of the part."""
    corner, whole = PLACES[request.param]
    write = {"scn": write_scn, "mrxs": write_mirax}[request.param]
    return SimpleNamespace(path=write(tmp_path / f"s.{request.param}", scanned(), corner, whole), corner=corner)


def mapped(part, slide_model, settings, **changes):
    map_slide(SlideTask(part.path, "s"), slide_model, replace(settings, **changes))
    return settings.output_dir / "s"


def features(folder, kind):
    found = json.loads((folder / "prediction.geojson").read_text())["features"]
    return [shapely.geometry.shape(f["geometry"]) for f in found if f["properties"]["objectType"] == kind]


def test_what_was_scanned_is_where_openslide_draws_it(part):
    slide = open_slide(part.path)
    assert slide.bounds == (*part.corner, 384, 256)
    np.testing.assert_array_equal(slide.read_level(0, part.corner, (384, 256)), scanned())


def test_areas_for_qupath_count_from_the_corner_of_what_was_scanned(part, slide_model, settings):
    folder = mapped(part, slide_model, settings, min_tissue=0.5)
    area = shapely.union_all(features(folder, "annotation"))
    # A cell that is half tissue may begin or end half a cell beside it.
    assert area.bounds == pytest.approx((LEFT, TOP, RIGHT, BOTTOM), abs=SIDE / 2 + 1)
    assert area.symmetric_difference(shapely.box(LEFT, TOP, RIGHT, BOTTOM)).area < 0.35 * area.area


def test_the_table_keeps_the_coordinates_of_openslide(part, slide_model, settings):
    folder = mapped(part, slide_model, settings, tiles=True)
    table = pq.read_table(folder / "predictions.parquet")
    places = set(zip(table["x_level0"].to_pylist(), table["y_level0"].to_pylist()))
    x, y = part.corner
    assert {(box.bounds[0] + x, box.bounds[1] + y) for box in features(folder, "tile")} == places
    with openslide.OpenSlide(part.path) as slide:  # the darkest tissue lies below a prediction, not beside it
        for left, top in places:
            pixels = np.asarray(slide.read_region((int(left), int(top)), 0, (SIDE, SIDE)).convert("RGBA"))
            assert (pixels[..., 1][pixels[..., 3] > 0] < 200).any(), (left, top)
    certain = json.loads((folder / "composition.json").read_text())["classes"]
    centers = {tuple(row["center_level0"]) for name in certain.values() for row in name["most_certain"]}
    assert centers <= {(left + SIDE / 2, top + SIDE / 2) for left, top in places}


def test_the_offset_is_named_for_readers_and_for_programs(part, slide_model, settings):
    folder = mapped(part, slide_model, settings)
    marker = json.loads((folder / "slide.json").read_text())
    x, y = part.corner
    assert marker["geojson_origin_level0"] == [x, y]
    assert f"384 x 256 px from x {x}, y {y}" in marker["facts"]["Scanned"]
    assert f"in prediction.geojson from x {x}, y {y}, as in QuPath" in (folder / "report.html").read_text()


def cells_of(part, drawing):
    slide = open_slide(part.path)
    lattice = Lattice(SIDE, SIDE, 5, slide.size, (1.0, 1.0))
    return find_tissue(slide, lattice, drawing).cells(lattice, 0.5)


def expected_cells(part, left, top, right, bottom):
    """By counting the px of every cell, of a rectangle in what was scanned."""
    width, height = open_slide(part.path).size
    whole = np.zeros((height, width), dtype=bool)
    x, y = part.corner
    whole[y + top : y + bottom, x + left : x + right] = True
    rows, columns = height // SIDE, width // SIDE
    cells = whole[: rows * SIDE, : columns * SIDE].reshape(rows, SIDE, columns, SIDE)
    return cells.mean(axis=(1, 3)) >= 0.5


def test_polygons_that_were_drawn_in_qupath_lie_where_they_were_drawn(part, tmp_path):
    box = shapely.box(LEFT + 3, TOP, RIGHT, BOTTOM + 5)
    (tmp_path / "m.geojson").write_text(shapely.to_geojson(box))
    np.testing.assert_array_equal(
        cells_of(part, tmp_path / "m.geojson"), expected_cells(part, LEFT + 3, TOP, RIGHT, BOTTOM + 5)
    )


def test_a_map_that_is_read_as_a_mask_is_the_same_map(part, slide_model, settings, tmp_path):
    folder = mapped(part, slide_model, settings)
    (tmp_path / "own.geojson").write_bytes((folder / "prediction.geojson").read_bytes())
    places = [pq.read_table(folder / "predictions.parquet").select(["row", "column"])]
    again = {"mask": tmp_path / "own.geojson", "output_dir": tmp_path / "again", "min_tissue": 0.5}
    mapped(part, slide_model, settings, **again)
    places.append(pq.read_table(tmp_path / "again" / "s" / "predictions.parquet").select(["row", "column"]))
    assert places[0].equals(places[1])


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("drawn_on", ["what QuPath shows", "the whole"])
def test_an_image_is_laid_on_what_it_was_drawn_on(part, tmp_path, factor, drawn_on):
    width, height = open_slide(part.path).size if drawn_on == "the whole" else (384, 256)
    x, y = part.corner if drawn_on == "the whole" else (0, 0)
    drawn = np.zeros((height, width), dtype=np.uint8)
    drawn[y + TOP : y + BOTTOM, x + LEFT : x + RIGHT] = 255
    Image.fromarray(drawn).resize((width // factor, height // factor), Image.Resampling.NEAREST).save(
        tmp_path / "m.png"
    )
    expected = expected_cells(part, LEFT, TOP, RIGHT, BOTTOM)
    assert (cells_of(part, tmp_path / "m.png") != expected).sum() <= (0 if factor == 1 else 2)


def test_an_image_that_fits_both_the_whole_and_the_part_is_refused(tmp_path):
    part = write_scn(tmp_path / "s.scn", scanned(), (100, 80), (768, 512))
    Image.new("L", (192, 128), 255).save(tmp_path / "m.png")
    with pytest.raises(SlideError, match=r"shape of the whole slide, 768 x 512 px, and of what was scanned.*384 x 256"):
        cells_of(SimpleNamespace(path=part), tmp_path / "m.png")


def test_a_slide_that_was_scanned_as_a_whole_counts_from_its_corner(tmp_path, slide_model, settings):
    path = write_pyramid(tmp_path / "s.tif", scanned(), 0.5)
    folder = mapped(SimpleNamespace(path=path), slide_model, settings)
    marker = json.loads((folder / "slide.json").read_text())
    assert marker["geojson_origin_level0"] == [0, 0]
    assert not {"Scanned", "Coordinates"} & set(marker["facts"])
    # What earlier versions have written of such a slide stays valid: its request is as it was.
    assert "geojson_origin_level0" not in marker["request"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("5", "7", "100", "90"), (5, 7, 100, 90)),
        (("5", "7", "100", None), (0, 0, 640, 480)),  # QuPath crops only where all four are there
        (("5", "7", "wide", "90"), (0, 0, 640, 480)),
        (("5", "7", "0", "90"), (0, 0, 640, 480)),
        ((None, None, None, None), (0, 0, 640, 480)),
    ],
)
def test_bounds_come_from_four_numbers_or_not_at_all(given, expected):
    names = ("x", "y", "width", "height")
    properties = {f"openslide.bounds-{name}": value for name, value in zip(names, given) if value is not None}
    assert bounds_of(properties, (640, 480)) == expected
