"""Which patches lie under what was drawn, beside counting px."""

import json

import numpy as np
import pytest
import shapely
import torch
from annotation_files import freehand, ndpa, view_state, write_ndpi
from made_up_patches import table_of
from slide_files import draw_slide

from spider_tools.annotations.reading import Annotation, read_annotations
from spider_tools.retrieval.covering import annotated, covered, drawn_on
from spider_tools.retrieval.result_folder import ResultFolder, SlideFacts
from spider_tools.slide_files.reader import open_slide
from spider_tools.slide_sources.task import SlideTask
from spider_tools.slides.model import SlideModel
from spider_tools.slides.one import map_slide
from spider_tools.slides.settings import SlideSettings

SIDE = 20
PLACES = [(float(x), float(y)) for y in range(0, 200, 10) for x in range(0, 300, 10)]  # every second one overlaps


def facts(origin=(0, 0)):
    return SlideFacts("s.tif", {"size": [400, 300]}, (400, 300), (0.5, 0.5), (1.0, 1.0), origin, SIDE)


def write(path, *features):
    content = [
        {
            "type": "Feature",
            "geometry": json.loads(shapely.to_geojson(shape)),
            "properties": {"classification": {"name": name}},
        }
        for name, shape in features
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": content}))
    return path


def counted(shape):
    """Patches of which at least half of the px have their centre in the shape."""
    x, y = np.meshgrid(np.arange(400) + 0.5, np.arange(300) + 0.5)
    inside = shapely.contains_xy(shape, x, y)
    shares = [inside[int(top) : int(top) + SIDE, int(left) : int(left) + SIDE].mean() for left, top in PLACES]
    return [row for row, share in enumerate(shares) if share >= 0.5]


def annotations(*shapes):
    return [Annotation("Fat", shape, number) for number, shape in enumerate(shapes)]


@pytest.mark.parametrize(
    "shape",
    [
        shapely.box(35, 40, 118, 91),
        shapely.Polygon([(20, 15), (160, 40), (110, 150), (30, 120)], [[(60, 50), (100, 60), (80, 90)]]),
        shapely.box(-50, -50, 999, 999),
    ],
)
def test_a_patch_of_which_half_is_drawn_is_covered(shape):
    table = table_of(["s"] * len(PLACES), PLACES, side=float(SIDE))
    assert covered(table, "s", annotations(shape)).tolist() == counted(shape)


def test_a_small_structure_counts_for_the_patch_that_it_covers_most_of():
    table = table_of(["s", "s", "other"], [(0.0, 0.0), (20.0, 0.0), (0.0, 0.0)], side=float(SIDE))
    assert covered(table, "s", annotations(shapely.box(18, 3, 24, 7))).tolist() == [1]
    assert covered(table, "s", annotations(shapely.box(200, 200, 210, 210))).tolist() == []
    assert covered(table, "nowhere", annotations(shapely.box(0, 0, 40, 40))).tolist() == []


def test_every_annotation_covers_its_own_patches():
    table = table_of(["s"] * len(PLACES), PLACES, side=float(SIDE))
    large, small = shapely.box(0, 0, 100, 100), shapely.box(151, 151, 153, 153)
    both = covered(table, "s", annotations(large, small)).tolist()
    assert set(counted(large)) < set(both)
    assert len(both) == len(counted(large)) + 1


def test_drawings_count_from_where_qupath_does_and_suggestions_are_no_drawings(tmp_path):
    path = write(
        tmp_path / "s.geojson",
        ("Fat", shapely.box(10, 20, 30, 40)),
        ("Suggested: Fat", shapely.box(100, 100, 150, 150)),
    )
    [one] = drawn_on(path, "s", facts(origin=(131, 57))).annotations
    assert (one.class_name, one.shape.bounds) == ("Fat", (141, 77, 161, 97))


def test_what_a_folder_of_annotations_covers_is_found_slide_by_slide(tmp_path):
    table = table_of(["s"] * len(PLACES) + ["t"] * len(PLACES) + ["u"], [*PLACES, *PLACES, (0.0, 0.0)], float(SIDE))
    slides = {"s": facts(), "t": facts(origin=(10, 0)), "u": facts()}
    write(tmp_path / "s.geojson", ("Fat", shapely.box(0, 0, 60, 60)))
    write(tmp_path / "t.svs.geojson", ("Fat", shapely.box(0, 0, 60, 60)))
    (tmp_path / "unknown.geojson").write_text("no slide's")
    rows, remarks = annotated(table, slides, tmp_path)
    moved = counted(shapely.box(10, 0, 70, 60))
    assert rows.tolist() == counted(shapely.box(0, 0, 60, 60)) + [len(PLACES) + row for row in moved]
    assert all(remark.startswith(("s.geojson", "t.svs.geojson")) for remark in remarks)


@pytest.mark.parametrize("kind", ["empty", "absent", "file"])
def test_annotations_of_no_slide_are_refused(tmp_path, kind):
    place = tmp_path / "drawn"
    if kind == "empty":
        place.mkdir()
    elif kind == "file":
        write(place, ("Fat", shapely.box(0, 0, 60, 60)))
    with pytest.raises(ValueError, match=r"neither a file nor a folder|has to be a folder of annotations named like"):
        annotated(table_of(["s"], [(0.0, 0.0)]), {"s": facts()}, place)


@pytest.mark.parametrize("given", [None, 0.26])
def test_what_ndp_view_drew_is_found_from_the_results_alone(tmp_path, make_model, processor, given):
    path = write_ndpi(tmp_path / "n.ndpi", draw_slide(420, 380, seed=1), 0.25, (2_000_000, -1_000_000))
    model = SlideModel(make_model(), processor.image_processor, torch.device("cpu"))
    map_slide(SlideTask(path, "n", given), model, SlideSettings("tiny", tmp_path / "results", num_workers=0))
    known = ResultFolder(tmp_path / "results" / "n").facts
    again = SlideFacts.from_json(json.loads(json.dumps(known.as_json())))
    frame = open_slide(path, given).frame
    assert (frame.center_offset_nm, frame.own_mpp is None) == ((2_000_000, -1_000_000), given is None)
    corners = [(1_960_000, -1_030_000), (2_030_000, -1_030_000), (2_030_000, -960_000), (1_960_000, -960_000)]
    (tmp_path / "n.ndpa").write_text(ndpa(view_state("Tumor", freehand(corners))))
    [drawn] = drawn_on(tmp_path / "n.ndpa", "n", again).annotations
    [expected] = read_annotations(tmp_path / "n.ndpa", frame).annotations
    assert drawn.shape.equals(expected.shape)
    # 40 um are 160 px of the file's own 0.25 um left of the centre at (210, 190), 120 px above it
    np.testing.assert_allclose(drawn.shape.bounds, (50, 70, 330, 350))
