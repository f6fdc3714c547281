"""The embedding store on disk, against a plain dictionary of embeddings, and what damage, rivals and full disks do."""

import json
import multiprocessing
import pickle
import resource
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from store_contents import CONTENT, HIDDEN, SHARDS, add, embedding_of, file_of, fill, flip_a_byte, truncate

from spider_tools.embeddings.store import EmbeddingStore
from spider_tools.embeddings.store_index import add_shard, prepare_store


@pytest.fixture
def folder(tmp_path):
    return fill(tmp_path)


def test_rows_of_any_shape_hold_the_embeddings_of_their_names(folder):
    store = EmbeddingStore.open(folder)
    known = [name for names in SHARDS.values() for name in names]
    assert len(store) == len(known) == 9
    assert store.hidden_size == HIDDEN
    choice = np.random.default_rng(0).integers(-1, len(known), size=4 * 7)
    names = [None if i < 0 else known[i] for i in choice]
    assert None in names

    read = store[store.rows(names).reshape(4, 7)]

    assert read.dtype == torch.float16
    assert read.shape == (4, 7, HIDDEN)
    for name, embedding in zip(names, read.view(-1, HIDDEN)):
        expected = np.zeros(HIDDEN) if name is None else embedding_of(name)
        np.testing.assert_array_equal(embedding.numpy(), expected)


@pytest.mark.parametrize("as_type", [list, np.array, pa.array, lambda names: pa.chunked_array([names[:1], names[1:]])])
def test_names_may_come_as_lists_numpy_or_arrow(folder, as_type):
    rows = EmbeddingStore.open(folder).rows(as_type(["a.png", "m.png", "x.png"]))
    assert rows.dtype == np.int64
    assert rows.tolist() == [3, 0, 2]


def test_a_single_row_and_no_rows_keep_their_shape(folder):
    store = EmbeddingStore.open(folder)
    np.testing.assert_array_equal(store[3].numpy(), embedding_of("a.png"))
    assert store[[]].shape == (0, HIDDEN)
    assert store[np.zeros((2, 0, 3), int)].shape == (2, 0, 3, HIDDEN)
    assert store[torch.tensor([[-1]])].tolist() == [[[0.0] * HIDDEN]]


def test_what_is_read_is_a_copy(folder):
    store = EmbeddingStore.open(folder)
    store[[0, 1]].fill_(7)
    np.testing.assert_array_equal(store[0].numpy(), embedding_of("m.png"))


def test_names_that_are_not_stored_are_named(folder):
    store = EmbeddingStore.open(folder)
    with pytest.raises(ValueError, match=r"no embeddings of 2 of 4 patches, the first is 'other\.png'"):
        store.rows(["a.png", "other.png", None, "b.png"])
    assert store.missing(["other.png", "a.png", "b.png"]).to_pylist() == ["other.png", "b.png"]


@pytest.mark.parametrize(
    ("rows", "error", "match"),
    [
        ([0, 9], IndexError, "from -1 to 8, got 0 to 9"),
        ([-2], IndexError, "from -1 to 8, got -2"),
        ([0.0, 1.0], TypeError, "integer rows, got float64"),
        ([True], TypeError, "integer rows, got bool"),
    ],
)
def test_impossible_rows_are_refused(folder, rows, error, match):
    with pytest.raises(error, match=match):
        EmbeddingStore.open(folder)[rows]


@pytest.mark.parametrize("names", [[1, 2], [["a.png"]], np.array([["a.png"]]), pa.array([1]), [b"\xff"]])
def test_names_that_are_no_strings_are_refused(folder, names):
    with pytest.raises(ValueError, match="Expected the names of patches"):
        EmbeddingStore.open(folder).rows(names)


def test_an_empty_store_has_no_rows(tmp_path):
    prepare_store(tmp_path, CONTENT, HIDDEN)
    store = EmbeddingStore.open(tmp_path)
    assert len(store) == 0
    assert store.missing(["a.png"]).to_pylist() == ["a.png"]
    assert store[[-1]].tolist() == [[0.0] * HIDDEN]


def test_a_pickled_store_keeps_its_rows_while_the_store_grows_and_travels_light(folder):
    many = [f"{i:0200d}" for i in range(500)]
    add(folder, many)
    store = EmbeddingStore.open(folder)
    rows = store.rows(["d.png", many[77]])
    store[rows]
    sent = pickle.dumps(store)
    assert len(sent) < 5000  # neither names nor embeddings
    add(folder, ["later.png"])

    received = pickle.loads(sent)

    assert len(received) == 509
    np.testing.assert_array_equal(received[rows].numpy(), np.stack([embedding_of("d.png"), embedding_of(many[77])]))
    assert received.rows(["d.png", many[77]]).tolist() == rows.tolist()
    assert EmbeddingStore.open(folder).rows(["later.png"]).tolist() == [509]


@pytest.mark.parametrize("damage", [flip_a_byte, truncate, Path.unlink])
def test_damage_is_found_and_the_damaged_shard_alone_is_dropped(folder, damage):
    damage(file_of(folder, "second"))
    with pytest.raises(ValueError, match=r"1 of 3 shards .* damaged or missing, the first is shard-"):
        EmbeddingStore.open(folder, verify=True)

    prepare_store(folder, CONTENT, HIDDEN)

    store = EmbeddingStore.open(folder, verify=True)
    assert store.missing(["a.png", "c.png", "d.png"]).to_pylist() == ["a.png"]
    add(folder, SHARDS["second"])
    store = EmbeddingStore.open(folder, verify=True)
    np.testing.assert_array_equal(store[store.rows(["a.png"])][0].numpy(), embedding_of("a.png"))


