"""The image processor against a plain crop loop in float64: order, normalisation, what comes out, and its fields.

test_image_processor_pil.py, test_image_processor_arrays.py and test_image_processor_sizes.py have what it takes,
test_image_processor_refusals.py what it refuses.
"""

import copy

import numpy as np
import pytest
import torch
from cropped_by_loop import (
    MEAN,
    SIDE,
    STD,
    N,
    P,
    SpiderImageProcessor,
    normalised_patches,
    random_rgb,
    region_processor,
)
from PIL import Image
from transformers.utils import TensorType


@pytest.fixture(scope="module")
def processor():
    return region_processor()


# --- Order and normalisation


def test_numbered_patches_come_back_row_by_row():
    raw_processor = region_processor(do_normalize=False)
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
    fields = {"context_size": 3, "patch_size": 56, "do_normalize": False, "allow_missing_context": True}
    fields |= {"image_mean": [0.25, 0.5, 0.75], "image_std": [0.5, 1.0, 2.0]}
    SpiderImageProcessor(**fields).save_pretrained(tmp_path)
    loaded = SpiderImageProcessor.from_pretrained(tmp_path)
    assert {field: getattr(loaded, field) for field in fields} == fields
    changed = SpiderImageProcessor.from_pretrained(tmp_path, context_size=7, allow_missing_context=False)
    assert (changed.context_size, changed.allow_missing_context, changed.patch_size) == (7, False, 56)
