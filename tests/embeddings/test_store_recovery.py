"""An index that is damaged or gone is made again from shards that say what they hold, or nothing is touched."""

import hashlib
import json
import logging
import random

import numpy as np
import pytest
import torch
from patch_embedding import NAMES as PATCHES
from patch_embedding import TinyEmbedding, one_by_one
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from store_contents import CONTENT, HIDDEN, NAMES, SHARDS, embedding_of, file_of, fill, flip_a_byte, truncate

from spider_tools.embeddings.store import EmbeddingStore
from spider_tools.embeddings.store_index import INDEX_NAME, StoreIndex, prepare_store


@pytest.fixture
def folder(tmp_path):
    return fill(tmp_path)


def holds(folder, names):
    store = EmbeddingStore.open(folder, verify=True)
    assert len(store) == len(names)
    np.testing.assert_array_equal(store[store.rows(names)].numpy(), np.stack([embedding_of(name) for name in names]))


def with_field(**changes):
    return lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


DAMAGE = {
    "gone": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut": truncate,
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "no UTF-8": lambda path: path.write_bytes(b"\xff" + path.read_bytes()),
    "another list": lambda path: path.write_text("[]"),
    "no shards": with_field(shards=None),
    "other content": with_field(content={"backbone": "two"}),
    "other width": with_field(hidden_size=HIDDEN + 1),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_an_index_is_made_again_from_whole_shards(folder, caplog, kind):
    DAMAGE[kind](folder / INDEX_NAME)
    prepare_store(folder, CONTENT, HIDDEN)
    holds(folder, NAMES)
    assert "was made again from 3 whole shards of 3" in caplog.text


def test_whatever_byte_of_an_index_is_changed_the_store_is_right_or_refused(folder):
    """Where it is not made again, no more is lost than the shard that the byte tells of."""
    whole = (folder / INDEX_NAME).read_bytes()
    shards = {path: path.read_bytes() for path in folder.glob("shard-*")}
    for position in random.Random(0).sample(range(len(whole)), 150):
        (folder / INDEX_NAME).write_bytes(whole)
        for path, content in shards.items():
            path.write_bytes(content)
        flip_a_byte(folder / INDEX_NAME, position)
        if b'"schema_version": 1,' not in (folder / INDEX_NAME).read_bytes():
            continue  # refused, see below, or made again
        prepare_store(folder, CONTENT, HIDDEN)
        store = EmbeddingStore.open(folder, verify=True)
        kept = [name for name in NAMES if name not in store.missing(NAMES).to_pylist()]
        assert len(NAMES) - len(kept) in (0, 1, 3, 5), position
        holds(folder, kept)


@pytest.mark.parametrize("damage", [flip_a_byte, truncate, lambda path: flip_a_byte(path, 12)])
def test_damaged_shards_are_left_out_of_the_new_index(folder, caplog, damage):
    damage(file_of(folder, "third"))
    (folder / INDEX_NAME).unlink()
    prepare_store(folder, CONTENT, HIDDEN)
    holds(folder, SHARDS["first"] + SHARDS["second"])
    assert "from 2 whole shards of 3" in caplog.text


def without_facts(path):
    tensors = load_file(path)
    save_file(tensors, path)


@pytest.mark.parametrize("which", SHARDS)
def test_shards_of_an_earlier_version_do_not_say_what_they_hold_and_stay(folder, which):
    without_facts(file_of(folder, which))
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != INDEX_NAME}
    truncate(folder / INDEX_NAME)
    with pytest.raises(
        ValueError, match=r"Delete the folder .* was written by an earlier version, and does not say what"
    ):
        prepare_store(folder, CONTENT, HIDDEN)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != INDEX_NAME} == before


def test_a_store_of_an_earlier_version_is_gone_on_with(folder):
    for which in SHARDS:
        path = file_of(folder, which)
        without_facts(path)
    fields = json.loads((folder / INDEX_NAME).read_text())
    for shard in fields["shards"]:
        content = (folder / shard["file"]).read_bytes()
        shard |= {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / INDEX_NAME).write_text(json.dumps(fields))
    prepare_store(folder, CONTENT, HIDDEN)
    holds(folder, NAMES)


@pytest.mark.parametrize(("content", "width"), [({**CONTENT, "backbone": "two"}, HIDDEN), (CONTENT, HIDDEN + 1)])
def test_shards_of_something_else_are_not_taken_and_stay(folder, content, width):
    (folder / INDEX_NAME).unlink()
    before = sorted(folder.iterdir())
    with pytest.raises(ValueError, match="holds embeddings of something else"):
        prepare_store(folder, content, width)
    assert sorted(folder.iterdir()) == before


def test_an_index_of_a_later_version_is_not_taken_for_damaged(folder):
    with_field(schema_version=2)(folder / INDEX_NAME)
    before = (folder / INDEX_NAME).read_bytes()
    with pytest.raises(ValueError, match="schema version 2, expected 1"):
        prepare_store(folder, CONTENT, HIDDEN)
    assert (folder / INDEX_NAME).read_bytes() == before


def test_an_index_that_tells_of_other_rows_than_a_shard_has_is_not_believed(folder):
    fields = json.loads((folder / INDEX_NAME).read_text())
    fields["shards"][1]["rows"] = 4
    (folder / INDEX_NAME).write_text(json.dumps(fields))
    with pytest.raises(ValueError, match="has 1 names, expected 4"):
        EmbeddingStore.open(folder).missing(NAMES)
    prepare_store(folder, CONTENT, HIDDEN)
    holds(folder, SHARDS["first"] + SHARDS["third"])


def test_shards_are_the_same_bytes_each_time(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        fill(tmp_path / name)
    assert file_of(tmp_path / "one", "third").read_bytes() == file_of(tmp_path / "two", "third").read_bytes()
    with safe_open(file_of(tmp_path / "one", "third"), framework="pt") as file:
        assert set(json.loads(file.metadata()["spider"])) == {"content", "sha256"}


def test_embedding_goes_on_from_a_damaged_index_without_reading_a_patch(model, processor, tmp_path, caplog):
    embed = TinyEmbedding(model, processor, tmp_path)
    store = embed(PATCHES)
    embed.source.names_read()
    truncate(store.folder / INDEX_NAME)
    with pytest.raises(ValueError, match="cannot be used"):
        StoreIndex.read(store.folder)
    caplog.set_level(logging.WARNING)
    again = embed(PATCHES)
    assert embed.source.names_read() == []
    torch.testing.assert_close(again[again.rows(PATCHES)].float(), one_by_one(model, PATCHES), atol=2e-3, rtol=1e-3)
