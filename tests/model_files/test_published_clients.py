"""Clients of the published models run on ours: one test for each form that public code has."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_spider import CLASS_NAMES, PATCH_SIZE
from transformers import AutoModel, AutoProcessor

REGION = 5 * PATCH_SIZE


@pytest.fixture(scope="module")
def images():
    """Two regions, uint8 `(2, H, W, 3)`, with no symmetry."""
    return np.random.default_rng(5).integers(0, 256, (2, REGION, REGION, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def expected(images, make_model, processor):
    """Logits `(2, 4)`, from patches that a loop has cut."""
    mean, std = (np.array(values, np.float32) for values in ((0.7068, 0.5755, 0.7220), (0.1950, 0.2316, 0.1816)))
    regions = []
    for image in images:
        cells = [(row, column) for row in range(5) for column in range(5)]
        tiles = [image[r * PATCH_SIZE : (r + 1) * PATCH_SIZE, c * PATCH_SIZE : (c + 1) * PATCH_SIZE] for r, c in cells]
        regions.append(np.stack([((tile / np.float32(255) - mean) / std).transpose(2, 0, 1) for tile in tiles]))
    with torch.no_grad():
        return make_model()(torch.from_numpy(np.stack(regions)).float()).logits


@pytest.fixture
def client(model_folder):
    model = AutoModel.from_pretrained(str(model_folder), trust_remote_code=True, local_files_only=True)
    model.eval()
    return model, AutoProcessor.from_pretrained(str(model_folder), trust_remote_code=True, local_files_only=True)


def normalised(images):
    """Float32 `(N, 3, H, W)`, as clients with transforms of their own make it."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.7068, 0.5755, 0.7220), (0.1950, 0.2316, 0.1816)))
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - mean) / std


def same(logits, expected):
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    assert expected.argmax(dim=1).tolist() == logits.argmax(dim=1).tolist()


def test_whole_normalised_regions_without_the_processor(client, images, expected):
    model, _ = client
    with torch.inference_mode():
        outputs = model(pixel_values=normalised(images))
    same(outputs.logits, expected)
    assert outputs.label.tolist() == expected.argmax(dim=1).tolist()


