"""A whole store is read by whoever may read it; one that lacks something, and may not be written, is named."""

import os

import pytest
import torch
from accelerate import Accelerator
from other_user import as_another_user, listing, readable_folder
from patch_embedding import NAMES, TinyEmbedding
from store_contents import flip_a_byte, truncate

from spider_tools.embeddings.store_index import INDEX_NAME


@pytest.fixture
def home():
    with readable_folder() as folder:
        yield folder


@pytest.fixture
def embed(model, processor, home):
    Accelerator(cpu=True)  # before any other user needs it
    return TinyEmbedding(model, processor, home)


def test_a_whole_store_of_another_user_is_read_without_a_lock(embed, home):
    mine = embed(NAMES)
    expected = mine[mine.rows(NAMES[:20])]
    before = listing(home)

    def read():
        torch.set_num_threads(1)
        store = embed(NAMES[:20])
        return torch.equal(store[store.rows(NAMES[:20])], expected), os.access(store.folder, os.W_OK)

    assert as_another_user(home, read) == (True, False)
    assert listing(home) == before


def damage_nothing(folder):
    pass


def damage_a_shard(folder):
    flip_a_byte(sorted(folder.glob("shard-*"))[0])


def damage_the_index(folder):
    truncate(folder / INDEX_NAME)


@pytest.mark.parametrize(
    ("damage", "first"), [(damage_nothing, 20), (damage_a_shard, 50), (damage_the_index, 50), (None, 50)]
)
def test_a_store_that_lacks_something_and_may_not_be_written_is_named(embed, home, damage, first):
    if damage is None:
        (home / "stores").mkdir()
    else:
        damage(embed(NAMES[:first]).folder)
    before = listing(home)

    def go_on():
        torch.set_num_threads(1)
        embed(NAMES)

    kind, message = as_another_user(home, go_on)
    assert kind == "PermissionError"
    assert message.startswith(str(home / "stores"))
    assert message.endswith(
        "may not be written (Permission denied): it is read-only or belongs to another user. "
        "Choose a store of your own with --embedding_store."
    )
    assert listing(home) == before
