"""Everything whose patches go into an index, or are looked at for suggestions: found, checked, and read as one."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..embeddings.store_index import INDEX_NAME
from ..slides.output_files import SHARED_FOLDERS
from ..slides.outputs import MARKER_NAME
from .patches import Patches
from .result_folder import ResultFolder
from .settings import DatasetFlags
from .store_source import StoreSource

logger = logging.getLogger(__name__)

_LEAST_NORM = 1e-12
_MOST_SCALE_RATIO = 1.1


class Source(Protocol):
    """Patches with their embeddings, as `ResultFolder` and `StoreSource` give them."""

    folder: Path
    content: dict[str, Any]

    def __len__(self) -> int: ...

    @property
    def hidden_size(self) -> int:
        """Values of one embedding."""

    def patches(self) -> Patches:
        """All patches."""

    def embeddings(self, rows: np.ndarray) -> np.ndarray:
        """Float32 `(len(rows), hidden)`."""


def find_sources(paths: Sequence[str], flags: DatasetFlags) -> list[Source]:
    """The sources that folders are or hold, which must be embedded alike.

    Args:
        paths: Folders of results, stores of embeddings, and folders of such.
        flags: Name the data set of a store.

    Raises:
        ValueError: There are none, one is damaged, two slides have one name, or two are embedded differently.
    """
    found = [_open(folder, flags) for path in paths for folder in _folders_in(Path(path))]
    _check_names([source for source in found if isinstance(source, ResultFolder)])
    check_alike(found)
    return found


def find_results(paths: Sequence[str]) -> list[ResultFolder]:
    """The folders of results that folders are or hold, as `find_sources`; stores of embeddings are refused."""
    folders = [folder for path in paths for folder in _folders_in(Path(path))]
    stores = [folder for folder in folders if not (folder / MARKER_NAME).is_file()]
    if stores:
        raise ValueError(f"{stores[0]} is no folder of results of segment_slide.py: it has no {MARKER_NAME}.")
    found = [ResultFolder(folder) for folder in folders]
    _check_names(found)
    check_alike(found)
    return found


def check_alike(sources: Sequence[Source]) -> None:
    """Refuse sources of different backbones, precisions or preprocessings: their embeddings cannot be compared.

    Raises:
        ValueError: Two differ; both are named, and in what they differ.
    """
    first = sources[0]
    for other in sources[1:]:
        require_alike(first.content, str(first.folder), other.content, str(other.folder))
    scales = [source.facts.mpp[0] * source.facts.scale[0] for source in sources if isinstance(source, ResultFolder)]
    if scales and max(scales) > _MOST_SCALE_RATIO * min(scales):
        logger.warning(
            "The slides were embedded at %.3g to %.3g um/px: patches of different magnifications are compared.",
            *(min(scales), max(scales)),
        )


def require_alike(content: Mapping[str, Any], name: str, other: Mapping[str, Any], other_name: str) -> None:
    """Refuse two contents that decide different embeddings.

    Raises:
        ValueError: They differ.
    """
    differing = sorted(key for key in {*content, *other} if content.get(key) != other.get(key))
    if differing:
        shown = "; ".join(f"{key}: {_short(content.get(key))} and {_short(other.get(key))}" for key in differing[:2])
        raise ValueError(
            f"{name} and {other_name} were not embedded alike, so that their embeddings cannot be compared. {shown}."
        )


class Vectors:
    """The embeddings of several sources as one table of unit vectors, read where they are needed.

    Args:
        sources: Their rows follow each other.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._starts = np.cumsum([0, *map(len, sources)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def hidden_size(self) -> int:
        """Values of one vector."""
        return self._sources[0].hidden_size

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Unit vectors, float32 `(len(rows), hidden)`.

        Args:
            rows: int64, ascending for speed.

        Raises:
            ValueError: An embedding is NaN, infinite or 0.
        """
        found = np.empty((len(rows), self.hidden_size), dtype=np.float32)
        number = np.searchsorted(self._starts, rows, side="right") - 1
        for i in np.unique(number):
            here = number == i
            found[here] = _unit(self._sources[i].embeddings(rows[here] - self._starts[i]), self._sources[i].folder)
        return found

    def blocks(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """The vectors from `start` to `stop`, `size` at a time: the first row of each block, and its vectors."""
        stop = len(self) if stop is None else stop
        for first in range(start, stop, size):
            yield first, self[np.arange(first, min(first + size, stop))]


def _unit(vectors: np.ndarray, folder: Path) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(norms).all() and (norms > _LEAST_NORM).all()):
        raise ValueError(f"{folder} holds embeddings that are NaN, infinite or 0: embed its patches again.")
    return vectors / norms


def _open(folder: Path, flags: DatasetFlags) -> Source:
    if (folder / MARKER_NAME).is_file():
        return ResultFolder(folder)
    return StoreSource(folder, flags)


def _folders_in(path: Path) -> list[Path]:
    """The path itself if it is a source, else the sources in it."""
    if not path.is_dir():
        raise ValueError(f"There is no folder {path}.")
    if _is_source(path):
        return [path]
    folders = sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))
    found = [child for child in folders if _is_source(child)]
    if not found:
        raise ValueError(
            f"{path} holds neither results of segment_slide.py ({MARKER_NAME}) nor a store of embeddings "
            f"({INDEX_NAME})."
        )
    for child in folders:
        if child not in found and child.name not in SHARED_FOLDERS:
            logger.warning("%s is left out: it has no %s, so that it is not finished.", child, MARKER_NAME)
    return found


def _is_source(folder: Path) -> bool:
    return (folder / MARKER_NAME).is_file() or (folder / INDEX_NAME).is_file()


def _check_names(results: Sequence[ResultFolder]) -> None:
    by_name: dict[str, ResultFolder] = {}
    for result in results:
        other = by_name.setdefault(result.name.casefold(), result)
        if other is not result:
            raise ValueError(
                f"{other.folder} and {result.folder} are of slides of one name, {result.name!r}. Leave one out, or "
                "rename its folder."
            )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:24]}..."
