"""Shares of patches that polygons cover, against counting points."""

import numpy as np
import pytest
import shapely

from spider_tools.building.coverage import nearest_objects, overlaps, patch_boxes, shares

CORNERS = np.array([(x, y) for y in range(0, 60, 10) for x in range(0, 80, 10)], dtype=float)
HOLED = shapely.Polygon([(3, 2), (55, 7), (47, 44), (5, 38)], [[(12, 12), (33, 14), (28, 30), (14, 28)]])
STAR = shapely.Polygon([(60, 5), (64, 20), (79, 22), (66, 30), (70, 50), (58, 34), (50, 55), (54, 26)])


def by_points(corner, polygons, side=10.0, per_side=200):
    """The share of points of a fine grid in a patch that lie in any polygon."""
    steps = (np.arange(per_side) + 0.5) * side / per_side
    x, y = np.meshgrid(corner[0] + steps, corner[1] + steps)
    inside = np.zeros(x.shape, dtype=bool)
    for polygon in polygons:
        inside |= shapely.contains_xy(polygon, x, y)
    return inside.mean()


@pytest.mark.parametrize("polygons", [[HOLED], [HOLED, STAR], [STAR, STAR], [HOLED, shapely.box(10, 10, 40, 40)], []])
def test_shares_are_those_of_points_and_overlaps_count_once(polygons):
    given = shares(patch_boxes(CORNERS, (10, 10)), polygons)
    expected = [by_points(corner, polygons) for corner in CORNERS]
    assert np.abs(given - expected).max() < 0.005
    assert given.min() >= 0
    assert given.max() <= 1


def test_a_patch_that_is_covered_whole_has_exactly_one():
    assert shares(patch_boxes(np.array([[20.0, 20.0]]), (10, 10)), [shapely.box(0, 0, 100, 100)]).tolist() == [1.0]


def test_the_object_of_a_patch_is_the_one_with_most_of_it_over_all_its_parts():
    boxes = patch_boxes(np.array([[0.0, 0.0], [10.0, 0.0], [50.0, 50.0]]), (10, 10))
    polygons = [shapely.box(0, 0, 4, 10), shapely.box(0, 0, 6, 5), shapely.box(6, 0, 10, 5), shapely.box(12, 0, 13, 3)]
    # Object 7 has 30 and 20 px of the first patch in two parts, object 3 has 40 in one.
    assert nearest_objects(boxes, polygons, [3, 7, 7, 9]).tolist() == [7, 9, -1]


def test_overlaps_are_told_by_pair():
    polygons = {"b": [shapely.box(0, 0, 10, 10)], "a": [shapely.box(6, 5, 20, 30)], "c": [shapely.box(50, 50, 60, 60)]}
    assert overlaps(polygons) == {("a", "b"): pytest.approx(4 * 5)}
