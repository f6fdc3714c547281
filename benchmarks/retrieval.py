"""The index of patches: how fast it is built and with how much memory, how fast it answers, and how much it finds.

A query is what `python -m spider_tools.retrieval query` does between loading and writing: the 100 patches nearest to
the mean of 16 examples, none over another, at most 10 of a slide. Brute force holds all vectors in float16 against the
same examples and chooses by the same rules.
"""

import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa

from spider_tools.retrieval import index_building
from spider_tools.retrieval.choosing import Chooser
from spider_tools.retrieval.examples import Examples
from spider_tools.retrieval.index_building import RECALL_AT, build_index
from spider_tools.retrieval.patch_index import PatchIndex
from spider_tools.retrieval.patches import SCHEMA, Patches
from spider_tools.retrieval.query import nearest
from spider_tools.retrieval.settings import IndexSettings

from .measuring import Goal, Options, Section, alternate, seconds_of, spread

EXAMPLES, TOP, PER_SLIDE = 16, 100, 10
DIRECTIONS = 16  # in which the patches of a cluster differ
_BLOCK = 16_384


@dataclass(frozen=True)
class Size:
    """How much to index.

    Attributes:
        slides: Their number.
        clusters: Of patches that look alike, on every slide.
        patches: Of every cluster.
        width: Values of an embedding.
        queries: Timed, each in rounds.
        rounds: Of each way.
    """

    slides: int = 50
    clusters: int = 40
    patches: int = 500
    width: int = 1024
    queries: int = 4
    rounds: int = 3

    @property
    def rows(self) -> int:
        """Of the index."""
        return self.slides * self.clusters * self.patches


FULL = Size()
QUICK = Size(slides=4, clusters=5, patches=100, width=32, queries=2, rounds=1)


def measure(options: Options) -> list[Section]:
    """See the module."""
    size = QUICK if options.quick else FULL
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        vectors = made_up(folder / "embeddings.float16", size)
        building = built(folder / "index", vectors, size)
        return [building, answers(folder / "index", vectors, size, options)]


def made_up(path: Path, size: Size) -> np.ndarray:
    """Embeddings in a file, float16 `(rows, width)`, mapped: clusters around a tissue and a slide of their own."""
    rng = np.random.default_rng(0)
    tissues = rng.standard_normal((size.clusters, size.width), dtype=np.float32)
    vectors = np.memmap(path, np.float16, "w+", shape=(size.rows, size.width))
    start = 0
    for _ in range(size.slides):
        slide = rng.standard_normal(size.width, dtype=np.float32)
        for tissue in tissues:
            own = rng.standard_normal(size.width, dtype=np.float32)
            directions = rng.standard_normal((DIRECTIONS, size.width), dtype=np.float32) / DIRECTIONS**0.5
            within = rng.standard_normal((size.patches, DIRECTIONS), dtype=np.float32) @ directions
            noise = rng.standard_normal(within.shape, dtype=np.float32)
            center = tissue + 0.5 * slide + 0.5 * own
            vectors[start : start + size.patches] = center + 0.7 * within + 0.15 * noise
            start += size.patches
    vectors.flush()
    return np.memmap(path, np.float16, "r", shape=(size.rows, size.width))


class Mapped:
    """The embeddings as a source of an index, on slides 200 patches wide."""

    def __init__(self, vectors: np.ndarray, size: Size) -> None:
        self.folder, self.content = Path("made up"), {"preprocessing": {"patch_size": 224}}
        self._vectors, self._size = vectors, size

    def __len__(self) -> int:
        return len(self._vectors)

    @property
    def hidden_size(self) -> int:
        """Values of one embedding."""
        return self._vectors.shape[1]

    def patches(self) -> Patches:
        """Of all slides."""
        of_slide = self._size.clusters * self._size.patches
        slide, place = np.divmod(np.arange(len(self)), of_slide)
        row, column = np.divmod(place, 200)
        names = pa.array([f"slide {number}" for number in range(self._size.slides)])
        only = pa.array(np.zeros(len(self), dtype=np.int32))
        side = pa.array(np.full(len(self), 224.0))
        columns = [
            pa.DictionaryArray.from_arrays(pa.array(slide.astype(np.int32)), names),
            pa.DictionaryArray.from_arrays(only, pa.array(["made up"])),
            *(pa.array(numbers * 224.0) for numbers in (column, row)),
            *(side, side),
            pa.DictionaryArray.from_arrays(only, pa.array(["Fat"])),
            pa.array(np.ones(len(self), dtype=np.float32)),
            pa.nulls(len(self), pa.string()),
        ]
        return Patches(pa.table(columns, schema=SCHEMA))

    def embeddings(self, rows: np.ndarray) -> np.ndarray:
        """Float32 `(len(rows), width)`."""
        return self._vectors[rows].astype(np.float32)


def from_memory(vectors: np.ndarray, size: Size) -> AbstractContextManager[Any]:
    """Have an index built from these vectors instead of folders."""
    return mock.patch.object(index_building, "find_sources", return_value=[Mapped(vectors, size)])


