"""An index of patches on disk, mapped into memory: which patches are nearest to some vectors, and their own vectors."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..files import file_sha256, read_json_object
from .faiss_library import load_faiss
from .patches import Patches
from .result_folder import SlideFacts

INDEX_NAME = "index.json"
PATCHES_NAME = "patches.parquet"
VERSION = 1
_AGAIN = "Build it again with `python -m spider_tools.retrieval index`."


class Shards:
    """The parts of an index as one.

    Args:
        paths: Of the parts, which stay on disk.
        starts: First row of each.
        ivf: Whether their vectors lie in lists.

    Raises:
        ValueError: A part cannot be read.
    """

    def __init__(self, paths: Sequence[Path], starts: Sequence[int], ivf: bool) -> None:
        self._faiss, self._ivf, self._starts = load_faiss(), ivf, np.asarray(starts)
        # The first flag maps lists alone, the second one the codes of an index without lists.
        flag = self._faiss.IO_FLAG_MMAP if ivf else self._faiss.IO_FLAG_MMAP_IFC
        try:
            self._parts = [self._faiss.read_index(str(path), flag) for path in paths]
        except RuntimeError as error:
            raise ValueError(f"A part of the index, {paths[0].parent}, cannot be read: {error}. {_AGAIN}") from error

    def __len__(self) -> int:
        return sum(part.ntotal for part in self._parts)

    def search(
        self, queries: np.ndarray, count: int, probes: Optional[int] = None, allowed: Optional[np.ndarray] = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The vectors of largest inner product with each query, from the largest on.

        Args:
            queries: Float32 `(n, hidden)`.
            count: How many.
            probes: Lists that are read; means nothing without lists.
            allowed: Bool `(len(self),)`, True for rows that may be found; by default all.

        Returns:
            Inner products, float32 `(n, count)`, and rows, int64; -inf and -1 where there are no more.
        """
        scores, rows = [], []
        for part, start in zip(self._parts, self._starts.tolist()):
            own = None if allowed is None else allowed[start : start + part.ntotal]
            found, numbers = part.search(queries, min(count, part.ntotal), params=self._parameters(probes, own))
            scores.append(np.where(numbers < 0, -np.inf, found))
            rows.append(np.where(numbers < 0, -1, numbers + start))
        all_scores, all_rows = np.concatenate(scores, axis=1), np.concatenate(rows, axis=1)
        order = np.argsort(-all_scores, axis=1, kind="stable")[:, :count]
        return np.take_along_axis(all_scores, order, axis=1), np.take_along_axis(all_rows, order, axis=1)

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """The vectors of some rows, float32 `(len(rows), hidden)`, with the rounding of float16."""
        part = np.searchsorted(self._starts, rows, side="right") - 1
        found = [self._parts[i].reconstruct(int(row - self._starts[i])) for i, row in zip(part, rows)]
        return np.stack(found) if found else np.empty((0, self._parts[0].d), dtype=np.float32)

    def _parameters(self, probes: Optional[int], allowed: Optional[np.ndarray]) -> Any:
        selector = {}
        if allowed is not None:
            selector = {"sel": self._faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))}
        if self._ivf:
            return self._faiss.SearchParametersIVF(nprobe=probes or 1, **selector)
        return self._faiss.SearchParameters(**selector) if selector else None


class PatchIndex:
    """An index that was built.

    Args:
        folder: Of the index.
        verify: Whether to compare its vectors with their checksums, which reads all of them. Without it only their
            sizes are compared; the table of patches is always compared.

    Attributes:
        folder: As given.
        facts: The content of index.json.
        patches: Of all rows.
        slides: By name, those that have a place.

    Raises:
        ValueError: There is no index, it is of another version, or it is damaged.
    """

    def __init__(self, folder: Path, verify: bool = False) -> None:
        self.folder = folder
        self.facts = read_json_object(folder / INDEX_NAME, "The index")
        if self.facts.get("version") != VERSION:
            raise ValueError(
                f"{folder / INDEX_NAME} is no index of patches of version {VERSION}: its version is "
                f"{self.facts.get('version')!r}. {_AGAIN}"
            )
        try:
            parts = self.facts["parts"]
            for part in parts:
                _check(folder, part, with_content=verify)
            _check(folder, self.facts["patches"], with_content=True)
            self.content: dict[str, Any] = dict(self.facts["content"])
            self.slides = {name: SlideFacts.from_json(fields) for name, fields in self.facts["slides"].items()}
            starts = np.cumsum([0, *(int(part["rows"]) for part in parts)])
            self.patches = Patches(pq.read_table(folder / PATCHES_NAME))
            self._shards = Shards(
                [folder / part["file"] for part in parts], starts[:-1].tolist(), self.facts["kind"] == "ivf"
            )
            if not len(self._shards) == len(self.patches) == starts[-1]:
                raise ValueError("its files do not have the same number of patches")
        except (KeyError, TypeError, AttributeError, OSError, ValueError, pa.ArrowException) as error:
            raise ValueError(f"The index {folder} cannot be used: {_words(error)} {_AGAIN}") from error

    def __len__(self) -> int:
        return len(self.patches)

    @cached_property
    def classes(self) -> list[str]:
        """All classes of its patches."""
        return sorted(self.patches.class_names)

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """The vectors of some rows, float32 `(len(rows), hidden)`."""
        return self._shards.vectors(rows)

    def search(
        self, queries: np.ndarray, count: int, allowed: np.ndarray, effort: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Shards.search`.

        Args:
            queries: Float32 `(n, hidden)`.
            count: How many.
            allowed: Bool `(len(self),)`, True for rows that may be found.
            effort: How many times as many lists are read as the measured recall needs.
        """
        lists = self.facts["lists"]
        probes = None if lists is None else min(self.facts["probes"] * effort, lists)
        return self._shards.search(queries, min(count, len(self)), probes, None if allowed.all() else allowed)

    def reads_all(self, effort: int) -> bool:
        """Whether a search with this effort reads all vectors."""
        lists = self.facts["lists"]
        return lists is None or self.facts["probes"] * effort >= lists


def _check(folder: Path, listed: dict[str, Any], with_content: bool) -> None:
    name = listed["file"]
    path = folder / name
    if Path(name).name != name or not path.is_file() or path.stat().st_size != listed["size"]:
        raise ValueError(f"{name} is missing or of another size.")
    if with_content and file_sha256(path) != listed["sha256"]:
        raise ValueError(f"{name} does not fit its checksum.")


def _words(error: BaseException) -> str:
    text = str(error) if isinstance(error, (ValueError, OSError)) else f"{INDEX_NAME} lacks {error!r}"
    return text if text.endswith(".") else f"{text}."
