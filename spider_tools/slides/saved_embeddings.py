"""Embeddings of one slide on disk: parts while they are made, then one safetensors file.

`embeddings.safetensors` holds `embeddings` `(patches, hidden)`, `xy` int32 `(patches, 2)`, the upper left px of every
patch at the model's um/px, and `xy_level0` float64 `(patches, 2)`, the same in level-0 px, ordered by y, then x. Until
it is whole, the patches embedded so far lie in `embeddings.unfinished/`, whose files are written whole or not at all,
so that a killed run loses no more than what it had not saved. Both name the content they were made from; embeddings of
another slide or backbone are never read. Both hold a checksum, and what does not fit it is embedded again. Earlier
versions wrote the one file without; it is used for want of a proof against it, and that is said.
"""

import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..embeddings.identity import store_key
from ..files import replacing
from .tensor_file import CHECKSUM, has_the_form, sha256_in, sha256_of, write_embeddings

logger = logging.getLogger(__name__)

EMBEDDINGS_NAME = "embeddings.safetensors"
_PARTS_NAME = "embeddings.unfinished"
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class EmbeddingTable:
    """Embeddings of patches, mapped from the file, not read.

    Attributes:
        corners: int64 `(rows, 2)`, x and y of the upper left px of every patch at the model's um/px.
        embeddings: Float `(rows, hidden)`.
    """

    corners: np.ndarray
    embeddings: torch.Tensor

    def rows(self, corners: np.ndarray) -> np.ndarray:
        """Rows of patches, int64 `(n,)`.

        Raises:
            KeyError: The table lacks some of them.
        """
        codes = _codes(self.corners)
        order = np.argsort(codes)
        found = order[np.searchsorted(codes[order], _codes(corners)).clip(max=len(order) - 1)]
        absent = (self.corners[found] != corners).any(axis=1)
        if absent.any():
            raise KeyError(f"no embedding of the patch at {corners[absent][0].tolist()} and {absent.sum() - 1} others")
        return found


class SavedEmbeddings:
    """What is saved of one slide's embeddings.

    Args:
        folder: Of the slide's results; it exists.
        content: What decides the embeddings, in the form of JSON.
        older: What an earlier version wrote in its place for the same embeddings, if they are to be used too.

    Attributes:
        name: Of the folder, which is that of the slide.
    """

    def __init__(self, folder: Path, content: dict[str, Any], older: Optional[dict[str, Any]] = None) -> None:
        self.name = folder.name
        self._file = folder / EMBEDDINGS_NAME
        self._parts_folder = folder / _PARTS_NAME
        self._metadata = {"key": store_key(content), "content": json.dumps(content, sort_keys=True)}
        self._usable_keys = {self._metadata["key"], *([] if older is None else [store_key(older)])}
        self._tables = list(self._usable())
        self._complete = len(self._tables) == 1 and not self._parts_folder.exists()

    def missing(self, corners: np.ndarray) -> np.ndarray:
        """Those of the patches, int64 `(n, 2)`, that are not saved."""
        saved = [_codes(table.corners) for table in self._tables]
        return corners[~np.isin(_codes(corners), np.concatenate(saved))] if saved else corners

    def add(self, corners: np.ndarray, embeddings: torch.Tensor) -> None:
        """Save a part.

        Args:
            corners: int64 `(n, 2)`.
            embeddings: Float `(n, hidden)` on the CPU.

        Raises:
            FloatingPointError: Some are NaN or infinite.
            OSError: It cannot be written, as on a full disk.
        """
        bad = ~torch.isfinite(embeddings).all(dim=1).numpy()
        if bad.any():
            raise FloatingPointError(
                f"The embeddings of {bad.sum()} of {len(bad)} patches are NaN or infinite, the first at x, y = "
                f"{corners[bad][0].tolist()}. Check the backbone, or use another --dtype."
            )
        self._parts_folder.mkdir(exist_ok=True)
        self._complete = False
        tensors = {"embeddings": embeddings.contiguous(), "xy": torch.from_numpy(corners.astype(np.int32))}
        path = self._parts_folder / f"part-{corners[0][0]}-{corners[0][1]}-{len(corners)}.safetensors"
        with replacing(path) as unfinished:
            save_file(tensors, unfinished, {**self._metadata, CHECKSUM: sha256_of(tensors)})
        self._tables.append(_read_table(path))

    def finish(self, scale: tuple[float, float]) -> EmbeddingTable:
        """Put all parts into one file.

        Args:
            scale: `(x, y)`, level-0 px per px of the patches.

        Raises:
            OSError: It cannot be written.
        """
        if not self._complete:
            with replacing(self._file) as unfinished:
                _write_joined(unfinished, self._tables, scale, self._metadata)
            self._tables = [_read_table(self._file)]
            shutil.rmtree(self._parts_folder, ignore_errors=True)
            self._complete = True
        return self._tables[0]

    def _usable(self) -> Iterator[EmbeddingTable]:
        if self._file.is_file() and (table := self._own_table(self._file)) is not None:
            yield table
        for path in sorted(self._parts_folder.glob("part-*.safetensors")):
            table = self._own_table(path)
            if table is None:
                path.unlink()
            else:
                yield table

    def _own_table(self, path: Path) -> Optional[EmbeddingTable]:
        """The embeddings in a file, or None if they are damaged or of another content."""
        try:
            with safe_open(path, framework="pt") as file:
                metadata, has_form = file.metadata() or {}, has_the_form(file)
            if metadata.get("key") not in self._usable_keys:
                logger.info("%s is of another slide, model or setting, and is not used", path)
                return None
            reason = _damage(path, metadata.get(CHECKSUM)) if has_form else "its tensors are not those of embeddings"
            if not reason:
                return _read_table(path)
        except (OSError, SafetensorError) as error:
            reason = str(error)
        logger.warning("%s is damaged, its patches are embedded again: %s", path, reason)
        return None


