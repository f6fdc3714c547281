"""One decoder: training, slides, masks and the image processor of the model files see the same pixels."""

import numpy as np
import pytest
import torch
from PIL import Image

from spider_tools import remote_code
from spider_tools.data.patches import FolderPatches
from spider_tools.images import DECODING_ERRORS, is_marked, to_rgb, unusable_mode
from spider_tools.slide_files.reader import open_slide

SIDE = 48


def random_image(mode):
    """An image of a mode with all its channels at random, transparency included."""
    rng = np.random.default_rng(len(mode) + ord(mode[0]))
    if mode.startswith("I;16"):
        order = ">u2" if mode == "I;16B" else "<u2"
        return Image.frombytes(mode, (SIDE, SIDE), rng.integers(0, 1 << 16, SIDE * SIDE).astype(order).tobytes())
    if mode == "1":
        return Image.fromarray(rng.integers(0, 2, (SIDE, SIDE)).astype(bool))
    channels = len(Image.new(mode, (1, 1)).getbands())
    image = Image.frombytes(mode, (SIDE, SIDE), rng.integers(0, 256, SIDE * SIDE * channels, dtype=np.uint8).tobytes())
    if mode in ("P", "PA"):
        image.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tolist())
    return image


def see_through(image, value):
    image.info["transparency"] = value
    return image


IMAGES = {
    **{
        mode: random_image(mode)
        for mode in (
            *("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV"),
            *("I;16", "I;16L", "I;16B"),
        )
    },
    "P with one transparent colour": see_through(random_image("P"), 7),
    "P with an opacity for each colour": see_through(random_image("P"), bytes(range(256))),
    "L with one transparent level": see_through(random_image("L"), 100),
    "RGB with one transparent colour": see_through(random_image("RGB"), (1, 2, 3)),
    "RGBA, opaque": Image.fromarray(np.dstack([np.asarray(random_image("RGB")), np.full((SIDE, SIDE), 255, np.uint8)])),
}


@pytest.mark.parametrize("name", IMAGES)
def test_the_image_processor_decodes_every_mode_alike(name):
    processor = remote_code.image_processor_class()(context_size=1, patch_size=SIDE, do_normalize=False)
    values = processor(IMAGES[name].copy(), return_tensors="pt")["pixel_values"][0, 0]
    # It keeps the depth of 16 bits: the nearest of 8 bits is what everything else sees.
    levels = torch.round(values.double() * 255).to(torch.uint8).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(to_rgb(IMAGES[name].copy()), levels)


@pytest.mark.parametrize("name", ["RGBA", "P"])
def test_training_and_slides_read_a_file_alike(tmp_path, name):
    image = random_image(name)
    (tmp_path / "images").mkdir()
    image.save(tmp_path / "images" / "x.png")
    trained = FolderPatches(tmp_path / "images", SIDE, tmp_path / "no table").read("x.png")
    seen = open_slide(tmp_path / "images" / "x.png", mpp=0.5).read_level(0, (0, 0), (SIDE, SIDE))
    np.testing.assert_array_equal(trained, seen)
    assert len(np.unique(trained)) > 30 or name == "P"


def test_16_bits_become_the_nearest_of_8():
    levels = np.array([[0, 128, 129, 257, 32767, 65406, 65407, 65535]], dtype=np.uint16)
    expected = [0, 0, 1, 1, 127, 254, 255, 255]
    assert to_rgb(Image.fromarray(levels))[0].tolist() == [[value] * 3 for value in expected]


@pytest.mark.parametrize("mode", ["I", "F", "La"])
def test_modes_without_a_range_are_refused_by_both(mode):
    image = Image.new(mode, (SIDE, SIDE))
    assert mode in unusable_mode(image)
    with pytest.raises(ValueError, match=repr(mode)):
        to_rgb(image)
    with pytest.raises(ValueError, match=repr(mode)):
        remote_code.image_processor_class()(context_size=1, patch_size=SIDE)(image)


def test_pixels_can_be_changed_without_changing_the_image():
    for image in IMAGES.values():
        before = image.tobytes()
        to_rgb(image)[:] = 9
        assert image.tobytes() == before


def test_a_drawing_marks_whatever_is_neither_black_nor_transparent():
    drawn = np.zeros((2, 4), dtype=np.uint16)
    drawn[0, 1], drawn[1, 2] = 1, 65535
    for levels in (drawn, drawn.astype(np.int32), drawn.astype(np.float32) / 2, (drawn > 0).astype(bool)):
        np.testing.assert_array_equal(is_marked(Image.fromarray(levels)), drawn > 0)
    colours = np.zeros((1, 4, 4), dtype=np.uint8)
    colours[0, :, 3] = [0, 255, 255, 0]
    colours[0, 1:, 2] = 200
    assert is_marked(Image.fromarray(colours)).tolist() == [[False, True, True, False]]


@pytest.mark.parametrize("name", ["x.tif", "x.jp2", "x.jpg", "x.png"])
@pytest.mark.parametrize("read", [to_rgb, is_marked])
def test_a_truncated_file_stays_refused_when_it_is_tried_again(tmp_path, name, read):
    path = tmp_path / name
    random_image("RGB").save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with Image.open(path) as image:
        for _ in range(3):
            with pytest.raises(DECODING_ERRORS):
                read(image)
