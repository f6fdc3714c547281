"""PIL images of every mode, in memory and from files."""

import io

import numpy as np
import pytest
from cropped_by_loop import SIDE, random_rgb, region_processor, whole
from PIL import Image, ImageOps


@pytest.fixture(scope="module")
def raw_processor():
    """A processor without normalisation: values in [0, 1]."""
    return region_processor(do_normalize=False)


def encoded(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def opened(data):
    return Image.open(io.BytesIO(data))


def test_rgb_images_keep_their_levels(raw_processor):
    rgb = random_rgb()
    np.testing.assert_allclose(whole(raw_processor(Image.fromarray(rgb), return_tensors="pt")), rgb, atol=1e-4)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_flattened_on_white(raw_processor, mode):
    rgb = random_rgb()
    colour = rgb if mode == "RGBA" else np.repeat(rgb[:, :, :1], 3, axis=2)
    alpha = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 1), dtype=np.uint8)
    alpha[:2], alpha[2:4] = 0, 255
    image = Image.fromarray(np.concatenate([rgb if mode == "RGBA" else rgb[:, :, :1], alpha], axis=2))
    assert image.mode == mode
    result = whole(raw_processor(opened(encoded(image, "PNG")), return_tensors="pt"))
    opacity = alpha / 255.0
    np.testing.assert_allclose(result, colour * opacity + 255 * (1 - opacity), atol=1.0)
    np.testing.assert_allclose(result[:2], 255, atol=1e-4)
    np.testing.assert_allclose(result[2:4], colour[2:4], atol=1e-4)


def test_premultiplied_transparency_is_flattened_on_white(raw_processor):
    rgba = np.concatenate([random_rgb(), np.full((SIDE, SIDE, 1), 255, dtype=np.uint8)], axis=2)
    rgba[0] = 0
    expected = rgba[:, :, :3].copy()
    expected[0] = 255
    result = whole(raw_processor(Image.fromarray(rgba).convert("RGBa"), return_tensors="pt"))
    np.testing.assert_allclose(result, expected, atol=1e-4)


def test_grey_images_fill_three_channels(raw_processor):
    grey = random_rgb()[:, :, 0]
    for image in (Image.fromarray(grey), opened(encoded(Image.fromarray(grey), "PNG"))):
        assert image.mode == "L"
        result = whole(raw_processor(image, return_tensors="pt"))
        np.testing.assert_allclose(result, np.repeat(grey[:, :, None], 3, axis=2), atol=1e-4)


def palette_image():
    indices = np.random.default_rng(2).integers(0, 4, (SIDE, SIDE), dtype=np.uint8)
    palette = np.array([[200, 30, 90], [10, 240, 60], [70, 80, 250], [5, 6, 7]], dtype=np.uint8)
    image = Image.frombytes("P", (SIDE, SIDE), indices.tobytes())
    image.putpalette(palette.flatten().tolist())
    return image, indices, palette


def test_palette_images_are_looked_up(raw_processor):
    image, indices, palette = palette_image()
    for each in (image, opened(encoded(image, "PNG")), opened(encoded(image, "GIF"))):
        assert each.mode == "P"
        np.testing.assert_allclose(whole(raw_processor(each, return_tensors="pt")), palette[indices], atol=1e-4)


def test_the_transparent_colour_of_a_palette_becomes_white(raw_processor):
    image, indices, palette = palette_image()
    palette = palette.copy()
    palette[2] = 255
    for each in (opened(encoded(image, "PNG", transparency=2)), opened(encoded(image, "GIF", transparency=2))):
        assert each.info["transparency"] == 2
        np.testing.assert_allclose(whole(raw_processor(each, return_tensors="pt")), palette[indices], atol=1e-4)


def test_a_palette_with_an_opacity_per_colour_is_flattened_on_white(raw_processor):
    image, indices, palette = palette_image()
    opacity = np.array([255, 0, 51, 204])[:, None] / 255
    file = opened(encoded(image, "PNG", transparency=bytes([255, 0, 51, 204])))
    assert isinstance(file.info["transparency"], bytes)
    result = whole(raw_processor(file, return_tensors="pt"))
    np.testing.assert_allclose(result, (palette * opacity + 255 * (1 - opacity))[indices], atol=1.0)


def test_the_transparent_colour_of_an_rgb_file_becomes_white(raw_processor):
    rgb = random_rgb()
    rgb[3:9, 1:4] = (1, 2, 3)
    expected = rgb.copy()
    expected[3:9, 1:4] = 255
    file = opened(encoded(Image.fromarray(rgb), "PNG", transparency=(1, 2, 3)))
    assert file.mode == "RGB"
    np.testing.assert_allclose(whole(raw_processor(file, return_tensors="pt")), expected, atol=1e-4)


def test_cmyk_images_are_converted(raw_processor):
    cmyk = np.random.default_rng(3).integers(0, 256, (SIDE, SIDE, 4), dtype=np.uint8)
    image = Image.frombytes("CMYK", (SIDE, SIDE), cmyk.tobytes())
    ink, black = cmyk[:, :, :3] / 255.0, cmyk[:, :, 3:] / 255.0
    result = whole(raw_processor(opened(encoded(image, "TIFF")), return_tensors="pt"))
    np.testing.assert_allclose(result, 255 * (1 - ink) * (1 - black), atol=1.0)


def test_sixteen_bit_images_keep_their_depth(raw_processor):
    deep = np.random.default_rng(4).integers(0, 65536, (SIDE, SIDE), dtype=np.uint16)
    expected = np.repeat(deep[:, :, None] / 65535 * 255, 3, axis=2)
    for image in (
        Image.fromarray(deep),
        opened(encoded(Image.fromarray(deep), "PNG")),
        opened(encoded(Image.fromarray(deep), "TIFF")),
        Image.frombytes("I;16B", (SIDE, SIDE), deep.astype(">u2").tobytes()),
    ):
        assert image.mode.startswith("I;16")
        np.testing.assert_allclose(whole(raw_processor(image, return_tensors="pt")), expected, atol=1e-4)


def test_bilevel_images_are_black_and_white(raw_processor):
    white = random_rgb()[:, :, 0] > 127
    result = whole(raw_processor(Image.fromarray(white), return_tensors="pt"))
    np.testing.assert_allclose(result, np.repeat(white[:, :, None], 3, axis=2) * 255.0, atol=1e-4)


def test_an_exif_orientation_is_not_applied(raw_processor):
    rgb = random_rgb()
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees to view"
    file = opened(encoded(Image.fromarray(rgb), "PNG", exif=exif))
    assert not np.array_equal(np.asarray(ImageOps.exif_transpose(file)), rgb)
    np.testing.assert_allclose(whole(raw_processor(file, return_tensors="pt")), rgb, atol=1e-4)
