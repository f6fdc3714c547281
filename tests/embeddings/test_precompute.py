"""Embedding each patch once, against a loop over single patches: what is stored, refused, and kept after an error."""

import copy
import random
import resource
import shutil
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from patch_embedding import NAMES, SIDE, TinyEmbedding, one_by_one

from spider_tools.embeddings.settings import EmbeddingSettings
from spider_tools.embeddings.store import EmbeddingStore


@pytest.fixture
def embed(model, processor, tmp_path):
    return TinyEmbedding(model, processor, tmp_path)


@pytest.fixture
def source(embed):
    return embed.source


@pytest.fixture
def settings(embed):
    return embed.settings


@pytest.mark.parametrize("num_workers", [0, 2])
def test_embeddings_equal_those_of_single_patches(embed, model, settings, num_workers):
    store = embed(NAMES, settings=replace(settings, num_workers=num_workers))
    assert [shard.rows for shard in store.index.shards] == [12, 12, 12, 12, 2]
    shuffled = random.Random(0).sample(NAMES, len(NAMES))
    read = store[store.rows(shuffled)]
    expected = one_by_one(model, shuffled)
    assert expected.std(dim=0).min() > 0.1  # patches differ
    torch.testing.assert_close(read.float(), expected, atol=2e-3, rtol=1e-3)


def test_each_unique_patch_is_read_once(embed, source):
    names = [*NAMES[10:30], *NAMES[:20]]
    store = embed(names)
    assert source.names_read() == sorted(NAMES[:30])
    assert len(store) == 30


def test_a_store_grows_by_what_is_missing(embed, source):
    first = embed(NAMES[5:15])
    source.names_read()
    embed(pa.array(NAMES[5:15]))
    assert source.names_read() == []

    grown = embed(NAMES[:20])

    assert source.names_read() == sorted(NAMES[:5] + NAMES[15:20])
    assert len(grown) == 20
    assert grown.folder == first.folder
    assert torch.equal(grown[grown.rows(NAMES[5:15])], first[first.rows(NAMES[5:15])])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_dtypes_come_close_and_have_their_own_store(embed, settings, dtype):
    exact, rounded = embed(NAMES), embed(NAMES, settings=replace(settings, dtype=dtype))
    assert exact.folder != rounded.folder
    left, right = exact[exact.rows(NAMES)].float(), rounded[rounded.rows(NAMES)].float()
    assert 0 < (left - right).norm() < 0.05 * left.norm()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler (g++) on this machine")
def test_a_compiled_backbone_goes_on_in_the_store_of_one_that_is_not(embed, model, settings, source):
    plain = embed(NAMES[:10])
    source.names_read()
    both = embed(NAMES, settings=replace(settings, compile=True))
    assert both.folder == plain.folder
    assert source.names_read() == sorted(NAMES[10:])
    torch.testing.assert_close(both[both.rows(NAMES)].float(), one_by_one(model, NAMES), atol=2e-3, rtol=1e-3)


def test_the_model_is_left_as_it_was(embed, settings, make_config, make_model):
    backbone = make_config().to_dict()["backbone_config"]
    model = make_model(freeze_backbone=False, backbone_config={**backbone, "hidden_dropout_prob": 0.5}).train()
    before = copy.deepcopy(model.state_dict())
    store = embed(NAMES, model=model)
    assert model.backbone.training
    assert all(parameter.grad is None for parameter in model.parameters())
    embed(NAMES, model=model, settings=replace(settings, dtype="bfloat16"))
    assert model.dtype == torch.float32
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    # Dropout of the training mode had no part in it.
    expected = one_by_one(model.eval(), NAMES)
    torch.testing.assert_close(store[store.rows(NAMES)].float(), expected, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_random_numbers_go_on_as_if_nothing_had_been_embedded(embed, settings, num_workers):
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    expected = torch.rand(2).tolist(), np.random.rand(), random.random()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    embed(NAMES[:9], settings=replace(settings, num_workers=num_workers))
    assert (torch.rand(2).tolist(), np.random.rand(), random.random()) == expected


# ---- what is refused


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"dtype": "float8"}, "`dtype` must be one of float32, .* got 'float8'"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"shard_size": -3}, "`shard_size` must be at least 1, got -3"),
        ({"num_workers": -1}, "`num_workers` must be at least 0, got -1"),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path, fields, match):
    with pytest.raises(ValueError, match=match):
        EmbeddingSettings(tmp_path, **fields)


