"""The files of a store: shards of embeddings beside the names of their patches, which say themselves what they hold."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..files import file_sha256

_METADATA_KEY = "spider"  # of one text: safetensors writes several in an order that changes
_TENSORS = ("embeddings", "name_offsets", "name_bytes")


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
class _Facts:
    """What a shard's file says of itself.

    Attributes:
        content: Key of what the embeddings were made from.
        sha256: Of that and all tensors.
    """

    content: str
    sha256: str


def encode_shard(file: str, names: pa.Array, embeddings: torch.Tensor, content: dict[str, Any]) -> tuple[Shard, bytes]:
    """A shard and the bytes of its file.

    Args:
        file: Its name.
        names: Of the patches, large strings without nulls.
        embeddings: float16 `(len(names), hidden_size)` on the CPU.
        content: What the embeddings were made from and how.
    """
    text = "".join(names.to_pylist()).encode()
    lengths = [0, *pc.binary_length(names).to_pylist()]
    tensors = {
        "embeddings": embeddings.contiguous(),
        "name_offsets": torch.from_numpy(np.cumsum(lengths, dtype=np.int64)),
        "name_bytes": torch.from_numpy(np.frombuffer(text, dtype=np.uint8).copy()),
    }
    facts = _Facts(content_key(content), _digest(content_key(content), tensors))
    payload = save(tensors, {_METADATA_KEY: json.dumps(asdict(facts))})
    return Shard(file, len(names), len(payload), hashlib.sha256(payload).hexdigest()), payload


def recover_shard(path: Path, content: dict[str, Any], hidden_size: int) -> Shard | None:
    """A shard from its file alone; None if the file is damaged.

    Args:
        path: Of the file.
        content: What its embeddings must have been made from.
        hidden_size: Values that each must have.

    Raises:
        ValueError: It holds embeddings of something else, or an earlier version wrote it, which did not say of what.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in _TENSORS}
    except (FileNotFoundError, SafetensorError):
        return None
    if _METADATA_KEY not in metadata:
        raise ValueError(f"{path.name} was written by an earlier version, and does not say what it holds")
    try:
        facts = _Facts(**json.loads(metadata[_METADATA_KEY]))
    except (TypeError, ValueError):
        return None
    if facts.sha256 != _digest(facts.content, tensors):
        return None
    embeddings = tensors["embeddings"]
    if facts.content != content_key(content) or embeddings.shape[1:] != (hidden_size,):
        raise ValueError(f"{path.name} holds embeddings of something else")
    return Shard(path.name, len(embeddings), path.stat().st_size, file_sha256(path))


def rows_of(path: Path) -> int:
    """Number of rows in a shard's file, from its header; -1 if it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_slice("embeddings").get_shape()[0]
    except (OSError, SafetensorError):
        return -1


def read_tensors(path: Path, *keys: str) -> list[torch.Tensor]:
    """Tensors that are mapped, not read; they stay mapped after the file is closed.

    Raises:
        ValueError: The file cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return [file.get_tensor(key) for key in keys]
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read: {error}. embed_patches_once rebuilds it.") from error


def read_names(folder: Path, shard: Shard) -> pa.Array:
    """The names of a shard's patches, large strings.

    Raises:
        ValueError: The file cannot be read, or is damaged.
    """
    offsets, text = read_tensors(folder / shard.file, "name_offsets", "name_bytes")
    if len(offsets) != shard.rows + 1:
        raise ValueError(f"{folder / shard.file} has {len(offsets) - 1} names, expected {shard.rows}.")
    names = pa.LargeStringArray.from_buffers(shard.rows, pa.py_buffer(offsets.numpy()), pa.py_buffer(text.numpy()))
    try:
        names.validate(full=True)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{folder / shard.file} is damaged: {error}. embed_patches_once rebuilds it.") from error
    return names


def content_key(content: dict[str, Any]) -> str:
    """32 hexadecimal digits that say what a store holds; see `identity.store_content`."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def _digest(content: str, tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(content.encode())
    for key in _TENSORS:
        digest.update(f"{key} {tuple(tensors[key].shape)} {tensors[key].dtype} ".encode())
        digest.update(tensors[key].contiguous().numpy())
    return digest.hexdigest()
