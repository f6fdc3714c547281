"""Views: pixels at the model's um/px depend on their place alone, and are on the right physical grid."""

import numpy as np
import pytest
from slide_files import draw_slide, means_of_squares, resampled, write_pyramid

from spider_tools.slides.reader import SlideError, open_slide
from spider_tools.slides.view import SlideView, model_scale


@pytest.fixture(scope="module")
def pixels():
    return draw_slide(963, 702, seed=3)


@pytest.fixture(scope="module")
def open_at(tmp_path_factory, pixels):
    folder = tmp_path_factory.mktemp("slides")

    def make(mpp, factors=(1, 4), part=pixels):
        path = folder / f"{mpp}-{factors}.tif"
        return open_slide(path if path.exists() else write_pyramid(path, part, mpp, factors))

    return make


@pytest.mark.parametrize("mpp", [0.25, 0.2527, 0.4])
def test_a_view_equals_resampling_the_whole_slide_at_once(open_at, pixels, mpp):
    slide = open_at(mpp, (1,))
    view = SlideView(slide, model_scale(slide, 0.5, 0.02))
    np.testing.assert_array_equal(view.read_all(), resampled(pixels, 0.5 / slide.mpp[0]))


def test_at_the_models_um_per_px_the_pixels_are_those_of_the_file(open_at, pixels):
    for mpp in (0.5, 0.499, 0.5049):
        slide = open_at(mpp)
        view = SlideView(slide, model_scale(slide, 0.5, 0.02))
        assert view.scale == (1.0, 1.0)
        np.testing.assert_array_equal(view.read((450, 301), (500, 400)), pixels[301:701, 450:950])


def test_a_level_at_the_models_um_per_px_is_taken_as_it_is(open_at, pixels):
    part = pixels[:700, :960]
    slide = open_at(0.125, (1, 4), part)
    view = SlideView(slide, model_scale(slide, 0.5, 0.02))
    assert (view.level, view.scale) == (1, (4.0, 4.0))
    np.testing.assert_array_equal(view.read_all(), means_of_squares(part, 4))


def test_the_next_finer_level_is_resampled_by_what_is_left(open_at, pixels):
    part = pixels[:700, :960]
    slide = open_at(0.1, (1, 4), part)
    view = SlideView(slide, model_scale(slide, 0.5, 0.02))
    assert (view.level, view.scale) == (1, (pytest.approx(5.0), pytest.approx(5.0)))
    np.testing.assert_array_equal(view.read_all(), resampled(means_of_squares(part, 4), 1.25))


def test_overlapping_windows_agree_to_the_last_digit(open_at):
    slide = open_at(0.2527, (1,))
    view = SlideView(slide, model_scale(slide, 0.5, 0.02))
    whole = view.read_all()
    for x, y, width, height in [(0, 0, 28, 28), (439, 301, 37, 46), (447, 0, 2, 354), (475, 353, 1, 1)]:
        window = SlideView(slide, view.scale).read((x, y), (width, height))
        np.testing.assert_array_equal(window, whole[y : y + height, x : x + width])


def test_the_grid_does_not_drift(open_at, pixels):
    """A mark lies where its um say, also at the far end of the slide."""
    marked = np.full_like(pixels, 255)
    marked[690:694, 950:954] = 0  # its centre is 952, 692 px from the corner
    slide = open_at(0.25271, (1,), marked)
    view = SlideView(slide, model_scale(slide, 0.5, 0.0))
    darkness = 255.0 - view.read_all()[..., 0]
    y, x = (np.indices(darkness.shape) + 0.5).reshape(2, -1) @ darkness.ravel() / darkness.sum()
    assert (x * 0.5, y * 0.5) == pytest.approx((952 * 0.25271, 692 * 0.25271), abs=0.01)


def test_a_view_is_as_large_as_its_whole_pixels(open_at):
    slide = open_at(0.2527, (1,))
    assert SlideView(slide, (0.5 / 0.2527,) * 2).size == (int(963 * 0.2527 / 0.5), int(702 * 0.2527 / 0.5))
    assert SlideView(slide, (3.0, 3.0)).size == (321, 234)  # exactly, whatever the rounding of a division


def test_low_magnification_reads_no_more_than_it_needs_at_once(open_at, monkeypatch):
    slide = open_at(0.5, (1,))
    largest = []
    read_level = slide.read_level
    monkeypatch.setattr(slide, "read_level", lambda n, c, size: (largest.append(max(size)), read_level(n, c, size))[1])
    view = SlideView(slide, (40.0, 40.0))
    view.read_all()
    assert max(largest) <= 1024 + 4 * 40


@pytest.mark.parametrize("mpp", [0.52, 1.0, 2.0])
def test_a_slide_coarser_than_the_model_is_refused(open_at, mpp):
    with pytest.raises(SlideError, match=rf"has {mpp:g} um/px at full resolution.*0.5 um/px.*tolerance of 0.02.*--mpp"):
        model_scale(open_at(mpp), 0.5, 0.02)


def test_the_tolerance_can_be_raised(open_at):
    assert model_scale(open_at(0.52), 0.5, 0.05) == (1.0, 1.0)


def test_the_closest_level_is_taken(open_at):
    assert model_scale(open_at(0.26, (1, 2)), 0.5, 0.1) == (2.0, 2.0)


@pytest.mark.parametrize(("corner", "size"), [((-1, 0), (5, 5)), ((0, 0), (964, 5)), ((960, 700), (3, 3))])
def test_windows_beyond_the_edge_are_refused(open_at, corner, size):
    with pytest.raises(SlideError, match="leaves the"):
        SlideView(open_at(0.5), (1.0, 1.0)).read(corner, size)
