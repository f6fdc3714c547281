"""Lists of images, images larger than the region, and context that is missing from smaller ones."""

import re

import numpy as np
import pytest
import torch
from cropped_by_loop import N, P, SpiderImageProcessor, levels_of, normalised_patches, random_rgb, region_processor
from PIL import Image

SIZES = [8, 9, 15, 16, 17, 23, 24, 25, 31, 32, 38, 39, 40, 41, 55]


@pytest.fixture(scope="module")
def processor():
    return region_processor()


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
def test_the_centre_of_the_image_is_the_centre_of_patch_12(height, width):
    raw_processor = region_processor(do_normalize=False)
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


def test_the_remedy_for_tools_that_pass_no_arguments_is_the_line_of_the_file_that_the_message_says(tmp_path):
    """Such a tool hands over the central patch alone."""
    tile = random_rgb(P, P)
    SpiderImageProcessor(N, P).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"preprocessor_config\.json") as error:
        SpiderImageProcessor.from_pretrained(tmp_path)(tile)
    line = re.search('"allow_missing_context": true', str(error.value)).group()
    path = tmp_path / "preprocessor_config.json"
    path.write_text(path.read_text().replace('"allow_missing_context": false', line))
    result = SpiderImageProcessor.from_pretrained(tmp_path)(tile, return_tensors="pt")
    assert result["context_mask"].nonzero().tolist() == [[0, 12]]


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
