"""What a store's key depends on: whatever changes an embedding, and nothing else."""

import zlib
from pathlib import Path

import pytest
import torch
from patch_embedding import HIDDEN, LoggingSource

from spider_tools.embeddings.identity import backbone_fingerprint, store_content, store_key


def _key(model, image_processor, dtype="float32", fingerprint="made up"):
    source = LoggingSource(Path("unused"), fingerprint=fingerprint)
    return store_key(store_content(source, model, image_processor, dtype))


def _change_weight(model):
    with torch.no_grad():
        model.backbone.encoder.layer[1].norm2.bias[3] += 1e-6


def _change_epsilon(model):
    model.config.backbone_config.layer_norm_eps = 1e-3


def _change_head(model):
    with torch.no_grad():
        model.classifier.weight += 1


def _change_mask_token(model):
    with torch.no_grad():
        model.backbone.embeddings.mask_token += 1


@pytest.mark.parametrize(
    ("change", "same"),
    [(_change_weight, False), (_change_epsilon, False), (_change_head, True), (_change_mask_token, True)],
)
def test_the_key_follows_what_the_backbone_computes(model, processor, change, same):
    before = _key(model, processor.image_processor)
    change(model)
    assert (_key(model, processor.image_processor) == before) == same


@pytest.mark.parametrize(
    ("fields", "same"),
    [({"image_std": [0.2, 0.2, 0.3]}, False), ({"do_normalize": False}, False), ({"context_size": 3}, True)],
)
def test_the_key_follows_the_preprocessing_of_a_patch(model, make_processor, fields, same):
    keys = {_key(model, make_processor(**changes).image_processor) for changes in ({}, fields)}
    assert (len(keys) == 1) == same


def test_the_key_follows_dtype_and_source(model, processor):
    image_processor = processor.image_processor
    keys = [
        _key(model, image_processor),
        _key(model, image_processor, dtype="float16"),
        _key(model, image_processor, fingerprint="another"),
        _key(model, image_processor, fingerprint=None),
    ]
    assert len(set(keys)) == 4


def test_the_key_does_not_follow_the_dtype_that_weights_are_loaded_in(model, processor):
    model.half()
    before = _key(model, processor.image_processor)
    assert _key(model.float(), processor.image_processor) == before


def test_the_fingerprint_is_the_same_in_all_versions_of_transformers(model):
    """Weights with the names of Transformers 4, which the model takes in all versions, and a hash seen in both."""
    width, inner = HIDDEN, 48
    layer = {"attention.output.dense": (width, width), "mlp.weights_in": (2 * inner, width)}
    layer |= {f"attention.attention.{part}": (width, width) for part in ("query", "key", "value")}
    layer |= {"mlp.weights_out": (width, inner)}
    weights = model.backbone.state_dict()
    state = {name: tensor for name, tensor in weights.items() if ".attention." not in name and ".mlp." not in name}
    for i in range(2):
        for part, (rows, columns) in layer.items():
            state[f"encoder.layer.{i}.{part}.weight"] = torch.empty(rows, columns)
            state[f"encoder.layer.{i}.{part}.bias"] = torch.empty(rows)
    for name, tensor in state.items():
        seed = zlib.crc32(name.encode()) % 1000
        state[name] = ((torch.arange(tensor.numel()) * 7 + seed) % 512 / 256 - 1).view(tensor.shape)
    model.backbone.load_state_dict(dict(state))
    assert backbone_fingerprint(model.backbone) == "2717cf4aeebd01b8c9307c4b6a94bbf7a51657b559feb46f93d0aa41107041f4"