@pytest.mark.parametrize(
    ("names", "match"), [([], "got 0"), (["a", None], "got 2, of which 1 are None"), ([3], "Expected the names")]
)
def test_names_that_cannot_be_embedded_are_refused(embed, settings, names, match):
    with pytest.raises(ValueError, match=match):
        embed(names)
    assert not settings.folder.exists()


def test_an_image_processor_of_another_patch_size_is_refused(embed, make_processor):
    with pytest.raises(ValueError, match="makes patches of 14 px, the model takes 28 px"):
        embed(NAMES, image_processor=make_processor(patch_size=14).image_processor)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_patch_is_named_and_what_was_finished_is_kept(embed, source, settings, num_workers):
    settings = replace(settings, num_workers=num_workers)
    names = sorted(NAMES)
    with pytest.raises(ValueError, match=f"The patch {names[29]} cannot be used: it is torn"):
        embed(names, source=replace(source, bad=names[29]), settings=settings)
    source.names_read()
    store = embed(names, settings=settings)
    # Two shards of 12 were finished. Workers of the first run may have read ahead in the others until they were gone.
    assert sorted(set(source.names_read())) == names[24:]
    assert len(store) == 50


@dataclass(frozen=True)
class _OddSource:
    patch: np.ndarray

    def read(self, name):
        return self.patch


@pytest.mark.parametrize(
    ("patch", "match"),
    [
        (np.zeros((28, 27, 3), np.uint8), r"a\.png is uint8 \(28, 27, 3\), expected uint8 \(28, 28, 3\)"),
        (np.zeros((28, 28, 3), np.float32), r"a\.png is float32"),
        (np.zeros((28, 28), np.uint8), r"a\.png is uint8 \(28, 28\)"),
    ],
)
def test_patches_of_another_shape_or_dtype_are_refused(embed, patch, match):
    with pytest.raises(ValueError, match=match):
        embed(["a.png"], source=_OddSource(patch))


@pytest.mark.parametrize("factor", [1e9, float("nan")])
def test_embeddings_that_float16_cannot_hold_are_not_stored(embed, model, settings, factor):
    with torch.no_grad():
        model.backbone.layernorm.weight[5] *= factor
    with pytest.raises(FloatingPointError, match=r"of 12 of 12 patches .* first is that of slide-0_0000\.png"):
        embed(NAMES)
    (folder,) = settings.folder.iterdir()
    assert len(EmbeddingStore.open(folder, verify=True)) == 0


# ---- damage and full disks


def test_a_damaged_shard_alone_is_embedded_again(embed, source):
    whole = embed(NAMES)
    expected = whole[whole.rows(NAMES)]
    shard = whole.folder / whole.index.shards[1].file
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    source.names_read()

    mended = embed(NAMES)

    assert source.names_read() == sorted(NAMES)[12:24]
    assert torch.equal(mended[mended.rows(NAMES)], expected)
    assert len(EmbeddingStore.open(mended.folder, verify=True)) == 50


def test_a_full_disk_keeps_what_was_finished(embed):
    source = _OddSource(np.zeros((SIDE, SIDE, 3), np.uint8))
    names = [*sorted(NAMES)[:24], *(f"z{i:3000d}" for i in range(6))]  # long names make the third shard too large
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, limits[1]))
    try:
        with pytest.raises(OSError, match="make room and start again"):
            embed(names, source=source)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    kept = embed(names[:24], source=_OddSource(np.zeros(0)))  # reads nothing
    assert [shard.rows for shard in kept.index.shards] == [12, 12]
    assert [shard.rows for shard in embed(names, source=source).index.shards] == [12, 12, 6]
