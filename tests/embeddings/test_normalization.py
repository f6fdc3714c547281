"""Whatever says how patches are normalised, every way from pixels to embeddings does it so, and stores know."""

import numpy as np
import pytest
import torch
from tiny_spider import PATCH_SIZE

from spider_tools import remote_code
from spider_tools.embeddings.embedder import PatchEmbedder
from spider_tools.embeddings.identity import store_content
from spider_tools.model_folder import save_model_folder
from spider_tools.normalization import normalization_of

CPU = torch.device("cpu")
MEAN, STD = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
COLOURS = {"image_mean": MEAN, "image_std": STD}
BYTES = {"do_rescale": False, "do_normalize": False}
UNIT = [0.0] * 3, [1.0] * 3
# Of the image processor, of the configuration, and what counts.
WAYS = [
    (COLOURS, {}, (MEAN, STD)),
    (COLOURS, {"image_mean": None, "image_std": None}, (MEAN, STD)),
    ({"do_normalize": False, **COLOURS}, {}, UNIT),
    ({"do_normalize": False}, {"image_mean": None, "image_std": None}, UNIT),
    (BYTES, COLOURS, (MEAN, STD)),
]


@pytest.fixture(scope="module")
def patches():
    return np.random.default_rng(3).integers(0, 256, (5, PATCH_SIZE, PATCH_SIZE, 3), dtype=np.uint8)


def image_processor(**fields):
    return remote_code.image_processor_class()(patch_size=PATCH_SIZE, **fields)


@pytest.mark.parametrize(("of_processor", "of_config", "counts"), WAYS)
def test_patches_are_embedded_as_normalised_by_hand(make_model, patches, of_processor, of_config, counts):
    model = make_model(**of_config)
    before = model.config.image_mean
    by_hand = ((patches / 255 - counts[0]) / counts[1]).transpose(0, 3, 1, 2)
    with torch.no_grad():
        expected = model.backbone(torch.tensor(by_hand, dtype=torch.float32)).pooler_output
    processor = image_processor(**of_processor)
    assert normalization_of(processor, model.config) == (list(counts[0]), list(counts[1]))
    found = PatchEmbedder(model, processor, CPU)(torch.from_numpy(patches))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert model.config.image_mean == before  # it is the caller's


@pytest.mark.parametrize(("of_processor", "of_config", "counts"), WAYS)
def test_a_saved_folder_gives_the_same_logits_for_bytes_and_floats(
    make_model, load_model, tmp_path, of_processor, of_config, counts
):
    from transformers import AutoProcessor

    save_model_folder(make_model(**of_config), image_processor(**of_processor), tmp_path)
    model = load_model(tmp_path)
    assert (model.config.image_mean, model.config.image_std) == (list(counts[0]), list(counts[1]))
    processor = AutoProcessor.from_pretrained(tmp_path, trust_remote_code=True)
    region = np.random.default_rng(4).integers(0, 256, (5 * PATCH_SIZE, 5 * PATCH_SIZE, 3), dtype=np.uint8)
    with torch.no_grad():
        usual = model(**processor(region, return_tensors="pt")).logits
        of_bytes = model(**processor(region, return_tensors="pt", **BYTES)).logits
    torch.testing.assert_close(of_bytes, usual, atol=1e-5, rtol=0)


def test_stores_ask_what_is_done_to_pixels_and_not_who_does_it(make_model):
    model = make_model(**COLOURS)
    usual = store_content(None, model, image_processor(**COLOURS), "float32")
    assert store_content(None, model, image_processor(**BYTES), "float32") == usual
    assert store_content(None, make_model(), image_processor(**BYTES), "float32") != usual
    assert store_content(None, model, image_processor(do_normalize=False), "float32") != usual


def test_bytes_that_nobody_says_how_to_normalise_are_refused(make_model, tmp_path):
    model = make_model(image_mean=None, image_std=None)
    for use in (
        lambda: PatchEmbedder(model, image_processor(**BYTES), CPU),
        lambda: store_content(None, model, image_processor(**BYTES), "float32"),
        lambda: save_model_folder(model, image_processor(**BYTES), tmp_path / "model"),
    ):
        with pytest.raises(ValueError, match=r"leaves patches as bytes .* and config\.json has no `image_mean`"):
            use()
    assert not (tmp_path / "model" / "config.json").exists()
