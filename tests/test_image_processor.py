"""The image processor against a plain crop loop in float64; test_image_processor_refusals.py has what it refuses.

Most tests use regions of 5x5 patches of 8 px; images have rows that differ from columns, so that a swap shows.
"""

import copy
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from transformers.image_utils import ChannelDimension
from transformers.utils import TensorType

from spider_tools import remote_code

N, P = 5, 8
SIDE = N * P
MEAN = np.array([0.7068, 0.5755, 0.7220])
STD = np.array([0.1950, 0.2316, 0.1816])

SpiderImageProcessor = remote_code.image_processor_class()


@pytest.fixture(scope="module")
def processor():
    """A processor for regions of 5x5 patches of 8 px."""
    return SpiderImageProcessor(context_size=N, patch_size=P)


@pytest.fixture(scope="module")
def raw_processor():
    """The same without normalisation: values in [0, 1]."""
    return SpiderImageProcessor(context_size=N, patch_size=P, do_normalize=False)


def random_rgb(height=SIDE, width=SIDE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def normalised_patches(levels, n=N, p=P):
    """Patches `(n * n, 3, p, p)` of `(H, W, 3)` levels in 0..255, cropped one by one around the centre, in float64."""
    top, left = (levels.shape[0] - n * p) // 2, (levels.shape[1] - n * p) // 2
    patches = []
    for row in range(n):
        for column in range(n):
            y, x = top + row * p, left + column * p
            patches.append([(levels[y : y + p, x : x + p, c] / 255.0 - MEAN[c]) / STD[c] for c in range(3)])
    return np.array(patches, dtype=np.float64)


def grid_with_gaps(levels, n=N, p=P):
    """Patches `(n * n, 3, p, p)` and mask `(n * n,)` of an image pasted on an empty region, cropped where larger."""
    canvas = np.full((n * p, n * p, 3), np.nan)
    for axis in (0, 1):
        surplus = max(levels.shape[axis] - n * p, 0)
        levels = np.take(levels, range(surplus // 2, surplus // 2 + min(levels.shape[axis], n * p)), axis=axis)
    top, left = (n * p - levels.shape[0]) // 2, (n * p - levels.shape[1]) // 2
    canvas[top : top + levels.shape[0], left : left + levels.shape[1]] = levels
    patches = normalised_patches(canvas, n, p)
    mask = ~np.isnan(patches).any(axis=(1, 2, 3))
    return np.where(mask[:, None, None, None], patches, 0), mask


def encoded(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def opened(data):
    return Image.open(io.BytesIO(data))


def levels_of(result):
    """Levels 0..255 `(B, n, n, 3, p, p)` of a result without normalisation."""
    return result["pixel_values"].numpy().reshape(-1, N, N, 3, P, P) * 255.0


def whole(result):
    """The first region of a result without normalisation, put together again: levels `(H, W, 3)`."""
    return levels_of(result)[0].transpose(0, 3, 1, 4, 2).reshape(SIDE, SIDE, 3)


# --- Order and normalisation


def test_numbered_patches_come_back_row_by_row(raw_processor):
    region = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    for row in range(N):
        for column in range(N):
            patch = region[row * P : (row + 1) * P, column * P : (column + 1) * P]
            patch[:, :, 0] = 10 * row + column
            patch[:, :, 1] = np.arange(P)[:, None]  # the row inside the patch
            patch[:, :, 2] = 100 + np.arange(P)[None, :]  # the column inside the patch
    for image in (region, Image.fromarray(region), torch.from_numpy(region).permute(2, 0, 1)):
        result = raw_processor(image, return_tensors="pt")
        levels = (result["pixel_values"] * 255).round().int()
        assert levels.shape == (1, 25, 3, P, P)
        numbers = [10 * row + column for row in range(5) for column in range(5)]
        assert levels[0, :, 0, 3, 2].tolist() == numbers
        assert numbers[12] == 22
        for index in range(25):
            assert (levels[0, index, 0] == numbers[index]).all()
            assert levels[0, index, 1].tolist() == [[y] * P for y in range(P)]
            assert levels[0, index, 2].tolist() == [[100 + x for x in range(P)]] * P


def test_normalisation_equals_a_crop_loop_in_float64(processor):
    rgb = random_rgb()
    result = processor(rgb, return_tensors="pt")
    assert result["pixel_values"].dtype == torch.float32
    assert result["context_mask"].dtype == torch.bool
    assert result["context_mask"].shape == (1, 25)
    assert result["context_mask"].all()
    np.testing.assert_allclose(result["pixel_values"][0].numpy(), normalised_patches(rgb), rtol=0, atol=2e-6)


def test_a_region_of_the_published_size_equals_the_crop_loop_too():
    rgb = random_rgb(1120, 1120)
    result = SpiderImageProcessor()(Image.fromarray(rgb), return_tensors="np")
    assert result["pixel_values"].shape == (1, 25, 3, 224, 224)
    np.testing.assert_allclose(result["pixel_values"][0], normalised_patches(rgb, 5, 224), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("n", "p"), [(1, 8), (3, 8), (7, 4)])
def test_other_grids_equal_the_crop_loop(n, p):
    rgb = random_rgb(n * p, n * p)
    result = SpiderImageProcessor(context_size=n, patch_size=p)(rgb, return_tensors="pt")
    assert result["context_mask"].shape == (1, n * n)
    np.testing.assert_allclose(result["pixel_values"][0].numpy(), normalised_patches(rgb, n, p), rtol=0, atol=2e-6)


def test_mean_and_deviation_are_applied_channel_by_channel():
    processor = SpiderImageProcessor(N, P, image_mean=[0.1, 0.2, 0.3], image_std=[1.0, 2.0, 4.0])
    rgb = random_rgb()
    expected = (rgb[P : 2 * P, :P] / 255.0 - [0.1, 0.2, 0.3]) / [1.0, 2.0, 4.0]
    result = processor(rgb, return_tensors="pt")["pixel_values"][0, 5]
    np.testing.assert_allclose(result.permute(1, 2, 0).numpy(), expected, rtol=0, atol=1e-6)


def test_the_result_is_float32_whatever_the_default_dtype_of_torch(processor):
    torch.set_default_dtype(torch.float64)
    try:
        assert processor(random_rgb(), return_tensors="pt")["pixel_values"].dtype == torch.float32
        assert processor(random_rgb(), return_tensors="np")["pixel_values"].dtype == np.float32
    finally:
        torch.set_default_dtype(torch.float32)


# --- PIL images of every mode


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


# --- Arrays and tensors of every layout

LAYOUTS = {
    "HWC": lambda rgb: rgb[0],
    "CHW": lambda rgb: rgb[0].transpose(2, 0, 1),
    "NHWC": lambda rgb: rgb,
    "NCHW": lambda rgb: rgb.transpose(0, 3, 1, 2),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64"])
@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_every_layout_and_dtype_gives_the_same_patches(processor, layout, dtype, library, batch):
    rgb = np.stack([random_rgb(seed=seed) for seed in range(batch)])
    array = LAYOUTS[layout](rgb)
    if dtype != "uint8":
        array = (array / 255.0).astype(dtype)
    images = torch.from_numpy(np.ascontiguousarray(array)) if library == "torch" else array
    result = processor(images, return_tensors="pt")["pixel_values"].numpy()
    expected = np.stack([normalised_patches(region) for region in rgb[: 1 if array.ndim == 3 else batch]])
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=0, atol=3e-3 if dtype == "float16" else 2e-6)


def test_bfloat16_tensors_are_taken(processor):
    rgb = torch.from_numpy(random_rgb()).bfloat16() / 255
    result = processor(rgb, return_tensors="pt")["pixel_values"][0].numpy()
    np.testing.assert_allclose(result, normalised_patches(rgb.double().numpy() * 255), rtol=0, atol=2e-6)


@pytest.mark.parametrize("axes", [(), (0,), (2,), (0, 1), (0, 3)], ids=["HW", "1HW", "HW1", "11HW", "1HW1"])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_one_channel_fills_three(processor, axes, library):
    grey = random_rgb()[:, :, 0]
    image = np.expand_dims(grey, axes)
    images = torch.from_numpy(image) if library == "torch" else image
    result = processor(images, return_tensors="pt")["pixel_values"].numpy()
    expected = normalised_patches(np.repeat(grey[:, :, None], 3, axis=2))
    np.testing.assert_allclose(result, expected[None], rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "view",
    [
        lambda rgb: rgb[::-1],
        lambda rgb: rgb[:, ::-1],
        lambda rgb: rgb[..., ::-1],
        lambda rgb: rgb.transpose(1, 0, 2),
        lambda rgb: np.repeat(rgb, 2, axis=1)[:, ::2],
        lambda rgb: np.asfortranarray(rgb),
        lambda rgb: np.broadcast_to(rgb[:1], rgb.shape),
        lambda rgb: (rgb / 255).astype(">f4"),
        lambda rgb: (rgb / 255).astype(">f8")[::-1],
    ],
    ids=["rows", "columns", "channels", "transposed", "strided", "fortran", "broadcast", "big-endian", "both"],
)
def test_arrays_of_any_memory_order_are_taken(processor, view):
    image = view(random_rgb())
    levels = image if image.dtype == np.uint8 else image * 255.0
    result = processor(image, return_tensors="pt")["pixel_values"][0].numpy()
    np.testing.assert_allclose(result, normalised_patches(np.array(levels)), rtol=0, atol=2e-6)


def test_read_only_arrays_are_taken_without_a_warning(processor, recwarn):
    rgb = random_rgb()
    rgb.flags.writeable = False
    processor(rgb)
    processor([rgb, rgb.transpose(2, 0, 1)])
    assert not recwarn.list


def test_where_both_ends_could_be_channels_the_last_is_taken_unless_told():
    processor = SpiderImageProcessor(context_size=3, patch_size=1, do_normalize=False)
    image = np.random.default_rng(0).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    last = image.reshape(9, 3) / 255.0
    first = image.transpose(1, 2, 0).reshape(9, 3) / 255.0
    for given, data_format, expected in [
        (image, None, last),
        (image, "channels_last", last),
        (image, "channels_first", first),
        (image, ChannelDimension.FIRST, first),
        (image, ChannelDimension.LAST, last),
        (image[None], None, last),
        (image[None], "channels_first", first),
        (torch.from_numpy(image), "channels_first", first),
    ]:
        result = processor(given, return_tensors="np", input_data_format=data_format)["pixel_values"]
        np.testing.assert_allclose(result[0, :, :, 0, 0], expected, atol=1e-6)


def test_with_real_patches_an_ambiguous_shape_is_too_small_either_way(processor):
    with pytest.raises(ValueError, match="smaller than one patch"):
        processor(np.zeros((3, SIDE, 3), dtype=np.uint8))


def test_a_stated_layout_that_does_not_fit_is_refused(processor):
    with pytest.raises(ValueError, match=r"expected 1 or 3 channels .*channels_first"):
        processor(random_rgb(), input_data_format="channels_first")
    with pytest.raises(ValueError, match="`input_data_format` must be 'channels_first' or 'channels_last', got 'HWC'"):
        processor(random_rgb(), input_data_format="HWC")


# --- Lists, sizes and missing context


def test_lists_may_mix_kinds_and_sizes(processor):
    images = [random_rgb(40, 40, 1), random_rgb(57, 43, 2), random_rgb(41, 90, 3), random_rgb(40, 51, 4)]
    given = [
        Image.fromarray(images[0]),
        images[1].transpose(2, 0, 1),
        torch.from_numpy(images[2]).float() / 255,
        images[3],
    ]
    for container in (list, tuple):
        result = processor(container(given), return_tensors="pt")
        assert result["context_mask"].shape == (4, 25)
        for index, image in enumerate(images):
            patches = result["pixel_values"][index].numpy()
            np.testing.assert_allclose(patches, normalised_patches(image), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("height", "width"), [(40, 41), (41, 40), (40, 42), (43, 40), (57, 90), (91, 44)])
@pytest.mark.parametrize("as_image", [np.asarray, Image.fromarray], ids=["array", "pil"])
def test_a_larger_image_is_cropped_around_its_centre(processor, height, width, as_image):
    rgb = random_rgb(height, width)
    result = processor(as_image(rgb), return_tensors="pt")
    assert result["context_mask"].all()
    np.testing.assert_allclose(result["pixel_values"][0].numpy(), normalised_patches(rgb), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("height", "width"), [(40, 40), (48, 64), (70, 44)])
def test_the_centre_of_the_image_is_the_centre_of_patch_12(raw_processor, height, width):
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[height // 2, width // 2] = 255
    levels = levels_of(raw_processor(image, return_tensors="pt")).reshape(25, 3, P, P)
    assert np.argwhere(levels[:, 0] > 254).tolist() == [[12, P // 2, P // 2]]


def test_a_smaller_image_is_refused_with_the_expected_size_and_the_remedy(processor):
    message = (
        re.escape("The image is 39x44 px (height x width), expected at least 40x40 px") + ".*allow_missing_context=True"
    )
    with pytest.raises(ValueError, match=message):
        processor(random_rgb(39, 44))
    with pytest.raises(ValueError, match=re.escape("The image is 44x39 px (height x width)")):
        processor(Image.fromarray(random_rgb(44, 39)))


SIZES = [8, 9, 15, 16, 17, 23, 24, 25, 31, 32, 38, 39, 40, 41, 55]


@pytest.mark.parametrize("height", SIZES)
def test_missing_context_is_masked_and_a_partly_covered_patch_is_missing(processor, height):
    for width in SIZES:
        rgb = random_rgb(height, width, seed=width)
        patches, mask = grid_with_gaps(rgb)
        result = processor(rgb, return_tensors="np", allow_missing_context=True)
        assert result["context_mask"][0].tolist() == mask.tolist()
        assert mask[12]
        np.testing.assert_allclose(result["pixel_values"][0], patches, rtol=0, atol=2e-6)


def test_three_patches_by_one_fill_the_middle_of_the_grid(processor):
    result = processor(random_rgb(P, 3 * P), return_tensors="pt", allow_missing_context=True)
    assert result["context_mask"][0].nonzero().flatten().tolist() == [11, 12, 13]
    result = processor(random_rgb(3 * P, P), return_tensors="pt", allow_missing_context=True)
    assert result["context_mask"][0].nonzero().flatten().tolist() == [7, 12, 17]
    result = processor(random_rgb(3 * P - 1, P), return_tensors="pt", allow_missing_context=True)
    assert result["context_mask"][0].nonzero().flatten().tolist() == [7, 12]


def test_missing_context_may_be_allowed_for_good_or_for_one_call():
    image, strict = random_rgb(P, P), SpiderImageProcessor(N, P)
    lenient = SpiderImageProcessor(N, P, allow_missing_context=True)
    assert lenient(image, return_tensors="pt")["context_mask"].sum() == 1
    assert strict(image, return_tensors="pt", allow_missing_context=True)["context_mask"].sum() == 1
    for processor, options in [(strict, {}), (lenient, {"allow_missing_context": False})]:
        with pytest.raises(ValueError, match="expected at least 40x40 px"):
            processor(image, **options)


# --- What comes out


def test_return_tensors_decides_the_kind(processor):
    rgb = [random_rgb(seed=1), random_rgb(seed=2)]
    tensors = processor(rgb, return_tensors="pt")
    arrays = processor(rgb, return_tensors="np")
    lists = processor(rgb)
    assert (
        list(tensors) == list(arrays) == list(lists) == ["pixel_values", "context_mask"] == processor.model_input_names
    )
    for key in tensors:
        assert isinstance(tensors[key], torch.Tensor)
        assert isinstance(arrays[key], np.ndarray)
        assert isinstance(lists[key], list)
        assert len(lists[key]) == 2
        assert np.array_equal(tensors[key].numpy(), arrays[key])
        assert np.array_equal(np.stack(lists[key]), arrays[key])
        assert arrays[key].dtype == lists[key][0].dtype


def test_the_enumeration_of_transformers_is_taken_and_other_frameworks_are_refused(processor):
    assert isinstance(processor(random_rgb(), return_tensors=TensorType.PYTORCH)["pixel_values"], torch.Tensor)
    assert isinstance(processor(random_rgb(), return_tensors=TensorType.NUMPY)["pixel_values"], np.ndarray)
    for framework in ("tf", "jax", "torch", True):
        with pytest.raises(ValueError, match=f"`return_tensors` must be 'pt', 'np' or None, got {framework!r}"):
            processor(random_rgb(), return_tensors=framework)


def test_the_result_moves_with_to(processor):
    result = processor(random_rgb(), return_tensors="pt").to(torch.float16)
    assert result["pixel_values"].dtype == torch.float16
    assert result["context_mask"].dtype == torch.bool


def test_tensors_stay_on_their_device(processor):
    result = processor(torch.zeros(2, 50, 43, 3, dtype=torch.uint8, device="meta"), return_tensors="pt")
    assert {value.device.type for value in result.values()} == {"meta"}
    assert result["pixel_values"].shape == (2, 25, 3, P, P)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_tensors_on_a_gpu_give_the_same_there(processor):
    rgb = torch.from_numpy(np.stack([random_rgb(seed=1), random_rgb(seed=2)]))
    expected = processor(rgb, return_tensors="pt")["pixel_values"]
    result = processor(rgb.cuda(), return_tensors="pt")
    assert {value.device.type for value in result.values()} == {"cuda"}
    torch.testing.assert_close(result["pixel_values"].cpu(), expected, rtol=0, atol=1e-5)
    assert isinstance(processor(rgb.cuda(), return_tensors="np")["pixel_values"], np.ndarray)


def test_a_tensor_that_requires_gradients_gives_values_without(processor):
    leaf = torch.from_numpy(random_rgb()).float().div(255).requires_grad_()
    result = processor([leaf, leaf * 0.5], return_tensors="pt")["pixel_values"]
    assert not result.requires_grad
    assert leaf.requires_grad
    assert isinstance(processor(leaf, return_tensors="np")["pixel_values"], np.ndarray)
    np.testing.assert_allclose(result[0].numpy(), processor(leaf.detach(), return_tensors="np")["pixel_values"][0])


@pytest.mark.parametrize(("n", "p"), [(1, SIDE), (N, P)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("normalize", [True, False])
def test_what_goes_in_is_neither_changed_nor_shared(n, p, dtype, normalize):
    processor = SpiderImageProcessor(n, p, do_normalize=normalize)
    rgb = random_rgb() if dtype == np.uint8 else (random_rgb() / 255).astype(dtype)
    given = [
        rgb,
        np.ascontiguousarray(rgb.transpose(2, 0, 1)),
        torch.from_numpy(rgb.copy()),
        torch.from_numpy(rgb.copy()),
    ]
    given[3] = given[3].permute(2, 0, 1).contiguous()
    before = copy.deepcopy(given)
    for result in [processor(given, return_tensors="pt"), processor(given[0][None], return_tensors="pt")]:
        result["pixel_values"].fill_(7)
    for array in (*processor(given, return_tensors="np").values(), *processor(given)["pixel_values"]):
        array.fill(1)
    for now, then in zip(given, before):
        assert np.array_equal(np.asarray(now), np.asarray(then))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "L", "P", "CMYK", "1", "I;16"])
def test_pil_images_are_not_changed(processor, mode):
    image = Image.fromarray(random_rgb()).convert("L" if mode == "I;16" else mode).convert(mode)
    before = image.copy()
    processor([image, image])
    assert (image.mode, image.size, image.info) == (before.mode, before.size, before.info)
    assert image.tobytes() == before.tobytes()


# --- Fields


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"context_size": 4}, "`context_size` must be an odd, positive integer, got 4"),
        ({"context_size": -1}, "`context_size` must be an odd, positive integer, got -1"),
        ({"context_size": 5.0}, "`context_size` must be an odd, positive integer, got 5.0"),
        ({"context_size": True}, "`context_size` must be an odd, positive integer, got True"),
        ({"patch_size": 0}, "`patch_size` must be a positive integer, got 0"),
        ({"patch_size": "224"}, "`patch_size` must be a positive integer, got '224'"),
        ({"image_mean": [0.5, 0.5]}, "`image_mean` and `image_std` must have three finite values"),
        ({"image_mean": [0.5, 0.5, float("nan")]}, "must have three finite values"),
        ({"image_std": [0.5, 0.5, 0.0]}, "must have three finite values, the latter above 0"),
        ({"image_std": [0.5, 0.5, float("inf")]}, "must have three finite values"),
        ({"do_resize": True}, "`do_resize` must be False, got True. SpiderImageProcessor never resizes"),
    ],
)
def test_fields_out_of_range_are_refused(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        SpiderImageProcessor(**fields)
    SpiderImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        SpiderImageProcessor.from_pretrained(tmp_path, **fields)


def test_the_defaults_are_hibous_and_the_papers():
    processor = SpiderImageProcessor()
    assert (processor.context_size, processor.patch_size, processor.region_size) == (5, 224, 1120)
    assert (processor.image_mean, processor.image_std) == (MEAN.tolist(), STD.tolist())
    assert (processor.do_normalize, processor.allow_missing_context) == (True, False)


def test_fields_survive_saving_and_loading(tmp_path):
    fields = {
        "context_size": 3,
        "patch_size": 56,
        "do_normalize": False,
        "image_mean": [0.25, 0.5, 0.75],
        "image_std": [0.5, 1.0, 2.0],
        "allow_missing_context": True,
    }
    SpiderImageProcessor(**fields).save_pretrained(tmp_path)
    loaded = SpiderImageProcessor.from_pretrained(tmp_path)
    assert {field: getattr(loaded, field) for field in fields} == fields
    changed = SpiderImageProcessor.from_pretrained(tmp_path, context_size=7, allow_missing_context=False)
    assert (changed.context_size, changed.allow_missing_context, changed.patch_size) == (7, False, 56)
