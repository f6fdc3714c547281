"""What is saved of a shard before it is full: how often, who goes on from it, and that a finished store is as ever."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from patch_embedding import NAMES as PATCHES
from patch_embedding import TinyEmbedding
from store_contents import CONTENT, HIDDEN, embedding_of, fill, flip_a_byte, truncate
from store_contents import NAMES as STORED

from spider_tools.embeddings import precompute, shared_work
from spider_tools.embeddings.shared_work import SharedWork
from spider_tools.embeddings.store import EmbeddingStore
from spider_tools.embeddings.store_index import StoreIndex, add_shard, prepare_store
from spider_tools.embeddings.unfinished import UNFINISHED_FOLDER, read_unfinished, save_unfinished, take_over_unfinished

FILE = "shard-0123456789abcdef.safetensors"
NAMES = [f"patch-{number:02}" for number in range(50)]
SORTED = sorted(PATCHES)


def as_arrow(names):
    return pa.array(names, pa.large_string())


def rows_of(names):
    return torch.from_numpy(np.stack([embedding_of(name) for name in names]))


def save(folder, names, file=FILE):
    save_unfinished(folder, file, as_arrow(names), rows_of(names))
    return folder / UNFINISHED_FOLDER / file


@pytest.fixture
def folder(tmp_path):
    return fill(tmp_path)


@pytest.fixture
def make_work(tmp_path):
    prepare_store(tmp_path, CONTENT, HIDDEN)
    return lambda: SharedWork(tmp_path, as_arrow(NAMES), batch_size=10, shard_size=20, processes=2)


# ---- within a run


def test_whoever_claims_a_shard_goes_on_from_what_is_saved_of_it(tmp_path, make_work):
    mine, other = make_work(), make_work()
    next(mine.batches())
    mine.save(rows_of(NAMES[:10]))
    assert mine.unfinished_patches() == 50  # it does not count
    mine.release()

    batches = list(other.batches())

    assert [batch[0] for batch in batches] == [NAMES[start] for start in (10, 20, 30, 40)]
    assert torch.equal(other.claimed[0].saved, rows_of(NAMES[:10]))
    assert [shard.saved for shard in list(other.claimed)[1:]] == [None, None]
    other.finish(rows_of(NAMES[:20]))
    assert other.unfinished_patches() == 30
    assert list((tmp_path / UNFINISHED_FOLDER).iterdir()) == []
    store = EmbeddingStore.open(tmp_path, verify=True)
    assert torch.equal(store[store.rows(NAMES[:20])], rows_of(NAMES[:20]))


def test_a_later_save_takes_the_place_of_an_earlier_one(tmp_path, make_work):
    work = make_work()
    list(work.batches())
    work.save(rows_of(NAMES[:3]))
    work.save(rows_of(NAMES[:10]))
    (path,) = (tmp_path / UNFINISHED_FOLDER).iterdir()
    assert torch.equal(read_unfinished(tmp_path, path.name, as_arrow(NAMES[:20])), rows_of(NAMES[:10]))


@pytest.mark.parametrize("count", [7, 20])
def test_what_is_no_part_of_a_shard_in_whole_batches_is_not_gone_on_from(make_work, count):
    work = make_work()
    list(work.batches())
    work.save(torch.zeros(count, HIDDEN, dtype=torch.float16))
    work.release()
    assert [batch[0] for batch in work.batches()] == NAMES[::10]
    assert work.claimed[0].saved is None


@pytest.mark.parametrize("damage", [flip_a_byte, truncate, lambda path: path.write_bytes(b"")])
def test_what_is_damaged_is_not_gone_on_from(folder, damage):
    damage(save(folder, NAMES[:10]))
    assert read_unfinished(folder, FILE, as_arrow(NAMES)) is None


def test_what_was_saved_of_other_patches_is_not_gone_on_from(folder):
    save(folder, NAMES[:10])
    assert read_unfinished(folder, FILE, as_arrow(NAMES)) is not None
    assert read_unfinished(folder, FILE, as_arrow(NAMES[1:])) is None
    assert read_unfinished(folder, FILE, as_arrow(NAMES[:9])) is None
    assert read_unfinished(folder, "shard-of-another-name.safetensors", as_arrow(NAMES)) is None


# ---- by the next run


def test_what_killed_runs_saved_becomes_shards_of_the_store(folder):
    save(folder, NAMES[:10])
    save(folder, NAMES[30:33], "shard-00.safetensors")
    take_over_unfinished(folder)
    store = EmbeddingStore.open(folder, verify=True)
    assert sorted(shard.rows for shard in store.index.shards) == [1, 3, 3, 5, 10]
    known = [*STORED, *NAMES[:10], *NAMES[30:33]]
    assert torch.equal(store[store.rows(known)], rows_of(known))
    assert not (folder / UNFINISHED_FOLDER).exists()
    before = {path: path.read_bytes() for path in folder.iterdir()}
    take_over_unfinished(folder)  # nothing is left
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_patches_that_the_store_has_already_are_not_taken_twice(folder):
    """A run was killed after it had finished a shard, and before it removed what it had saved of it."""
    save(folder, NAMES[:10])
    add_shard(folder, as_arrow(NAMES[:20]), rows_of(NAMES[:20]))
    save(folder, NAMES[18:23], "shard-00.safetensors")
    take_over_unfinished(folder)
    store = EmbeddingStore.open(folder, verify=True)
    assert len(store) == len(STORED) + 23
    assert torch.equal(store[store.rows(NAMES[:23])], rows_of(NAMES[:23]))


@pytest.mark.parametrize("damage", [flip_a_byte, truncate, lambda path: path.write_bytes(b"")])
def test_what_is_damaged_is_left_out_and_said(folder, damage, caplog):
    damage(save(folder, NAMES[:10]))
    save(folder, NAMES[10:20], "shard-00.safetensors")
    take_over_unfinished(folder)
    assert EmbeddingStore.open(folder, verify=True).missing(NAMES[:20]).to_pylist() == NAMES[:10]
    assert f"{FILE} is damaged or of something else; its patches are embedded again" in caplog.text


@pytest.mark.parametrize("fields", [{"content": {"backbone": "two"}}, {"hidden_size": HIDDEN + 1}])
def test_embeddings_of_another_backbone_are_not_taken_over(folder, fields):
    save(folder, NAMES[:10])
    replace(StoreIndex.read(folder), **fields).write(folder)
    take_over_unfinished(folder)
    assert {shard.rows for shard in StoreIndex.read(folder).shards} == {1, 3, 5}


def test_a_half_written_save_leaves_the_one_before(folder):
    path = save(folder, NAMES[:10])
    path.with_name(f".{FILE}.unfinished").write_bytes(b"half")
    take_over_unfinished(folder)
    assert EmbeddingStore.open(folder, verify=True).missing(NAMES).to_pylist() == NAMES[10:]


# ---- embedding


@pytest.fixture
def embed(model, processor, tmp_path):
    return TinyEmbedding(model, processor, tmp_path)


@pytest.fixture
def saves(monkeypatch):
    """How many patches were saved of a shard, save by save."""
    saved, real = [], shared_work.save_unfinished

    def note(folder, file, names, embeddings):
        saved.append(len(names))
        real(folder, file, names, embeddings)

    monkeypatch.setattr(shared_work, "save_unfinished", note)
    return saved


@pytest.mark.parametrize(
    ("seconds", "expected"), [(300.0, []), (7.9, [8, 8, 8, 8]), (3.0, [4, 8] * 4), (0.0, [4, 8] * 4), (4.0, [8] * 4)]
)
def test_a_shard_is_saved_after_so_many_seconds_and_written_when_it_is_full(
    embed, saves, monkeypatch, seconds, expected
):
    """A patch takes a second, a batch has four, a shard three batches."""
    clock = SimpleNamespace(monotonic=lambda: len(embed.source.log.read_text().splitlines()), sleep=lambda s: None)
    embed.source.log.touch()
    monkeypatch.setattr(precompute, "time", clock)
    store = embed(PATCHES, settings=replace(embed.settings, save_every=seconds))
    assert saves == expected
    assert [shard.rows for shard in store.index.shards] == [12, 12, 12, 12, 2]


def test_a_finished_store_is_the_same_bytes_however_often_it_was_saved(embed, tmp_path):
    folders = []
    for seconds in (0.0, 1e9):
        settings = replace(embed.settings, folder=tmp_path / str(seconds), save_every=seconds)
        folders.append(embed(PATCHES, settings=settings).folder)
    often, never = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders)
    assert folders[0].name == folders[1].name
    assert often == never


@pytest.mark.parametrize(("changes", "num_workers"), [({}, 0), ({"shard_size": 30}, 0), ({"shard_size": 6}, 2)])
def test_a_run_that_broke_off_loses_a_batch_and_gives_the_same_digits(embed, tmp_path, changes, num_workers):
    expected = embed(PATCHES, settings=replace(embed.settings, folder=tmp_path / "uninterrupted"))
    settings = replace(embed.settings, save_every=0.0, num_workers=num_workers)
    with pytest.raises(ValueError, match="it is torn"):
        embed(PATCHES, source=replace(embed.source, bad=SORTED[29]), settings=settings)
    embed.source.names_read()

    store = embed(PATCHES, settings=replace(settings, **changes))

    # Two shards of 12, and a batch of 4; workers of the first run may have read ahead until they were gone.
    assert sorted(set(embed.source.names_read())) == SORTED[28:]
    assert torch.equal(store[store.rows(SORTED)], expected[expected.rows(SORTED)])
    assert len(EmbeddingStore.open(store.folder, verify=True)) == 50
    assert not (store.folder / UNFINISHED_FOLDER).exists()


def test_what_was_saved_serves_a_run_that_wants_other_patches(embed):
    settings = replace(embed.settings, save_every=0.0)
    with pytest.raises(ValueError, match="it is torn"):
        embed(SORTED[:10], source=replace(embed.source, bad=SORTED[9]), settings=settings)
    embed.source.names_read()
    store = embed(SORTED[5:30], settings=settings)
    assert embed.source.names_read() == SORTED[8:30]
    assert len(store) == 30


def test_embeddings_that_float16_cannot_hold_are_not_saved(embed, model):
    with torch.no_grad():
        model.backbone.layernorm.weight[5] *= 1e9
    with pytest.raises(FloatingPointError, match=r"of 4 of 4 patches .* not stored"):
        embed(PATCHES, settings=replace(embed.settings, save_every=0.0))
    (folder,) = embed.settings.folder.iterdir()
    assert not (folder / UNFINISHED_FOLDER).exists()


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf"), "soon"])
def test_seconds_that_are_none_are_refused(embed, seconds):
    with pytest.raises(ValueError, match="`save_every` must be"):
        replace(embed.settings, save_every=seconds)
