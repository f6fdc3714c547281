"""A small store of nine patches in three shards, and the embeddings that it holds."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from spider_tools.embeddings.store_index import StoreIndex, add_shard, prepare_store

HIDDEN = 6
CONTENT = {"backbone": "one", "preprocessing": [0.5, 0.25]}
SHARDS = {  # uneven, and not in the order of the names
    "first": ["m.png", "c.png", "x.png"],
    "second": ["a.png"],
    "third": ["z é 日本.png", "", "b\n.png", "q" * 300, "d.png"],
}
NAMES = [name for names in SHARDS.values() for name in names]


def embedding_of(name):
    """Any six numbers that differ between names, float16."""
    return np.random.default_rng(list(name.encode())).normal(size=HIDDEN).astype(np.float16)


def add(folder, names):
    """Add a shard of these patches."""
    rows = np.stack([embedding_of(name) for name in names])
    return add_shard(folder, pa.array(names, pa.large_string()), torch.from_numpy(rows))


def fill(folder: Path) -> Path:
    """Make the store."""
    prepare_store(folder, CONTENT, HIDDEN)
    for names in SHARDS.values():
        add(folder, names)
    return folder


def file_of(folder, which):
    """The file of a shard."""
    return folder / StoreIndex.read(folder).shards[list(SHARDS).index(which)].file


def flip_a_byte(path, position=-3):
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)


def truncate(path):
    """Cut the end of a file off."""
    path.write_bytes(path.read_bytes()[:-5])