@pytest.mark.parametrize("damage", [truncate, Path.unlink])
def test_a_shard_of_the_wrong_size_is_found_without_reading_it(folder, damage):
    damage(file_of(folder, "third"))
    with pytest.raises(ValueError, match="1 of 3 shards"):
        EmbeddingStore.open(folder)


def test_an_untouched_store_verifies(folder):
    assert len(EmbeddingStore.open(folder, verify=True)) == 9


def edited(**changes):
    def edit(path):
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


@pytest.mark.parametrize(
    ("damage", "error", "match"),
    [
        (Path.unlink, FileNotFoundError, "not an embedding store"),
        (lambda path: path.write_text('{"schema_version": 1, "cont'), ValueError, "Delete the folder"),
        (lambda path: path.write_text("[]"), ValueError, "Delete the folder"),
        (edited(schema_version=2), ValueError, "schema version 2, expected 1"),
        (edited(surprise=1), ValueError, "surprise"),
        (edited(shards=[{"file": "../x", "rows": 1, "size": 1, "sha256": ""}]), ValueError, r"'\.\./x' lies outside"),
    ],
)
def test_an_index_that_cannot_be_used_says_why(folder, damage, error, match):
    damage(folder / "index.json")
    with pytest.raises(error, match=match):
        EmbeddingStore.open(folder)


def test_a_store_of_something_else_is_not_written_to(folder):
    with pytest.raises(ValueError, match="'backbone': 'two'"):
        prepare_store(folder, {**CONTENT, "backbone": "two"}, HIDDEN)
    with pytest.raises(ValueError, match="holds embeddings of"):
        prepare_store(folder, CONTENT, HIDDEN + 1)


def test_leftovers_of_killed_runs_are_removed(folder):
    kept = {path.name for path in folder.iterdir()}
    for name in ("shard-0123.safetensors", ".shard-0123.safetensors.7.unfinished", ".index.json.7.unfinished"):
        (folder / name).write_bytes(b"half")
    prepare_store(folder, CONTENT, HIDDEN)
    assert {path.name for path in folder.iterdir()} == kept


def test_a_shard_that_two_processes_finish_counts_once_and_stays_intact(folder):
    names = pa.array(["n.png", "o.png"], pa.large_string())
    add_shard(folder, names, torch.full((2, HIDDEN), 1.0, dtype=torch.float16))
    index = add_shard(folder, names, torch.full((2, HIDDEN), 1.001, dtype=torch.float16))
    assert len(index.shards) == 4
    store = EmbeddingStore.open(folder, verify=True)
    assert store[store.rows(["o.png"])].tolist() == [[1.0] * HIDDEN]


def _add_twenty(folder, prefix):
    for i in range(20):
        add(folder, [f"{prefix}-{i}", f"{prefix}-{i}-too"])


def test_processes_that_add_shards_at_once_lose_none(folder):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_add_twenty, args=(folder, prefix)) for prefix in ("left", "right")]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    store = EmbeddingStore.open(folder, verify=True)
    assert len(store.index.shards) == 3 + 2 * 20
    names = [f"{prefix}-{i}-too" for prefix in ("right", "left") for i in range(20)]
    np.testing.assert_array_equal(store[store.rows(names)].numpy(), np.stack([embedding_of(name) for name in names]))


@pytest.fixture
def full_disk():
    """`full_disk(size)`: writing any file beyond `size` bytes fails, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_store_as_it_was(folder, full_disk):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    full_disk(3000)
    with pytest.raises(OSError, match="stays usable, so make room") as caught:
        add(folder, [f"{i:0100d}" for i in range(100)])
    assert Path(caught.value.filename).name.startswith("shard-")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_disk_that_is_full_after_the_shard_leaves_the_index_as_it_was(folder, full_disk):
    full_disk((folder / "index.json").stat().st_size + 20)  # room for a small shard, not for a longer index
    with pytest.raises(OSError, match="make room") as caught:
        add(folder, ["n.png"])
    assert Path(caught.value.filename).name == "index.json"
    assert len(EmbeddingStore.open(folder, verify=True)) == 9
    prepare_store(folder, CONTENT, HIDDEN)
    assert len(list(folder.glob("shard-*"))) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="reads memory use from /proc")
def test_reading_some_rows_does_not_load_the_store(tmp_path):
    rows, hidden = 60_000, 512  # 61 MB
    prepare_store(tmp_path, CONTENT, hidden)
    names = [f"{i}.png" for i in range(rows)]
    embeddings = (torch.arange(rows) // 1000).half()[:, None].expand(rows, hidden)
    add_shard(tmp_path, pa.array(names, pa.large_string()), embeddings)

    def private_megabytes():
        status = Path("/proc/self/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) / 1024

    before = private_megabytes()
    store = EmbeddingStore.open(tmp_path)
    read = store[np.arange(0, rows, 1000)]
    assert private_megabytes() - before < 20
    assert read[:, 0].tolist() == list(range(60))
