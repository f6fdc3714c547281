"""Shards that are not full yet, saved every some seconds, so that a killed run loses no more than those.

They lie in a folder of their own in the store, each under the name of the shard that it will be, and hold its first
patches. They do not count: no index lists them, and nobody but who embeds reads them. Whoever claims the shard next
goes on from there, and what a killed run has left the next one puts into the store before it plans its own shards.
"""

import logging
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch

from .shards import encode_shard, read_names, read_tensors, recover_shard
from .store import EmbeddingStore
from .store_index import StoreIndex, add_shard, write_whole

logger = logging.getLogger(__name__)

UNFINISHED_FOLDER = "unfinished"


def save_unfinished(folder: Path, file: str, names: pa.Array, embeddings: torch.Tensor) -> None:
    """Save what there is of a shard, in the place of what was saved of it before.

    Args:
        folder: Of the store, prepared.
        file: Name of the shard, which this process has claimed.
        names: Of its first patches, large strings without nulls.
        embeddings: float16 `(len(names), hidden_size)` on the CPU, finite.

    Raises:
        OSError: It cannot be written; what was saved before stays.
    """
    payload = encode_shard(file, names, embeddings, StoreIndex.read(folder).content)[1]
    write_whole(folder / UNFINISHED_FOLDER / file, payload)


def read_unfinished(folder: Path, file: str, names: pa.Array) -> torch.Tensor | None:
    """What is saved of a shard.

    Args:
        folder: Of the store, prepared.
        file: Name of the shard, which this process has claimed.
        names: Of all its patches.

    Returns:
        float16 `(n, hidden_size)`, of the first n patches; None if nothing is saved, or it is damaged.
    """
    found = _read(folder / UNFINISHED_FOLDER / file, StoreIndex.read(folder))
    if found is None or not found[0].equals(names.slice(0, len(found[0]))):
        return None
    return found[1]


def remove_unfinished(folder: Path, file: str) -> None:
    """Forget what is saved of a shard: it is in the store now."""
    (folder / UNFINISHED_FOLDER / file).unlink(missing_ok=True)


def take_over_unfinished(folder: Path) -> None:
    """Put what killed runs have saved into the store, as shards that are smaller than others.

    Only one run may do this at a time, when the store is prepared and before any process adds shards.

    Raises:
        OSError: A shard cannot be written.
    """
    index = StoreIndex.read(folder)
    for path in sorted((folder / UNFINISHED_FOLDER).glob("shard-*.safetensors")):
        found = _read(path, index)
        if found is None:
            logger.warning("%s is damaged or of something else; its patches are embedded again", path)
            continue
        names, embeddings = found
        # A run may have been killed when it had finished the shard, and not yet removed this.
        absent = pc.is_in(names, value_set=EmbeddingStore.open(folder).missing(names))
        if pc.any(absent).as_py():
            add_shard(folder, names.filter(absent), embeddings[torch.from_numpy(absent.to_numpy(zero_copy_only=False))])
    shutil.rmtree(folder / UNFINISHED_FOLDER, ignore_errors=True)


def _read(path: Path, index: StoreIndex) -> tuple[pa.Array, torch.Tensor] | None:
    """Names and embeddings of a file; None if there is none, or it is damaged or holds something else."""
    try:
        shard = recover_shard(path, index.content, index.hidden_size)
        if shard is None:
            return None
        return read_names(path.parent, shard), read_tensors(path, "embeddings")[0]
    except ValueError:
        return None