def built(folder: Path, vectors: np.ndarray, size: Size) -> Section:
    """Build the index with lists, and tell seconds and memory."""
    settings = IndexSettings(index=folder, ivf_from=1)
    with from_memory(vectors, size), PeakOfOwnMemory() as memory:
        started = time.perf_counter()
        facts = build_index(["made up"], settings)
        seconds = time.perf_counter() - started
    on_disk = sum(part["size"] for part in facts["parts"])
    row = {
        "patches": size.rows,
        "width": size.width,
        "s": seconds,
        "patches/s": size.rows / seconds,
        "lists": facts["lists"],
        "lists read": facts["probes"],
        "recall@100, as index.json says": facts["recall"]["share"],
        "index GB": on_disk / 1e9,
        "peak GB beside mapped files": memory.peak / 1e9,
    }
    notes = (
        f"{size.slides} slides of {size.clusters} clusters of {size.patches} patches; a cluster has a tissue, a slide "
        f"and a place of its own, and spreads in {DIRECTIONS} directions of its own. From float16 on disk, mapped. The "
        "seconds hold the k-means, the lists, and one exact pass over all vectors to measure the recall."
    )
    return Section("Building", notes, [row], [Goal("GB of memory beside mapped files", row[list(row)[-1]], 1.5, False)])


def answers(folder: Path, vectors: np.ndarray, size: Size, options: Options) -> Section:
    """Time queries, ours beside brute force, and compare what they find."""
    loading = seconds_of(lambda: PatchIndex(folder), options.device)
    index = PatchIndex(folder)
    rng = np.random.default_rng(1)
    cluster = rng.integers(0, size.slides * size.clusters, size.queries) * size.patches
    examples = [np.sort(start + rng.choice(size.patches, EXAMPLES, replace=False)) for start in cluster]
    ways: dict[str, Callable[[np.ndarray], list[int]]] = {
        "ours": partial(ours, index),
        "brute force": partial(brute_force, index.patches, vectors),
    }
    found = {name: [way(rows) for rows in examples] for name, way in ways.items()}
    same = [len(set(a) & set(b)) / len(b) for a, b in zip(found["ours"], found["brute force"])]
    runs = {name: partial(_each, way, examples) for name, way in ways.items()}
    seconds = alternate(runs, size.rounds, options.device)
    rows = [
        {
            "way": name,
            "ms per query": statistics.median(times) / size.queries * 1e3,
            "spread": f"{spread(times):.0%}",
            "share of brute force's patches": float(np.mean(same)) if name == "ours" else 1.0,
        }
        for name, times in seconds.items()
    ]
    recall = recall_of(index, vectors, rng.choice(len(vectors), min(100, len(vectors)), replace=False))
    notes = (
        f"Loading the index took {loading:.2f} s. Recall@{RECALL_AT} of single vectors against numpy, of 100 others "
        f"than those of index.json: {recall:.3f}. The files were in the page cache."
    )
    goals = [Goal("ms per query", rows[0]["ms per query"], 50, False), Goal("recall@100", recall, 0.95)]
    return Section("Answering", notes, rows, goals if not options.quick else [])


def _each(way: Callable[[np.ndarray], list[int]], examples: list[np.ndarray]) -> None:
    for rows in examples:
        way(rows)


def ours(index: PatchIndex, rows: np.ndarray) -> list[int]:
    """The patches nearest to those of some rows."""
    chooser = Chooser(index.patches, TOP, PER_SLIDE)
    chooser.exclude(rows)
    nearest(index, Examples(index.vectors(rows), rows, ""), "mean", chooser)
    return chooser.chosen


def brute_force(patches: Patches, vectors: np.ndarray, rows: np.ndarray) -> list[int]:
    """The same from all vectors."""
    chooser = Chooser(patches, TOP, PER_SLIDE)
    chooser.exclude(rows)
    scores = cosines(vectors, _unit(vectors[rows]).mean(axis=0, keepdims=True))[0]
    for row in np.argsort(-scores).tolist():
        if chooser.is_done:
            break
        chooser.take(row)
    return chooser.chosen


def recall_of(index: PatchIndex, vectors: np.ndarray, rows: np.ndarray) -> float:
    """Share of the nearest vectors to some, themselves left out, that the index finds."""
    queries, count = _unit(vectors[rows]), min(RECALL_AT, len(vectors) - 1)
    exact = np.argpartition(-cosines(vectors, queries), count, axis=1)[:, : count + 1]
    _, found = index.search(queries, count + 1, np.ones(len(index), dtype=bool))
    shares = [len((set(e) & set(f)) - {r}) / count for r, e, f in zip(rows.tolist(), exact.tolist(), found.tolist())]
    return float(np.mean(shares))


def cosines(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Of all vectors with unit vectors, float32 `(queries, rows)`."""
    found = np.empty((len(queries), len(vectors)), dtype=np.float32)
    for start in range(0, len(vectors), _BLOCK):
        found[:, start : start + _BLOCK] = queries @ _unit(vectors[start : start + _BLOCK]).T
    return found


def _unit(vectors: np.ndarray) -> np.ndarray:
    floats = vectors.astype(np.float32)
    return floats / np.linalg.norm(floats, axis=1, keepdims=True)


class PeakOfOwnMemory:
    """Watches the memory of this process that is of no file, in bytes beyond what it was at the start.

    Attributes:
        peak: The most so far.
    """

    def __init__(self) -> None:
        self.peak = 0
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakOfOwnMemory":
        self._before = own_memory()
        self._watcher.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._done.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.peak = max(self.peak, own_memory() - self._before)


def own_memory() -> int:
    """Bytes of this process that are of no file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no RssAnon, which only Linux tells.")