def test_whole_regions_in_any_layout_of_memory_equal_their_patches_exactly(client, images, processor):
    model, _ = client
    regions = normalised(images)
    patches = processor(images=list(images), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        tiled = model(pixel_values=regions)
        strided = model(pixel_values=regions.to(memory_format=torch.channels_last))
        by_patches = model(pixel_values=patches)
    assert torch.equal(tiled.logits, strided.logits)
    torch.testing.assert_close(tiled.logits, by_patches.logits, atol=1e-5, rtol=0)
    cut = torch.stack(
        [
            regions[:, :, r : r + PATCH_SIZE, c : c + PATCH_SIZE]
            for r in range(0, REGION, PATCH_SIZE)
            for c in range(0, REGION, PATCH_SIZE)
        ],
        dim=1,
    )
    assert torch.equal(model(pixel_values=cut).logits, model(pixel_values=regions).logits)


def test_whole_regions_take_masks_labels_and_gradients(model, images):
    regions, mask = normalised(images), torch.ones(2, 25, dtype=torch.bool)
    mask[1, [0, 7]] = False
    spoilt = regions.clone()
    spoilt[1, :, :PATCH_SIZE, :PATCH_SIZE] = float("nan")  # patch 0
    spoilt[1, :, PATCH_SIZE : 2 * PATCH_SIZE, 2 * PATCH_SIZE : 3 * PATCH_SIZE] = float("nan")  # patch 7
    with torch.no_grad():
        whole = model(pixel_values=regions, context_mask=mask).logits
        torch.testing.assert_close(model(pixel_values=spoilt, context_mask=mask).logits, whole)
    regions.requires_grad_(True)
    model.unfreeze_backbone()
    model(pixel_values=regions, context_mask=mask, labels=[0, 1]).loss.backward()
    assert not regions.grad[1, :, :PATCH_SIZE, :PATCH_SIZE].any()
    assert regions.grad[0].any()


@pytest.mark.parametrize(
    "shape",
    [(2, 3, REGION, REGION - 1), (2, 3, PATCH_SIZE, PATCH_SIZE), (2, 1, REGION, REGION), (2, REGION, REGION, 3),
     (0, 3, REGION, REGION), (3, REGION, REGION)],
)  # fmt: skip
def test_what_is_no_region_is_refused_in_words(model, shape):
    with pytest.raises(ValueError, match=rf"whole regions, \(B, 3, {REGION}, {REGION}\)") as refusal:
        model(pixel_values=torch.zeros(shape))
    assert str(shape) in str(refusal.value)


def test_whole_regions_of_other_integers_are_refused(model, images):
    with pytest.raises(ValueError, match=r"Expected float or uint8 `pixel_values`.*torch\.int32"):
        model(pixel_values=torch.from_numpy(images).permute(0, 3, 1, 2).int())


@pytest.mark.parametrize("layout", ["channels last", "channels first"])
def test_a_batch_tensor_through_the_processor(client, images, expected, layout):
    model, processor = client
    batch = torch.from_numpy(images)
    inputs = processor(images=batch if layout == "channels last" else batch.permute(0, 3, 1, 2), return_tensors="pt")
    with torch.inference_mode():
        outputs = model(**inputs)
    same(outputs.logits, expected)
    assert outputs.predicted_class_names == [CLASS_NAMES[i] for i in expected.argmax(dim=1)]
    assert outputs.logits.softmax(-1).detach().cpu().numpy().shape == (2, 4)


def test_one_image_in_a_list_with_tensors_moved_into_a_dict(client, images, expected):
    model, processor = client
    inputs = processor(images=[Image.fromarray(images[1])], return_tensors="pt")
    inputs = {key: value.to("cpu") for key, value in inputs.items()}
    with torch.no_grad():
        outputs = model(**inputs)
    best, _ = torch.max(torch.softmax(outputs.logits, dim=-1), dim=-1)
    same(outputs.logits, expected[1:])
    assert (outputs.predicted_class_names[0], best.shape) == (CLASS_NAMES[int(expected[1].argmax())], (1,))


def test_one_image_with_tensors_moved_in_place_and_names_from_the_file(client, images, expected, model_folder):
    model, processor = client
    inputs = processor(images=Image.fromarray(images[0]), return_tensors="pt")
    for key, value in inputs.items():
        if isinstance(value, torch.Tensor):
            inputs[key] = value.to("cpu")
    with torch.no_grad():
        probabilities = torch.softmax(model(**inputs).logits[0], dim=0).numpy()
    names = json.loads((model_folder / "config.json").read_text()).get("class_names", [])
    assert names[probabilities.argmax().item()] == CLASS_NAMES[int(expected[0].argmax())]


def test_only_pixel_values_are_handed_on(client, images, expected):
    model, processor = client
    with torch.no_grad():
        outputs = model(processor(images=list(images), return_tensors="pt")["pixel_values"])
    same(outputs["logits"], expected)


def test_names_from_the_configuration_by_label(client, images, expected):
    model, _ = client
    with torch.no_grad():
        outputs = model(pixel_values=normalised(images))
    assert [model.config.class_names[i] for i in outputs.label] == [CLASS_NAMES[i] for i in expected.argmax(dim=1)]
    assert [model.config.id2label[int(i)] for i in outputs.label] == outputs.predicted_class_names


def test_a_tool_that_cuts_single_patches_works_by_one_word_in_the_repository(model_folder, images, tmp_path):
    import shutil

    folder = shutil.copytree(model_folder, tmp_path / "patches-alone")
    fields = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(fields | {"allow_missing_context": True}))
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    middle = slice(2 * PATCH_SIZE, 3 * PATCH_SIZE)
    patches = np.ascontiguousarray(images[:, middle, middle])
    inputs = processor(images=torch.from_numpy(patches), return_tensors="pt")
    center = torch.zeros(2, 25, dtype=torch.bool)
    center[:, 12] = True
    with torch.no_grad():
        alone = model(**inputs)
        masked = model(pixel_values=normalised(images), context_mask=center)
    torch.testing.assert_close(alone.logits, masked.logits, atol=1e-5, rtol=0)
    assert len(alone.predicted_class_names) == 2
