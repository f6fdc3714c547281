"""Tissue: found by Otsu's threshold on saturation, or drawn by the user as an image or polygons."""

import json

import numpy as np
import pytest
from PIL import Image
from slide_files import GLASS

from spider_tools.slide_files.lattice import Lattice
from spider_tools.slide_files.reader import SlideError, open_slide
from spider_tools.tissue.pixel_tissue import otsu_threshold, tissue_of
from spider_tools.tissue.tissue_mask import TissueMask, find_tissue

PINK = (205, 120, 175)


def test_otsu_separates_two_peaks_where_the_variance_between_them_is_largest():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0.05, 0.02, 5000), rng.normal(0.4, 0.1, 1500)]).clip(0, 1)
    edges = np.linspace(0, 1, 257)
    binned = (np.digitize(values, edges[1:-1]) + 0.5) / 256

    def between(threshold):
        low, high = binned[binned < threshold], binned[binned >= threshold]
        return len(low) * len(high) * (low.mean() - high.mean()) ** 2 if len(low) and len(high) else 0

    best = max(edges[1:-1], key=between)
    assert otsu_threshold(values) == pytest.approx(best)
    assert 0.1 < best < 0.3


def glass(height=200, width=300):
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    pixels[:] = GLASS
    return pixels


def test_a_piece_of_tissue_is_found_as_it_is():
    pixels = glass()
    pixels[50:120, 30:200] = PINK
    mask = tissue_of(pixels).mask
    expected = np.zeros(mask.shape, dtype=bool)
    expected[50:120, 30:200] = True
    assert (mask != expected).sum() < 40  # corners are rounded
    assert mask[51:119, 31:199].all()


def test_tissue_reaches_the_edge_of_the_slide():
    pixels = glass()
    pixels[:80, :90] = PINK
    assert tissue_of(pixels).mask[:79, :89].all()


def test_a_slide_without_glass_is_tissue_all_over():
    pixels = np.random.default_rng(0).integers(90, 130, (200, 300, 3)).astype(np.uint8) + np.array(
        [100, 0, 60], np.uint8
    )
    assert tissue_of(pixels).mask.all()


def test_fat_and_lumina_inside_tissue_belong_to_it():
    pixels = glass()
    pixels[40:160, 40:260] = PINK
    for y in range(50, 150, 10):
        for x in range(50, 250, 10):
            pixels[y : y + 6, x : x + 6] = GLASS
    assert tissue_of(pixels).mask[45:155, 45:255].all()


@pytest.mark.parametrize("what", ["nothing", "noise", "dust", "ink"])
def test_what_is_no_tissue_is_not_found(what):
    pixels = glass()
    if what == "noise":
        pixels += np.random.default_rng(0).integers(-3, 4, pixels.shape).astype(np.int8).view(np.uint8)
    elif what == "dust":
        pixels[20:24, 20:24] = PINK
    elif what == "ink":
        pixels[30:100, 60:90] = (12, 3, 9)
    assert not tissue_of(pixels).mask.any()


@pytest.fixture
def slide(tmp_path):
    pixels = glass(560, 840)  # 20 x 30 patches of 28 px
    pixels[140:280, 56:420] = PINK
    Image.fromarray(pixels).save(tmp_path / "s.png")
    return open_slide(tmp_path / "s.png", mpp=0.5)


@pytest.fixture
def lattice():
    return Lattice(28, 28, 5, (840, 560), (1.0, 1.0))


def test_cells_of_tissue_are_those_that_it_covers(slide, lattice):
    cells = find_tissue(slide, lattice).cells(lattice, 0.5)
    expected = np.zeros((20, 30), dtype=bool)
    expected[5:10, 2:15] = True
    np.testing.assert_array_equal(cells, expected)


def test_the_share_of_a_cell_is_counted_in_pixels():
    mask = np.zeros((40, 60), dtype=bool)
    mask[3:17, 8:31] = True
    lattice = Lattice(40, 20, 5, (240, 160), (2.0, 2.0))  # cells begin 10 px in and are 20 px wide: 5 px of the mask
    share = TissueMask(mask, (8.0, 8.0), "").share(lattice)
    x_edges, y_edges = (np.rint(edges / 8).astype(int) for edges in lattice.cell_edges_level0())
    for row in range(share.shape[0]):
        for column in range(share.shape[1]):
            part = mask[y_edges[row] : y_edges[row + 1], x_edges[column] : x_edges[column + 1]]
            assert share[row, column] == pytest.approx(part.mean())
    assert 0 < share.max() <= 1


