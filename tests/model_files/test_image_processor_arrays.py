"""Arrays and tensors of every layout, dtype and memory order, against a plain crop loop in float64."""

import numpy as np
import pytest
import torch
from cropped_by_loop import SIDE, SpiderImageProcessor, normalised_patches, random_rgb, region_processor
from transformers.image_utils import ChannelDimension

LAYOUTS = {
    "HWC": lambda rgb: rgb[0],
    "CHW": lambda rgb: rgb[0].transpose(2, 0, 1),
    "NHWC": lambda rgb: rgb,
    "NCHW": lambda rgb: rgb.transpose(0, 3, 1, 2),
}


@pytest.fixture(scope="module")
def processor():
    return region_processor()


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
