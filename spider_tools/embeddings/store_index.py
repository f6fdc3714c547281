"""What a store holds and how it is written: shards, and the index that lists them."""

import hashlib
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from filelock import FileLock
from safetensors.torch import save

from ..files import replacing

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
INDEX_NAME = "index.json"


@dataclass(frozen=True)
class Shard:
    """One shard as the index lists it.

    Attributes:
        file: Name of the file, in the store's folder.
        rows: Number of patches.
        size: Bytes of the file.
        sha256: Of the file, in hexadecimal digits.
    """

    file: str
    rows: int
    size: int
    sha256: str


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
            ValueError: The index is damaged, or has another schema version.
        """
        path = folder / INDEX_NAME
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            version = fields.pop("schema_version")
            if version != SCHEMA_VERSION:
                raise ValueError(f"it has schema version {version}, expected {SCHEMA_VERSION}")
            index = cls(**{**fields, "shards": tuple(Shard(**shard) for shard in fields["shards"])})
            for shard in index.shards:
                if Path(shard.file).name != shard.file:
                    raise ValueError(f"the shard {shard.file!r} lies outside of the folder")
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{folder} is not an embedding store: it has no {INDEX_NAME}.") from error
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} cannot be used: {error!r}. Delete the folder to embed its patches anew."
            ) from error
        return index

    def write(self, folder: Path) -> None:
        """Write the index, whole or not at all."""
        fields = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        _write_whole(folder / INDEX_NAME, json.dumps(fields, indent=1).encode())

    def wrong_size(self, folder: Path) -> list[Shard]:
        """The shards whose file is missing or has another size than when it was written."""
        return [shard for shard in self.shards if _size(folder / shard.file) != shard.size]

    def damaged(self, folder: Path) -> list[Shard]:
        """The shards whose file is missing or has other bytes than when it was written; reads all of them."""
        with ThreadPoolExecutor(max_workers=4) as pool:
            intact = pool.map(lambda shard: _sha256(folder / shard.file) == shard.sha256, self.shards)
            return [shard for shard, good in zip(self.shards, intact) if not good]


def prepare_store(folder: Path, content: dict[str, Any], hidden_size: int) -> None:
    """Make a folder ready for writing: start its index, or drop damaged shards and what killed runs left behind.

    Every shard is compared with its checksum. Only one run may do this at a time, before any process adds shards.

    Args:
        folder: Of the store; it exists.
        content: See `StoreIndex`.
        hidden_size: Values of one embedding.

    Raises:
        ValueError: The store holds something else, or its index is damaged.
    """
    index = StoreIndex(content, hidden_size)
    if (folder / INDEX_NAME).exists():
        index = StoreIndex.read(folder)
        if (index.content, index.hidden_size) != (content, hidden_size):
            raise ValueError(f"{folder} holds embeddings of {index.content}, expected {content}.")
    damaged = index.damaged(folder)
    for shard in damaged:
        logger.warning("%s is damaged or missing; its %d patches are embedded again", folder / shard.file, shard.rows)
    index = replace(index, shards=tuple(shard for shard in index.shards if shard not in damaged))
    index.write(folder)
    kept = {shard.file for shard in index.shards}
    for path in {*folder.glob("shard-*"), *folder.glob(".*.unfinished")}:
        if path.name not in kept:
            path.unlink()


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
    text = "".join(names.to_pylist()).encode()
    lengths = [0, *pc.binary_length(names).to_pylist()]
    tensors = {
        "embeddings": embeddings.contiguous(),
        "name_offsets": torch.from_numpy(np.cumsum(lengths, dtype=np.int64)),
        "name_bytes": torch.from_numpy(np.frombuffer(text, dtype=np.uint8).copy()),
    }
    payload = save(tensors)
    shard = Shard(shard_file(names), len(names), len(payload), hashlib.sha256(payload).hexdigest())
    with FileLock(folder / "index.lock"):
        index = StoreIndex.read(folder)
        # Another run may have been as fast; the index must keep telling the truth about its file.
        if shard.file not in {other.file for other in index.shards}:
            _write_whole(folder / shard.file, payload)
            index = replace(index, shards=(*index.shards, shard))
            index.write(folder)
    return index


def _write_whole(path: Path, payload: bytes) -> None:
    try:
        with replacing(path) as unfinished:
            unfinished.write_bytes(payload)
    except OSError as error:
        message = f"{error.strerror}; what the store held before stays usable, so make room and start again"
        raise OSError(error.errno, message, str(path)) from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    if path.is_file():
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
