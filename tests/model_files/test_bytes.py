"""Regions as bytes: the processor leaves them as they are, the model normalises them, and logits stay the same."""

import json
import shutil

import numpy as np
import pytest
import torch
from cropped_by_loop import MEAN, SIDE, STD, N, P, SpiderImageProcessor, random_rgb, region_processor
from PIL import Image
from tiny_spider import PATCH_SIZE
from transformers import AutoConfig, AutoImageProcessor, AutoModel, pipeline

BYTES = {"do_rescale": False, "do_normalize": False}
REGION = 5 * PATCH_SIZE


def regions(count, side=REGION):
    return [Image.fromarray(random_rgb(side, side, seed)) for seed in range(count)]


# --- The processor


def as_image(levels, kind):
    """An image of a kind whose RGB values are these levels."""
    if kind == "PIL":
        return Image.fromarray(levels)
    if kind == "RGBA":
        return Image.fromarray(np.dstack([levels, np.full(levels.shape[:2], 255, np.uint8)]))
    if kind == "channels first":
        return torch.from_numpy(levels).permute(2, 0, 1).contiguous()
    if kind == "strided":
        return np.repeat(levels, 2, axis=1)[:, ::2]
    return levels


@pytest.mark.parametrize("kind", ["PIL", "RGBA", "array", "channels first", "strided"])
@pytest.mark.parametrize(("height", "width"), [(SIDE, SIDE), (SIDE + 7, SIDE + 12)])
def test_bytes_are_those_of_a_crop_loop(kind, height, width):
    levels = random_rgb(height, width)
    result = region_processor()(as_image(levels, kind), return_tensors="pt", **BYTES)
    assert result["pixel_values"].dtype == torch.uint8
    assert result["pixel_values"].shape == (1, N * N, 3, P, P)
    top, left = (height - SIDE) // 2, (width - SIDE) // 2
    for index in range(N * N):
        y, x = top + index // N * P, left + index % N * P
        expected = levels[y : y + P, x : x + P].transpose(2, 0, 1)
        np.testing.assert_array_equal(result["pixel_values"][0, index], expected)


def test_grey_and_missing_patches_are_bytes_too():
    grey = random_rgb(SIDE - P, SIDE)[..., 0]
    result = region_processor(allow_missing_context=True)(grey, return_tensors="np", **BYTES)
    assert result["pixel_values"].dtype == np.uint8
    mask = result["context_mask"].reshape(N, N)
    assert mask.tolist() == [[False] * N, *[[True] * N] * 3, [False] * N]
    patches = result["pixel_values"].reshape(N, N, 3, P, P)
    assert not patches[~mask].any()
    np.testing.assert_array_equal(patches[1, 0, 2], grey[P // 2 : P // 2 + P, :P])


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (random_rgb().astype(np.float32) / 255, "float32"),
        (torch.rand(3, SIDE, SIDE, dtype=torch.float16), "float16"),
        (Image.fromarray(random_rgb()[..., 0].astype(np.uint16) * 257), "I;16"),
    ],
)
def test_what_would_be_rounded_to_bytes_is_refused(image, kind):
    with pytest.raises(ValueError, match=rf"images\[1\] has pixels of the kind .*{kind}.* round to bytes"):
        region_processor()([random_rgb(), image], return_tensors="pt", **BYTES)


def test_normalising_without_rescaling_is_refused():
    with pytest.raises(ValueError, match="`do_normalize` needs `do_rescale`: pass do_rescale=False, do_normalize=F"):
        region_processor()(random_rgb(), do_rescale=False)
    with pytest.raises(ValueError, match="`do_rescale` must be True or False, got 'no'"):
        SpiderImageProcessor(do_rescale="no")


# --- The model


@pytest.mark.parametrize("masked", [False, True])
def test_logits_are_those_of_normalised_floats(model, processor, masked):
    images = regions(3)
    if masked:
        images[1] = images[1].crop((0, 0, REGION - 1, REGION - PATCH_SIZE))
    floats = processor(images, return_tensors="pt", allow_missing_context=True)
    bytes_ = processor(images, return_tensors="pt", allow_missing_context=True, **BYTES)
    assert bool(floats["context_mask"].all()) != masked
    with torch.no_grad():
        torch.testing.assert_close(model(**bytes_).logits, model(**floats).logits, atol=1e-5, rtol=0)


