"""XML of Aperio ImageScope."""

import numpy as np
import pytest
from annotation_files import TRIANGLE, areas, imagescope, layer, read_text, region

BIG = [(100, 100), (900, 100), (900, 700), (100, 700)]  # 800 x 600
HOLE = [(200, 200), (500, 200), (500, 400), (200, 400)]  # 300 x 200
ISLAND = [(300, 250), (350, 250), (350, 350), (300, 350)]  # 50 x 100


def test_layers_are_classes_and_regions_are_numbered_through_the_file(tmp_path):
    text = imagescope(layer(region(TRIANGLE), region(ISLAND), name="Tumor"), layer(region(BIG), name="Stroma"))
    found = read_text(tmp_path, text)
    assert areas(found) == [("Tumor", 30_000), ("Tumor", 5_000), ("Stroma", 480_000)]
    assert [one.number for one in found.annotations] == [0, 1, 2]
    assert list(found.annotations[0].shape.exterior.coords)[:3] == TRIANGLE
    assert found.remarks == ()


def test_the_name_of_a_layer_goes_before_its_description_and_the_texts_of_regions(tmp_path):
    both = region(TRIANGLE, text="from the text")
    own = '<Attributes><Attribute Id="1" Name="Description" Value="of its own"/></Attributes>'
    text = imagescope(
        layer(both, name="from the name", description="from the description"),
        layer(both, description="from the description"),
        layer(both),
        layer(region(TRIANGLE)),
        layer(both).replace('"Description"', '"Necrosis"'),
        layer(region(TRIANGLE).replace("<Attributes/>", own)),
    )
    found = read_text(tmp_path, text)
    names = ["from the name", "from the description", "from the text", "Necrosis", "of its own"]
    assert [one.class_name for one in found.annotations] == names
    assert found.remarks == ("s.xml: left out: 1 without a class.",)


def test_a_negative_region_is_a_hole_and_an_island_in_it_stays(tmp_path):
    regions = [region(BIG), region(HOLE, hole=1), region(ISLAND)]
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):
        found = read_text(tmp_path, imagescope(layer(*(regions[i] for i in order), name="Tumor")))
        assert sorted(one.shape.area for one in found.annotations) == [5_000, 480_000 - 60_000]
        assert found.remarks == ()
    (big,) = (one.shape for one in found.annotations if one.shape.area > 5_000)
    assert [np.asarray(hole.coords).min(axis=0).tolist() for hole in big.interiors] == [[200, 200]]


def test_a_hole_that_reaches_over_the_edge_of_its_region_is_cut_where_they_meet(tmp_path):
    over_the_edge = [(80, 200), (200, 200), (200, 300), (80, 300)]  # 100 of its 120 px inside
    found = read_text(tmp_path, imagescope(layer(region(BIG), region(over_the_edge, hole=1), name="Tumor")))
    assert areas(found) == [("Tumor", 480_000 - 10_000)]


def test_a_hole_is_cut_out_of_its_own_layer_alone(tmp_path):
    text = imagescope(layer(region(BIG), name="Tumor"), layer(region(TRIANGLE), region(HOLE, hole=1), name="Stroma"))
    found = read_text(tmp_path, text)
    assert areas(found) == [("Tumor", 480_000), ("Stroma", 30_000)]
    assert found.remarks == ("s.xml: left out: 1 holes outside of all regions of their layer.",)


def test_holes_that_leave_nothing_of_a_region_leave_it_out(tmp_path):
    left, right = [(300, 250), (326, 250), (326, 350), (300, 350)], [(324, 250), (350, 250), (350, 350), (324, 350)]
    holes = [region(left, hole=1), region(right, hole=1)]
    found = read_text(tmp_path, imagescope(layer(region(ISLAND), *holes, name="Tumor")))
    assert found.annotations == ()
    assert found.remarks[0] == "s.xml: left out: 1 without an area."


def test_a_hole_splits_a_region_into_parts_of_one_number(tmp_path):
    across = [(90, 300), (910, 300), (910, 310), (90, 310)]
    found = read_text(tmp_path, imagescope(layer(region(BIG), region(across, hole=1), name="Tumor")))
    assert sorted((one.number, one.shape.area) for one in found.annotations) == [(0, 800 * 200), (0, 800 * 390)]


@pytest.mark.parametrize("corners", [[(100, 200), (500, 200), (500, 300), (100, 300)], [(500, 300), (100, 200)]])
def test_rectangles_and_ellipses_fill_the_box_of_their_vertices(tmp_path, corners):
    text = imagescope(layer(region(corners, kind=1), region(corners, kind=2), name="Tumor"))
    box, ellipse = (one.shape for one in read_text(tmp_path, text).annotations)
    assert (box.bounds, box.area) == ((100, 200, 500, 300), 40_000)
    assert ellipse.area == pytest.approx(np.pi * 200 * 50, rel=1e-3)
    np.testing.assert_allclose(ellipse.bounds, box.bounds)
    assert (ellipse.centroid.x, ellipse.centroid.y) == pytest.approx((300, 250))


def test_arrows_and_rulers_are_left_out(tmp_path):
    kinds = (region(TRIANGLE, kind=3), region(TRIANGLE, kind=4), region(TRIANGLE, kind="Polygon"))
    found = read_text(tmp_path, imagescope(layer(*kinds, name="Tumor")))
    assert found.remarks[0] == "s.xml: left out: 1 arrows, 1 of an unknown type, 1 rulers."
