"""Opening slides: what OpenSlide and Pillow read, their um/px, and what is refused."""

import pickle
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import openslide
import pytest
from PIL import Image
from slide_files import draw_slide, means_of_squares, write_pyramid

from spider_tools.slide_files.reader import SlideError, open_slide, true_levels


@pytest.fixture(scope="module")
def pixels():
    return draw_slide(601, 402)


@pytest.fixture
def slide_path(tmp_path, pixels):
    return write_pyramid(tmp_path / "s.tif", pixels, mpp=0.2527)


def test_um_per_px_come_from_the_resolution_of_a_tiff(slide_path):
    assert open_slide(slide_path).mpp == pytest.approx((0.2527, 0.2527))


def test_um_per_px_come_from_the_description_of_an_aperio_slide(tmp_path, pixels):
    path = write_pyramid(tmp_path / "a.svs", pixels, mpp=0.4991, description="aperio")
    slide = open_slide(path)
    assert slide.mpp == pytest.approx((0.4991, 0.4991))
    assert slide.identity["format"] == "aperio"


def test_a_given_value_replaces_what_the_file_says(slide_path):
    assert open_slide(slide_path, mpp=0.4).mpp == (0.4, 0.4)


def test_pixels_of_level_0_are_those_of_the_file(slide_path, pixels):
    slide = open_slide(slide_path)
    assert slide.size == (601, 402)
    np.testing.assert_array_equal(slide.read_level(0, (37, 101), (300, 200)), pixels[101:301, 37:337])


def test_pixels_of_a_lower_level_lie_where_they_should(tmp_path, pixels):
    whole = pixels[:400, :600]
    slide = open_slide(write_pyramid(tmp_path / "s.tif", whole, mpp=0.25))
    np.testing.assert_array_equal(slide.read_level(1, (11, 23), (100, 50)), means_of_squares(whole, 4)[23:73, 11:111])


def test_dropped_pixels_do_not_change_the_factor_between_levels(slide_path):
    reported = openslide.OpenSlide(slide_path).level_downsamples[1]
    assert reported != 4
    assert [level.downsample for level in open_slide(slide_path).levels] == [(1.0, 1.0), (4.0, 4.0)]


def test_levels_that_no_whole_number_explains_keep_their_ratios():
    assert true_levels([(1000, 600), (700, 400)])[1].downsample == (1000 / 700, 600 / 400)


def _read(slide):
    return slide.read_level(0, (5, 7), (90, 80))


@pytest.mark.parametrize("name", ["s.tif", "s.png"])
def test_other_processes_read_the_same_pixels(tmp_path, pixels, name):
    if name.endswith("png"):
        Image.fromarray(pixels).save(tmp_path / name)
    else:
        write_pyramid(tmp_path / name, pixels, mpp=0.5)
    slide = open_slide(tmp_path / name, mpp=0.5)
    expected = _read(slide)
    with ProcessPoolExecutor(1) as pool:
        np.testing.assert_array_equal(pool.submit(_read, slide).result(), expected)
    np.testing.assert_array_equal(_read(pickle.loads(pickle.dumps(slide))), expected)
    np.testing.assert_array_equal(expected, pixels[7:87, 5:95])


def test_a_plain_image_is_a_slide_of_one_level(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "p.png")
    slide = open_slide(tmp_path / "p.png", mpp=0.5)
    assert (slide.size, len(slide.levels), slide.mpp) == ((601, 402), 1, (0.5, 0.5))


def test_transparency_of_an_image_is_white(tmp_path):
    image = np.zeros((40, 50, 4), dtype=np.uint8)
    image[:, 20:] = (200, 10, 30, 255)
    Image.fromarray(image).save(tmp_path / "p.png")
    read = open_slide(tmp_path / "p.png", mpp=0.5).read_level(0, (0, 0), (50, 40))
    assert (read[:, :20] == 255).all()
    assert (read[:, 20:] == (200, 10, 30)).all()