def _damage(path: Path, checksum: Optional[str]) -> str:
    """What is wrong with the tensors of a file, "" if nothing is known against them."""
    if checksum is None:
        logger.info(
            "%s is of an earlier version and holds no checksum: its length is right, its embeddings are used as they "
            "are. Remove it to have them made again.",
            path,
        )
        return ""
    return "" if checksum == sha256_in(path) else "its content does not fit its checksum"


def _read_table(path: Path) -> EmbeddingTable:
    with safe_open(path, framework="pt") as file:
        return EmbeddingTable(file.get_tensor("xy").numpy().astype(np.int64), file.get_tensor("embeddings"))


def _codes(corners: np.ndarray) -> np.ndarray:
    """One int64 per patch that orders them by y, then x."""
    return (corners[:, 1].astype(np.int64) << 32) | corners[:, 0].astype(np.int64)


def _write_joined(
    path: Path, tables: list[EmbeddingTable], scale: tuple[float, float], metadata: dict[str, str]
) -> None:
    """Write tables as one file, each patch once, ordered by y, then x."""
    codes, first = np.unique(np.concatenate([_codes(table.corners) for table in tables]), return_index=True)
    corners = np.stack([codes & 0xFFFFFFFF, codes >> 32], axis=1)
    ends = np.cumsum([len(table.corners) for table in tables])
    source = np.searchsorted(ends, first, side="right")
    row = first - np.concatenate([[0], ends])[source]
    blocks = _blocks([table.embeddings for table in tables], source, row)
    write_embeddings(path, corners, corners * scale, blocks, tables[0].embeddings, metadata)


def _blocks(embeddings: list[torch.Tensor], source: np.ndarray, row: np.ndarray) -> Iterator[torch.Tensor]:
    """Rows of several tables, some at a time; `source` is which table each lies in, `row` where."""
    for start in range(0, len(row), _ROWS_AT_ONCE):
        chunk = slice(start, start + _ROWS_AT_ONCE)
        joined = torch.empty(len(row[chunk]), embeddings[0].shape[1], dtype=embeddings[0].dtype)
        for number in np.unique(source[chunk]):
            here = source[chunk] == number
            joined[torch.from_numpy(here)] = embeddings[number][torch.from_numpy(row[chunk][here])]
        yield joined