def test_patches_are_normalised_as_said_whatever_their_layout(make_model):
    model = make_model(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])
    levels = np.random.default_rng(0).integers(0, 256, (9, PATCH_SIZE, PATCH_SIZE, 3), dtype=np.uint8)
    by_hand = ((levels / 255 - [0.1, 0.2, 0.3]) / [0.4, 0.5, 0.6]).transpose(0, 3, 1, 2)
    with torch.no_grad():
        expected = model.backbone(torch.tensor(by_hand, dtype=torch.float32)).pooler_output
        found = model.embed_patches(torch.from_numpy(levels).permute(0, 3, 1, 2))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        assert torch.equal(found, model.embed_patches(torch.from_numpy(levels).permute(0, 3, 1, 2).contiguous()))


def test_whole_regions_and_trained_backbones_take_bytes(model, processor):
    images = regions(2)
    whole = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images])
    model.unfreeze_backbone()
    logits = model(pixel_values=whole).logits
    torch.testing.assert_close(logits, model(**processor(images, return_tensors="pt")).logits, atol=1e-5, rtol=0)
    logits.sum().backward()
    assert model.backbone.embeddings.patch_embeddings.projection.weight.grad.abs().sum() > 0


def test_a_model_in_bfloat16_takes_the_bytes_of_one_in_float32(model, processor):
    images, model = regions(2), model.to(torch.bfloat16)
    floats = processor(images, return_tensors="pt").to(torch.bfloat16)
    bytes_ = processor(images, return_tensors="pt", **BYTES).to(torch.bfloat16)
    assert bytes_["pixel_values"].dtype == torch.uint8
    with torch.no_grad():
        assert torch.equal(model(**bytes_).logits, model(**floats).logits)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool])
def test_other_integers_are_refused(model, dtype):
    pixels = torch.zeros(1, 25, 3, PATCH_SIZE, PATCH_SIZE, dtype=dtype)
    with pytest.raises(ValueError, match=rf"Expected float or uint8 `pixel_values` .* got {dtype}"):
        model(pixel_values=pixels)
    with pytest.raises(ValueError, match=rf"Expected float or uint8 patches .* got {dtype}"):
        model.embed_patches(pixels[0])


# --- Folders


def test_a_pipeline_with_such_a_processor_scores_as_the_usual_one(model_folder):
    image = regions(1)[0]
    usual = pipeline("image-classification", model=str(model_folder), trust_remote_code=True)
    processor = AutoImageProcessor.from_pretrained(model_folder, trust_remote_code=True, **BYTES)
    assert processor(image, return_tensors="pt")["pixel_values"].dtype == torch.uint8
    of_bytes = pipeline(
        "image-classification", model=str(model_folder), image_processor=processor, trust_remote_code=True
    )
    expected, found = usual(image), of_bytes(image)
    assert [answer["label"] for answer in found] == [answer["label"] for answer in expected]
    assert [answer["score"] for answer in found] == pytest.approx([answer["score"] for answer in expected], abs=1e-5)


def test_a_folder_that_says_no_colours_takes_no_bytes_and_stays_so(model_folder, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(model_folder, old)
    config = json.loads((old / "config.json").read_text())
    assert config.pop("image_mean")
    assert config.pop("image_std")
    (old / "config.json").write_text(json.dumps(config))
    model = AutoModel.from_pretrained(old, trust_remote_code=True)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"got torch\.uint8: the model's config\.json does not say how"):
            model.embed_patches(torch.zeros(1, 3, PATCH_SIZE, PATCH_SIZE, dtype=torch.uint8))
        model.save_pretrained(tmp_path / "again")
        model = AutoModel.from_pretrained(tmp_path / "again", trust_remote_code=True)
    config = AutoConfig.from_pretrained(old, trust_remote_code=True, image_mean=list(MEAN), image_std=list(STD))
    assert config.image_mean == list(MEAN)


def test_fields_that_say_half_are_refused(make_config):
    with pytest.raises(ValueError, match="`image_mean` and `image_std` go together"):
        make_config(image_mean=None)
