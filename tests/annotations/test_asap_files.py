"""XML of ASAP."""

import pytest
from annotation_files import TRIANGLE, areas, asap, read_text

RECTANGLE = [(100, 50), (350, 50), (350, 90), (100, 90)]


def test_groups_are_classes_and_coordinates_are_level_0_px(tmp_path):
    found = read_text(tmp_path, asap(("Polygon", "Tumor", TRIANGLE), ("Rectangle", "Lymph node", RECTANGLE)))
    assert areas(found) == [("Tumor", 30_000), ("Lymph node", 250 * 40)]
    assert list(found.annotations[0].shape.exterior.coords)[:3] == TRIANGLE
    assert found.annotations[1].shape.bounds == (100, 50, 350, 90)
    assert found.remarks == ()


def test_points_are_taken_in_their_order_and_with_the_commas_of_other_languages(tmp_path):
    square = [(100, 100), (400, 100), (400, 400), (100, 400)]
    rows = [f'<Coordinate Order="{order}" X="{x},5" Y="{y}" />' for order, (x, y) in enumerate(square)]
    text = asap(("Polygon", "Tumor", [])).replace("<Coordinates>", f"<Coordinates>{rows[2]}{rows[0]}{rows[3]}{rows[1]}")
    assert areas(read_text(tmp_path, text)) == [("Tumor", 90_000)]
    assert read_text(tmp_path, text).annotations[0].shape.bounds == (100.5, 100, 400.5, 400)


def test_points_without_an_order_are_taken_as_they_come(tmp_path):
    text = asap(("Polygon", "Tumor", TRIANGLE)).replace('Order="1" ', "")
    assert areas(read_text(tmp_path, text)) == [("Tumor", 30_000)]


@pytest.mark.parametrize("group", ["None", "none", "", " "])
def test_an_object_without_a_group_has_no_class(tmp_path, group):
    found = read_text(tmp_path, asap(("Polygon", group, TRIANGLE), ("Polygon", "Ignore this", RECTANGLE)))
    assert found.annotations == ()
    assert [shape.area for shape in found.ignored] == [30_000, 10_000]
    assert found.remarks[0] == "s.xml: left out: 1 of the class Ignore, 1 without a class."


def test_dots_and_measurements_are_left_out_and_splines_are_taken_as_polygons(tmp_path):
    found = read_text(
        tmp_path,
        asap(
            ("Dot", "Tumor", [(5, 5)]),
            ("PointSet", "Tumor", TRIANGLE),
            ("Measurement", "Tumor", TRIANGLE),
            ("Cloud", "Tumor", TRIANGLE),
            ("Spline", "Tumor", TRIANGLE),
        ),
    )
    assert [(one.number, one.shape.area) for one in found.annotations] == [(4, 30_000)]
    assert found.remarks == (
        "s.xml: left out: 1 of an unknown type, 2 points, 1 rulers.",
        "s.xml: taken with a change: 1 splines (taken as polygons through their points).",
    )


def test_a_rectangle_may_be_given_by_two_corners(tmp_path):
    assert areas(read_text(tmp_path, asap(("Rectangle", "Tumor", [(350, 90), (100, 50)])))) == [("Tumor", 10_000)]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_the_text_may_have_the_marks_of_windows(tmp_path, encoding):
    text = asap(("Polygon", "Tumör", TRIANGLE))
    assert areas(read_text(tmp_path, text, encoding=encoding)) == [("Tumör", 30_000)]
