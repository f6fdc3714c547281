"""The safetensors file of a slide's embeddings: written some rows at a time, and verified before it is used again."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

CHECKSUM = "sha256"
"""Under this name a file's metadata holds the digest of its tensors."""

_UNKNOWN = "0" * 64  # stands in the header until all tensors are written
_BLOCK_BYTES = 1 << 20
_TYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def sha256_of(tensors: dict[str, torch.Tensor]) -> str:
    """Digest of the bytes of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def sha256_in(path: Path) -> str:
    """What `sha256_of` gives for all tensors of a file, which is read a block at a time.

    Args:
        path: A file whose header the library has read, and found to fit its length.

    Raises:
        OSError: It cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        for name in sorted(header.keys() - {"__metadata__"}):
            start, end = header[name]["data_offsets"]
            file.seek(8 + length + start)
            for begin in range(start, end, _BLOCK_BYTES):
                digest.update(file.read(min(_BLOCK_BYTES, end - begin)))
    return digest.hexdigest()


def has_the_form(file: Any) -> bool:
    """Whether a file that `safe_open` has opened holds one float row of embeddings for every place."""
    names = set(file.keys())
    if names - {"xy_level0"} != {"embeddings", "xy"}:
        return False
    embeddings, xy = file.get_slice("embeddings"), file.get_slice("xy")
    shape = embeddings.get_shape()
    if len(shape) != 2 or xy.get_shape() != [shape[0], 2]:
        return False
    return embeddings.get_dtype() in _TYPE_NAMES.values() and xy.get_dtype() == "I32"


def write_embeddings(
    path: Path,
    corners: np.ndarray,
    corners_level0: np.ndarray,
    blocks: Iterator[torch.Tensor],
    like: torch.Tensor,
    metadata: dict[str, str],
) -> None:
    """Write a file with its checksum; the library would hold all embeddings in memory.

    Args:
        path: Gets the file.
        corners: Integers `(rows, 2)`, x and y in px of the model's um/px.
        corners_level0: Floats `(rows, 2)`, the same in level-0 px.
        blocks: Embeddings of the rows in their order, some at a time, float `(n, hidden)`.
        like: Has the dtype and the width of the embeddings, `(any, hidden)`.
        metadata: Goes into the header.

    Raises:
        OSError: It cannot be written.
    """
    xy, xy_level0 = corners.astype("<i4").tobytes(), corners_level0.astype("<f8").tobytes()
    header = _header(len(corners), like, {**metadata, CHECKSUM: _UNKNOWN})
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.write(xy_level0)
        digest = _write_blocks(file, blocks)
        file.write(xy)
        for content in (xy, xy_level0):  # in the order of their names
            digest.update(content)
        file.seek(8 + header.index(f'"{CHECKSUM}": "{_UNKNOWN}'.encode()) + len(f'"{CHECKSUM}": "'))
        file.write(digest.hexdigest().encode("ascii"))


def _write_blocks(file: BinaryIO, blocks: Iterator[torch.Tensor]) -> "hashlib._Hash":
    digest = hashlib.sha256()
    for block in blocks:
        content = block.contiguous().view(torch.uint8).numpy().tobytes()
        digest.update(content)
        file.write(content)
    return digest


def _header(rows: int, like: torch.Tensor, metadata: dict[str, str]) -> bytes:
    hidden = like.shape[1]
    # The largest alignment first: every tensor then starts where its type may.
    tensors = [
        ("xy_level0", "F64", [rows, 2], rows * 16),
        ("embeddings", _TYPE_NAMES[like.dtype], [rows, hidden], rows * hidden * like.element_size()),
        ("xy", "I32", [rows, 2], rows * 8),
    ]
    header: dict[str, Any] = {"__metadata__": metadata}
    start = 0
    for name, dtype, shape, size in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, start + size]}
        start += size
    text = json.dumps(header).encode()
    return text + b" " * (-len(text) % 8)