@pytest.mark.parametrize("name", ["p.png", "p.tif"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16"])
def test_grey_images_are_refused(tmp_path, mode, name):
    Image.new(mode, (40, 30)).save(tmp_path / name)
    with pytest.raises(SlideError, match=rf"{name} is grey: the models know stained tissue in colour only"):
        open_slide(tmp_path / name, mpp=0.5)


def test_slides_of_other_pixels_have_other_identities(tmp_path, pixels):
    paths = [write_pyramid(tmp_path / f"{k}.tif", np.roll(pixels, k, axis=1), mpp=0.5) for k in (0, 60)]
    first, second, again = (open_slide(path).identity for path in (*paths, paths[0]))
    assert first == again != second


@pytest.mark.parametrize("mpp", [0.0, -0.5, float("nan"), float("inf"), 0.001, 352.8])
def test_absurd_um_per_px_are_refused(slide_path, mpp):
    with pytest.raises(SlideError, match=r"s\.tif: .*um/px is absurd, expected 0.02 to 10.*--mpp"):
        open_slide(slide_path, mpp=mpp)


def test_dots_per_inch_in_the_place_of_um_per_px_are_refused(tmp_path, pixels):
    path = write_pyramid(tmp_path / "s.tif", pixels, mpp=25400 / 72)
    with pytest.raises(SlideError, match=r"352\.778 x 352\.778 um/px is absurd"):
        open_slide(path)


@pytest.mark.parametrize("name", ["s.tif", "s.png"])
def test_without_um_per_px_the_flag_is_named(tmp_path, pixels, name):
    if name.endswith("png"):
        Image.fromarray(pixels).save(tmp_path / name)
    else:
        write_pyramid(tmp_path / name, pixels, mpp=None)
    with pytest.raises(
        SlideError, match=rf"{name} .*does not say its um/px.*--mpp: usually 0.25 for a scan at 40x, 0.5 at 20x"
    ):
        open_slide(tmp_path / name)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(SlideError, match=r"There is no file .*absent\.svs"):
        open_slide(tmp_path / "absent.svs")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # of Pillow, on its way to refusing the file
@pytest.mark.parametrize("name", ["s.svs", "s.ndpi", "s.tif", "s.png"])
@pytest.mark.parametrize("content", [b"", b"no slide at all", b"II*\x00\xff\xff\xff\x7f" + bytes(50)])
def test_what_is_no_slide_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SlideError, match=rf"{name} is (neither a slide|no whole TIFF|damaged)"):
        open_slide(tmp_path / name, mpp=0.5)


@pytest.mark.parametrize("share", [0.2, 0.7, 0.99])
@pytest.mark.parametrize("kind", ["pyramid", "aperio", "image"])
def test_a_truncated_file_is_refused_when_it_is_opened(tmp_path, pixels, kind, share):
    if kind == "image":
        path = tmp_path / "s.jpg"
        Image.fromarray(pixels).save(path)
    else:
        path = write_pyramid(tmp_path / "s.svs", pixels, 0.5, description=None if kind == "pyramid" else "aperio")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(SlideError, match=r"s\.(svs|jpg) is (truncated|damaged|no whole)"):
        open_slide(path, mpp=0.5)


def test_pixels_that_are_cut_off_behind_the_directories_are_noticed(tmp_path, pixels):
    # tifffile writes the first directory in front of its pixels: the file opens, its last tiles are missing.
    path = write_pyramid(tmp_path / "s.tif", pixels, mpp=0.5, factors=(1,))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(SlideError, match=r"s.tif is truncated: its pixels end at byte [\d,]+, the file at byte [\d,]+"):
        open_slide(path)


def test_a_plain_image_too_large_to_decode_is_refused(tmp_path, pixels, monkeypatch):
    Image.fromarray(pixels).save(tmp_path / "p.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200_000)
    with pytest.raises(SlideError, match=r"plain image of more than 200000 px.*tiled pyramidal TIFF"):
        open_slide(tmp_path / "p.png", mpp=0.5)
