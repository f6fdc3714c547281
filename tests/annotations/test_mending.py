"""Drawings that cross themselves, leave the slide or lie elsewhere."""

from dataclasses import replace

import numpy as np
import pytest
import shapely
from annotation_files import FRAME, TRIANGLE, areas, asap, feature, read_features, read_text

CHANGED = "s.geojson: taken with a change: 1 crossing themselves (all that they enclose is taken)."
BOW_TIE = [(100, 100), (300, 300), (300, 100), (100, 300)]  # two triangles of 200 x 100 / 2, tip to tip


def test_both_wings_of_a_bow_tie_are_kept_under_one_number(tmp_path):
    found = read_features(tmp_path, feature([(600, 600), (900, 600), (600, 700)]), feature(BOW_TIE, "Stroma"))
    assert sorted(areas(found)) == [("Stroma", 10_000), ("Stroma", 10_000), ("Tumor", 15_000)]
    assert [one.number for one in found.annotations] == [0, 1, 1]
    assert found.remarks == (CHANGED,)
    assert all(one.shape.is_valid for one in found.annotations)


def test_a_line_that_runs_round_twice_encloses_its_inside(tmp_path):
    star = [(500 + 300 * np.sin(angle), 400 - 300 * np.cos(angle)) for angle in np.arange(5) * 4 * np.pi / 5]
    found = read_features(tmp_path, feature(star))
    (one,) = found.annotations
    assert one.shape.contains(shapely.Point(500, 400))
    assert len(one.shape.interiors) == 0
    # Ten triangles from the centre, each between a tip, 300 px away, and an inner corner, by the law of sines.
    inner = 300 * np.sin(np.pi / 10) / np.sin(7 * np.pi / 10)
    assert one.shape.area == pytest.approx(10 * 300 * inner * np.sin(np.pi / 5) / 2)
    assert found.remarks == (CHANGED,)


def enclosed_by_winding(ring):
    """What a line runs round: the faces between its crossings whose winding number is not 0."""
    line = shapely.LineString([*ring, ring[0]])
    faces = shapely.get_parts(shapely.polygonize(shapely.get_parts(shapely.unary_union(line)).tolist()))
    kept = []
    for face in faces.tolist():
        to_corners = np.asarray(ring) - np.asarray(face.representative_point().coords)
        angles = np.angle(np.exp(1j * np.diff(np.arctan2(*to_corners[[*range(len(ring)), 0]].T[::-1]))))
        kept += [face] if round(angles.sum() / (2 * np.pi)) else []
    return shapely.union_all(kept)


@pytest.mark.parametrize("seed", range(8))
def test_a_scribble_covers_all_that_its_line_runs_round(tmp_path, seed):
    ring = np.random.default_rng(seed).uniform((10, 10), (990, 790), (12, 2))
    found = read_features(tmp_path, feature([tuple(point) for point in ring.tolist()]))
    taken = shapely.union_all([one.shape for one in found.annotations])
    assert taken.symmetric_difference(enclosed_by_winding(ring)).area < 1e-6
    assert all(one.shape.is_valid and one.shape.geom_type == "Polygon" for one in found.annotations)


def test_the_end_of_a_stroke_that_overshoots_its_start_takes_nothing_away(tmp_path):
    stroke = [(100, 100), (600, 100), (600, 600), (100, 600), (100, 90), (130, 90), (130, 120)]
    (one,) = read_features(tmp_path, feature(stroke)).annotations
    assert shapely.box(100, 100, 600, 600).difference(one.shape).area == pytest.approx(0)


@pytest.mark.parametrize(
    ("hole", "left"),
    [
        ([(150, 150), (250, 250), (250, 150), (150, 250)], 160_000 - 5_000),
        ([(50, 200), (200, 200), (200, 300), (50, 300)], 160_000 - 10_000),
        ([(150, 150), (250, 250)], 160_000),
    ],
)
def test_holes_that_cross_themselves_or_their_outline_are_cut_and_those_without_an_area_are_not(tmp_path, hole, left):
    outline = [[100, 100], [500, 100], [500, 500], [100, 500], [100, 100]]
    found = read_features(tmp_path, feature({"type": "Polygon", "coordinates": [outline, [*hole, hole[0]]]}))
    assert sum(one.shape.area for one in found.annotations) == pytest.approx(left)
    assert found.remarks == (CHANGED,)


def test_what_reaches_over_the_edge_is_clipped_and_what_lies_outside_left_out(tmp_path):
    found = read_features(
        tmp_path,
        feature(shapely.box(-100, 700, 100, 900)),
        feature(shapely.box(1000, 0, 1200, 100), "touches the edge from outside"),
        feature(TRIANGLE, "inside"),
    )
    assert areas(found) == [("Tumor", 100 * 100), ("inside", 30_000)]
    assert found.annotations[0].shape.bounds == (0, 700, 100, 800)
    assert found.remarks == (
        "s.geojson: left out: 1 outside of the slide.",
        "s.geojson: taken with a change: 1 partly outside of the slide (clipped).",
    )


@pytest.mark.parametrize("far", [2000, -5000, 1e12, 1e300])
def test_a_file_of_another_slide_is_refused(tmp_path, far):
    outside = [(far, far), (far * 1.5, far), (far, far * 1.5)]
    words = r"s\.geojson cannot be used: 2 of 3 annotations lie outside of the slide s\.svs, which has 1000 x 800 px"
    with pytest.raises(ValueError, match=words):
        read_features(tmp_path, feature(outside), feature(TRIANGLE), feature(outside))
    assert len(read_features(tmp_path, feature(outside), feature(TRIANGLE)).annotations) == 1


def test_drawings_in_one_corner_raise_a_doubt_about_their_scale(tmp_path):
    small = [(x / 4, y / 4) for x, y in TRIANGLE]
    (doubt,) = read_features(tmp_path, feature(small)).remarks
    assert "all annotations lie in the upper left corner, within 175 x 125 of 1000 x 800 px" in doubt
    assert "multiplied by its downsample" in doubt
    assert read_features(tmp_path, feature(small), feature(TRIANGLE)).remarks == ()


def test_the_doubt_is_measured_from_where_the_file_counts(tmp_path):
    frame = replace(FRAME, bounds=(600, 400, 400, 400))
    small = [(0, 0), (90, 0), (90, 90)]
    (doubt,) = read_features(tmp_path, feature(small), frame=frame).remarks
    assert "within 90 x 90 of 400 x 400 px" in doubt
    moved = [(x + 600, y + 400) for x, y in small]
    assert read_text(tmp_path, asap(("Polygon", "Tumor", moved)), frame).remarks == ()