def test_without_tissue_the_reason_and_the_remedies_are_said(tmp_path, lattice):
    Image.fromarray(glass(560, 840)).save(tmp_path / "s.png")
    found = find_tissue(open_slide(tmp_path / "s.png", mpp=0.5), lattice)
    with pytest.raises(SlideError, match=r"No tissue was found \(saturation above 0.03.*--mask.*--min_tissue"):
        found.cells(lattice, 0.1)


def test_a_drawn_image_of_another_size_says_what_tissue_is(slide, lattice, tmp_path):
    drawn = np.zeros((40, 60), dtype=np.uint8)  # 14 px of the slide each
    drawn[10:14, 20:40] = 1  # not black is enough
    Image.fromarray(drawn).save(tmp_path / "mask.png")
    cells = find_tissue(slide, lattice, tmp_path / "mask.png").cells(lattice, 0.5)
    expected = np.zeros((20, 30), dtype=bool)
    expected[5:7, 10:20] = True
    np.testing.assert_array_equal(cells, expected)


def polygon(*rings):
    return {"type": "Polygon", "coordinates": [[*map(list, ring), list(ring[0])] for ring in rings]}


def square(left, top, right, bottom):
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


OUTER, HOLE = square(56, 28, 336, 252), square(112, 84, 280, 196)
INNER = polygon(square(140, 112, 196, 168))


@pytest.mark.parametrize("form", ["collection", "list", "multipolygon", "feature"])
def test_drawn_polygons_are_in_level_0_px_and_have_holes(slide, lattice, tmp_path, form):
    ring, island = polygon(OUTER, HOLE), INNER
    features = [{"type": "Feature", "properties": {}, "geometry": g} for g in (ring, island)]
    both = {"type": "MultiPolygon", "coordinates": [ring["coordinates"], island["coordinates"]]}
    content = {
        "collection": {"type": "FeatureCollection", "features": features},
        "list": features,
        "multipolygon": both,
        "feature": {"type": "Feature", "properties": {}, "geometry": both},
    }[form]
    (tmp_path / "mask.geojson").write_text(json.dumps(content))
    cells = find_tissue(slide, lattice, tmp_path / "mask.geojson").cells(lattice, 0.5)
    expected = np.zeros((20, 30), dtype=bool)
    expected[1:9, 2:12] = True
    expected[3:7, 4:10] = False
    expected[4:6, 5:7] = True
    np.testing.assert_array_equal(cells, expected)


def test_polygons_that_leave_the_slide_are_cut_off(slide, lattice, tmp_path):
    (tmp_path / "m.geojson").write_text(json.dumps(polygon(square(-500, -90, 84, 5000))))
    cells = find_tissue(slide, lattice, tmp_path / "m.geojson").cells(lattice, 0.5)
    assert cells[:, :3].all()
    assert not cells[:, 3:].any()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.geojson", b"{", "is no GeoJSON of polygons"),
        ("m.geojson", b'{"type": "FeatureCollection", "features": []}', "holds nothing, expected polygons"),
        ("m.geojson", b'{"type": "Point", "coordinates": [1, 2]}', r"holds \['Point'\], expected polygons"),
        ("m.geojson", b'{"type": "Polygon", "coordinates": [[[0, 0], [1]]]}', "is no GeoJSON of polygons"),
        ("m.geojson", b"[3]", "is no GeoJSON of polygons"),
        ("m.geojson", b'{"no": "type"}', "is no GeoJSON of polygons"),
        ("m.png", b"no picture", r"is no image \(PNG, JPEG"),
    ],
)
def test_drawings_that_cannot_be_used_are_refused(slide, lattice, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SlideError, match=message):
        find_tissue(slide, lattice, tmp_path / name)


def test_a_drawn_image_of_another_shape_is_refused(slide, lattice, tmp_path):
    Image.new("L", (56, 84), 255).save(tmp_path / "m.png")  # width and height swapped
    with pytest.raises(SlideError, match=r"56 x 84 px, which has not the shape of the slide, 840 x 560 px"):
        find_tissue(slide, lattice, tmp_path / "m.png")
