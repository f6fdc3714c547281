"""NDPA of Hamamatsu's NDP.view, in nm from the centre of the glass slide."""

from dataclasses import replace

import numpy as np
import pytest
from annotation_files import FRAME, areas, freehand, ndpa, read_text, view_state, write_ndpi
from slide_files import write_scn

from spider_tools.annotations.reading import read_annotations
from spider_tools.slide_files.reader import open_slide

# 1000 x 800 px of 0.5 x 0.25 um; the scan's centre, px (500, 400), lies 2 mm right of and 1 mm above the slide's.
HAMAMATSU = replace(FRAME, name="s.ndpi", mpp=(0.5, 0.25), center_offset_nm=(2_000_000.0, -1_000_000.0))
# By hand: 2,050,000 - 2,000,000 nm are 50 um right of it, 100 px; -1,010,000 + 1,000,000 nm are 10 um above, 40 px.
TRIANGLE_NM = [(2_050_000, -1_010_000), (2_150_000, -1_010_000), (2_150_000, -975_000)]
TRIANGLE_PX = [(600, 360), (800, 360), (800, 500)]


def test_nm_from_the_centre_of_the_glass_become_px(tmp_path):
    found = read_text(tmp_path, ndpa(view_state("Tumor", freehand(TRIANGLE_NM))), HAMAMATSU, "s.ndpi.ndpa")
    assert areas(found) == [("Tumor", 200 * 140 / 2)]
    np.testing.assert_allclose(list(found.annotations[0].shape.exterior.coords)[:3], TRIANGLE_PX)
    assert found.remarks == ()


def test_rectangles_and_circles_are_areas(tmp_path):
    box = [(2_050_000, -1_010_000), (2_050_000, -975_000), (2_150_000, -975_000), (2_150_000, -1_010_000)]
    circle = (
        '<annotation type="circle" displayname="AnnotateCircle" color="#00ff00"><x>2050000</x><y>-1010000</y>'
        "<radius>20000</radius></annotation>"
    )
    text = ndpa(
        view_state("a", freehand(box, shown="AnnotateRectangle")),
        view_state("b", freehand([box[0], box[2]], kind="rectangle")),
        view_state("c", circle),
    )
    first, second, third = (one.shape for one in read_text(tmp_path, text, HAMAMATSU).annotations)
    assert first.bounds == pytest.approx((600, 360, 800, 500))
    assert second.equals(first)
    # 20 um are 40 px across and 80 px down
    np.testing.assert_allclose(third.bounds, (560, 280, 640, 440), atol=0.1)
    assert third.area == pytest.approx(np.pi * 40 * 80, rel=1e-3)


def test_pins_rulers_and_open_lines_are_left_out(tmp_path):
    pin = '<annotation type="pin" displayname="AnnotatePin" color="#ff0000"><x>0</x><y>0</y></annotation>'
    ruler = '<annotation type="linearmeasure" displayname="AnnotateRuler" color="#000000"><x1>0</x1></annotation>'
    text = ndpa(
        view_state("a", pin),
        view_state("b", ruler),
        view_state("c", freehand(TRIANGLE_NM, closed=0)),
        view_state("d", ""),
        view_state("", freehand(TRIANGLE_NM)),
        view_state("Tumor", freehand(TRIANGLE_NM)),
    )
    found = read_text(tmp_path, text, HAMAMATSU)
    assert [one.number for one in found.annotations] == [5]
    reasons = "1 of an unknown type, 1 open lines, 1 pins, 1 rulers, 1 without a class"
    assert found.remarks == (f"s.xml: left out: {reasons}.",)


def test_a_slide_that_does_not_say_where_it_lies_on_the_glass_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"s\.xml cannot be used: .* s\.svs does not say where its scan lies"):
        read_text(tmp_path, ndpa(view_state("Tumor", freehand(TRIANGLE_NM))))


def test_another_unit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="object 0 has coordinates in 'pixels', expected nanometers"):
        read_text(tmp_path, ndpa(view_state("Tumor", freehand(TRIANGLE_NM), unit="pixels")), HAMAMATSU)


@pytest.mark.parametrize("mpp", [None, 0.31])
def test_a_slide_of_hamamatsu_says_where_it_lies_whatever_um_per_px_the_user_gives(tmp_path, mpp):
    pixels = np.zeros((320, 480, 3), dtype=np.uint8)
    slide = open_slide(write_ndpi(tmp_path / "s.ndpi", pixels, 0.25, (2_000_000, -1_000_000)), mpp)
    assert slide.center_offset_nm == (2_000_000, -1_000_000)
    assert slide.frame.size == (480, 320)
    # 10 um right of the centre and 5 um below it: 40 px and 20 px of the file's own 0.25 um
    corners = [(2_010_000, -995_000), (2_020_000, -995_000), (2_020_000, -990_000)]
    (tmp_path / "s.ndpa").write_text(ndpa(view_state("Tumor", freehand(corners))))
    (one,) = read_annotations(tmp_path / "s.ndpa", slide.frame).annotations
    np.testing.assert_allclose(list(one.shape.exterior.coords)[:3], [(280, 180), (320, 180), (320, 200)])


def test_other_slides_say_what_qupath_counts_from_and_nothing_of_the_glass(tmp_path):
    pixels = np.zeros((128, 192, 3), dtype=np.uint8)
    frame = open_slide(write_scn(tmp_path / "s.scn", pixels, (64, 32), (512, 256))).frame
    assert (frame.name, frame.size, frame.mpp, frame.bounds) == ("s.scn", (512, 256), (0.5, 0.5), (64, 32, 192, 128))
    assert (frame.center_offset_nm, frame.own_mpp) == (None, None)
