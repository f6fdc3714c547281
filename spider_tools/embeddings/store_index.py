"""What a store holds and how it is written: shards, and the index that lists them."""

import hashlib
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from filelock import FileLock

from ..files import file_sha256, replacing
from .shards import Shard, encode_shard, recover_shard, rows_of

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
INDEX_NAME = "index.json"
_ANEW = "Delete the folder to embed its patches anew."


class OtherVersionError(ValueError):
    """An index was written by another version of this package, so it is not damaged."""


@dataclass(frozen=True)
class StoreIndex:
    """What `index.json` says.

    Attributes:
        content: What the rows were made from and how; two stores with the same content can share their rows.
        hidden_size: Values of one row.
        shards: In the order of the rows.
    """

    content: dict[str, Any]
    hidden_size: int
    shards: tuple[Shard, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> "StoreIndex":
        """Read the index of a store.

        Raises:
            FileNotFoundError: The folder holds no index.
            ValueError: The index is damaged.
            OtherVersionError: It has another schema version.
        """
        path = folder / INDEX_NAME
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            version = fields.pop("schema_version")
            if version != SCHEMA_VERSION:
                raise OtherVersionError(f"{path} has schema version {version}, expected {SCHEMA_VERSION}. {_ANEW}")
            index = cls(**{**fields, "shards": tuple(Shard(**shard) for shard in fields["shards"])})
            for shard in index.shards:
                if Path(shard.file).name != shard.file:
                    raise ValueError(f"the shard {shard.file!r} lies outside of the folder")
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{folder} is not an embedding store: it has no {INDEX_NAME}. {_ANEW}") from error
        except OtherVersionError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} cannot be used: {error!r}. {_ANEW}") from error
        return index

    def write(self, folder: Path) -> None:
        """Write the index, whole or not at all."""
        fields = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        write_whole(folder / INDEX_NAME, json.dumps(fields, indent=1).encode())

    def wrong_size(self, folder: Path) -> list[Shard]:
        """The shards whose file is missing or has another size than when it was written."""
        return [shard for shard in self.shards if _size(folder / shard.file) != shard.size]

    def damaged(self, folder: Path) -> list[Shard]:
        """The shards whose file is missing or has other bytes than when it was written; reads all of them."""

        def is_whole(shard: Shard) -> bool:
            path = folder / shard.file
            return path.is_file() and file_sha256(path) == shard.sha256 and rows_of(path) == shard.rows

        with ThreadPoolExecutor(max_workers=4) as pool:
            return [shard for shard, whole in zip(self.shards, pool.map(is_whole, self.shards)) if not whole]


def prepare_store(folder: Path, content: dict[str, Any], hidden_size: int) -> None:
    """Make a folder ready for writing: start its index, or drop damaged shards and what killed runs left behind.

    Every shard is compared with its checksum. Only one run may do this at a time, before any process adds shards. An
    index that is missing or damaged is made again from the shards, which say what they hold.

    Args:
        folder: Of the store; it exists.
        content: See `StoreIndex`.
        hidden_size: Values of one embedding.

    Raises:
        ValueError: The store holds something else, or its index is damaged and the shards cannot tell what they hold.
    """
    index = _index_of(folder, content, hidden_size)
    damaged = index.damaged(folder)
    for shard in damaged:
        logger.warning("%s is damaged or missing; its %d patches are embedded again", folder / shard.file, shard.rows)
    index = replace(index, shards=tuple(shard for shard in index.shards if shard not in damaged))
    index.write(folder)
    kept = {shard.file for shard in index.shards}
    for path in {*folder.glob("shard-*"), *folder.glob(".*.unfinished")}:
        if path.name not in kept:
            path.unlink()


def _index_of(folder: Path, content: dict[str, Any], hidden_size: int) -> StoreIndex:
    """What the folder's index says if it is of this content, else what its shards say."""
    files = sorted(folder.glob("shard-*.safetensors"))
    if not files and not (folder / INDEX_NAME).exists():
        return StoreIndex(content, hidden_size)
    try:
        index = StoreIndex.read(folder)
        if (index.content, index.hidden_size) == (content, hidden_size):
            return index
        problem: Exception = ValueError(f"{folder} holds embeddings of {index.content}, expected {content}.")
    except OtherVersionError:
        raise
    except (FileNotFoundError, ValueError) as error:
        problem = error
    if not files:
        raise problem
    return _recovered(folder, files, StoreIndex(content, hidden_size), problem)


def _recovered(folder: Path, files: list[Path], empty: StoreIndex, problem: Exception) -> StoreIndex:
    """An index of the shards that are whole.

    Raises:
        ValueError: One of them is of something else, or does not say of what it is.
    """
    try:
        found = [recover_shard(path, empty.content, empty.hidden_size) for path in files]
    except ValueError as error:
        raise ValueError(f"{problem} Its shards do not help: {error}.") from error
    whole = tuple(shard for shard in found if shard is not None)
    logger.warning(
        "The index of %s could not be used and was made again from %d whole shards of %d.",
        *(folder, len(whole), len(files)),
    )
    return replace(empty, shards=whole)


def shard_file(names: pa.Array) -> str:
    """Name of the file for a shard of these patches, so that processes that plan the same shard agree."""
    digest = hashlib.sha256(json.dumps(names.to_pylist()).encode()).hexdigest()
    return f"shard-{digest[:24]}.safetensors"


def add_shard(folder: Path, names: pa.Array, embeddings: torch.Tensor) -> StoreIndex:
    """Write one shard and list it in the index. Any number of processes may do this at once.

    Args:
        folder: Of the store, prepared.
        names: Of the patches, large strings without nulls.
        embeddings: float16 `(len(names), hidden_size)` on the CPU, finite.

    Returns:
        The index with the shard, and with those that other processes have added meanwhile.

    Raises:
        OSError: It cannot be written; the store stays as it was.
    """
    shard, payload = encode_shard(shard_file(names), names, embeddings, StoreIndex.read(folder).content)
    with FileLock(folder / "index.lock"):
        index = StoreIndex.read(folder)
        # Another run may have been as fast; the index must keep telling the truth about its file.
        if shard.file not in {other.file for other in index.shards}:
            write_whole(folder / shard.file, payload)
            index = replace(index, shards=(*index.shards, shard))
            index.write(folder)
    return index


def write_whole(path: Path, payload: bytes) -> None:
    """Write a file of a store, whole or not at all.

    Raises:
        OSError: It cannot be written; the message says that the store stays usable.
    """
    try:
        with replacing(path) as unfinished:
            unfinished.write_bytes(payload)
    except OSError as error:
        message = f"{error.strerror}; what the store held before stays usable, so make room and start again"
        raise OSError(error.errno, message, str(path)) from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1
