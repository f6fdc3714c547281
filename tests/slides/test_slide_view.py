"""Views: pixels at the model's um/px depend on their place alone, and are on the right physical grid.

Pillow rounds to whole grey levels after each axis, the filter of `slide_files.resampled` once: a resampled view is
allowed one level of difference, and no more.
"""

import numpy as np
import pytest
from slide_files import draw_slide, means_of_squares, resampled, write_pyramid

from spider_tools.slide_files.mpp_tolerance import MOST_MPP_TOLERANCE
from spider_tools.slide_files.reader import SlideError, open_slide
from spider_tools.slide_files.view import SlideView, model_scale


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


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Pixels and slide, several blocks along each axis at all of `FACTORS`."""
    pixels = draw_slide(2301, 1203, seed=4)
    return pixels, open_slide(write_pyramid(tmp_path_factory.mktemp("large") / "s.tif", pixels, 0.25, (1,)))


def assert_within_one_level(got, expected):
    np.testing.assert_allclose(got.astype(int), expected.astype(int), rtol=0, atol=1)


FACTORS = [1.1, 1.98, 2.0, 2.004, 3.7, 4.0]


@pytest.mark.parametrize("factor", FACTORS)
def test_a_view_is_the_whole_slide_resampled_at_once(large, factor):
    """A filter that is cut off at the edge of a block would show."""
    pixels, slide = large
    view = SlideView(slide, (factor, factor))
    assert min(view.size) > view._block_px
    assert_within_one_level(view.read_all(), resampled(pixels, factor))


@pytest.mark.parametrize("factor", FACTORS)
def test_a_window_is_the_same_wherever_it_starts_and_whatever_was_read_before(large, factor):
    _, slide = large
    whole = SlideView(slide, (factor, factor)).read_all()
    height, width = whole.shape[:2]
    side = SlideView(slide, (factor, factor))._block_px
    used = SlideView(slide, (factor, factor))
    windows = [(0, 0, 29, 31), (side - 1, side - 3, 2, 5), (side, side, 1, 1), (width - 37, height - 53, 37, 53)]
    windows += [(17, height - 1, width - 17, 1), (width - 1, 13, 1, height - 13), (side - 7, 0, 8, height)]
    for x, y, across, down in windows:
        expected = whole[y : y + down, x : x + across]
        for view in (SlideView(slide, (factor, factor)), used):
            np.testing.assert_array_equal(view.read((x, y), (across, down)), expected)


@pytest.mark.parametrize("factor", [1.1, 2.004, 3.7])
def test_nothing_but_the_slide_is_mixed_into_its_edges(open_at, pixels, factor):
    slide = open_at(0.3, (1,), np.full_like(pixels, (200, 100, 50)))
    assert (SlideView(slide, (factor, factor)).read_all() == (200, 100, 50)).all()


def test_where_a_level_lacks_the_last_px_of_the_slide_its_own_last_px_are_repeated(open_at, pixels):
    slide = open_at(0.12, (1, 4), pixels[:700, :963])
    view = SlideView(slide, (4.012, 4.012))
    assert (slide.levels[1].size, view.size, view.level) == ((240, 175), (240, 174), 1)
    level = np.pad(means_of_squares(pixels[:700, :963], 4), ((0, 0), (0, 1), (0, 0)), mode="edge")
    assert_within_one_level(view.read_all(), resampled(level, 1.003))


@pytest.mark.parametrize("enlarged", ["x", "y"])
def test_a_slide_whose_pixels_are_not_quite_square_is_enlarged_along_one_axis(open_at, pixels, enlarged):
    scale = (0.985, 1.03) if enlarged == "x" else (1.03, 0.985)
    alike = np.empty_like(pixels)  # along the axis that is reduced
    alike[:] = pixels[:1] if enlarged == "x" else pixels[:, :1]
    view = SlideView(open_at(0.31 if enlarged == "x" else 0.32, (1,), alike), scale)
    expected = resampled(alike, 0.985)
    expected = expected[:1] if enlarged == "x" else expected[:, :1]
    got = view.read_all()
    assert got.shape == (int(702 / scale[1]), int(963 / scale[0]), 3)
    assert_within_one_level(got, np.broadcast_to(expected, got.shape))


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
    assert_within_one_level(view.read_all(), resampled(means_of_squares(part, 4), 1.25))


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


@pytest.mark.parametrize(
    ("mpp", "advice"),
    [
        (0.553, r"give --mpp_tolerance 0\.11\."),
        (0.75, r"give --mpp_tolerance 0\.5\."),
        (0.76, "too coarse to be"),
    ],
)
def test_of_a_coarse_slide_it_is_said_what_would_do(tmp_path, mpp, advice):
    slide = open_slide(write_pyramid(tmp_path / "s.tif", draw_slide(90, 80), mpp))
    with pytest.raises(SlideError, match=f"finer by more than the tolerance of 0.02.*{advice}"):
        model_scale(slide, 0.5, 0.02)
    if "tolerance" in advice:
        assert model_scale(slide, 0.5, float(advice.split()[-1].replace("\\", "").rstrip("."))) == (1.0, 1.0)
    else:
        with pytest.raises(SlideError):
            model_scale(slide, 0.5, MOST_MPP_TOLERANCE)
