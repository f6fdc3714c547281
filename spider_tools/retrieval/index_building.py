"""An index is built from vectors that are never in memory together, and its recall is measured before it is used.

Few vectors are compared with one by one. Many are put into lists around the centres of a spherical k-means (Sivic &
Zisserman, ICCV 2003; faiss: Douze et al., arXiv 2401.08281), of which a search reads the nearest. Both hold the vectors
in float16: beside float32 it takes half the disk and half the time, and changes a cosine by less than 1e-4. The index
lies in parts of some 256 MB, each of which is made in memory and mapped from disk when it is searched.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from .. import __version__
from ..files import Writer, file_sha256, require_writable, text_writer, write_together
from ..output_folder import only_run_in
from .faiss_library import load_faiss
from .patch_index import INDEX_NAME, PATCHES_NAME, VERSION, Shards
from .patches import Patches
from .result_folder import ResultFolder
from .settings import IndexSettings
from .sources import Source, Vectors, find_sources
from .store_source import StoreSource

logger = logging.getLogger(__name__)

SHARD_BYTES = 256 << 20
RECALL_AT = 100
LEAST_RECALL = 0.95
_BLOCK = 8192  # vectors
_SAMPLE = 200  # vectors that the recall is measured on
_PER_LIST = 64  # vectors that each centre is found from
_MOST_TRAINED_ON = 131_072
_MOST_LISTS = 3000  # so that each has the 39 vectors that faiss asks for
_ROUNDS = 10


def build_index(paths: Sequence[str], settings: IndexSettings) -> dict[str, Any]:
    """Build an index of the patches of result folders and stores.

    Args:
        paths: See `sources.find_sources`.
        settings: See there.

    Returns:
        The content of index.json.

    Raises:
        ValueError: A source cannot be used, or faiss is not installed.
        OSError: The index cannot be written; one that was there stays.
    """
    load_faiss()
    require_writable(settings.index, "--index")
    sources = find_sources(paths, settings)
    vectors = Vectors(sources)
    if not len(vectors):
        raise ValueError(f"There are no patches to index in {', '.join(paths)}.")
    with only_run_in(settings.index):
        return _IndexWriter(settings, vectors, _facts(sources, len(vectors))).write(
            Patches.join([source.patches() for source in sources])
        )


def describe(facts: dict[str, Any]) -> str:
    """What index.json says, for people."""
    counts, recall = facts["counts"], facts["recall"]
    slides = "slide" if counts["slides"] == 1 else "slides"
    kind = "exact" if facts["kind"] == "exact" else f"{facts['lists']} lists, of which a search reads {facts['probes']}"
    lines = [f"{counts['patches']:,} patches of {counts['slides']:,} {slides}; {kind}; {facts['dtype']}"]
    if recall:
        lines.append(f"Recall@{recall['at']} against exact search: {recall['share']:.3f} ({recall['queries']} patches)")
    return "\n".join([*lines, *facts["remarks"]])


def _facts(sources: Sequence[Source], rows: int) -> dict[str, Any]:
    """What index.json says of the sources."""
    results = [source for source in sources if isinstance(source, ResultFolder)]
    stores = [source for source in sources if isinstance(source, StoreSource)]
    absent = sum(source.absent for source in stores)
    remarks = [f"{absent:,} patches of the data set are not in its store, and not in the index."] if absent else []
    return {
        "version": VERSION,
        "spider_tools": __version__,
        "rows": rows,
        "hidden_size": sources[0].hidden_size,
        "dtype": "float16",
        "content": dict(sources[0].content),
        "sources": [{"folder": str(source.folder), "patches": len(source)} for source in sources],
        "slides": {result.name: result.facts.as_json() for result in results},
        "remarks": remarks,
    }


@dataclass
class _IndexWriter:
    """Writes the files of an index.

    Attributes:
        settings: Of the index.
        vectors: What is indexed.
        facts: What index.json says of the sources.
        written: Where the parts lie until all files take their names.
    """

    settings: IndexSettings
    vectors: Vectors
    facts: dict[str, Any]
    written: list[Path] = field(default_factory=list)

    def write(self, patches: Patches) -> dict[str, Any]:
        """Write all of them, with the table of the patches; return the content of index.json."""
        folder, count = self.settings.index, len(self.vectors)
        size = max(1, SHARD_BYTES // (2 * self.vectors.hidden_size))
        cuts = [(start, min(start + size, count)) for start in range(0, count, size)]
        names = [f"index{f'-{number}' if number else ''}.faiss" for number in range(len(cuts))]
        self.facts |= self._kind() | {"counts": _counts(patches)}
        empty = _new_index(self.facts, self.vectors, self.settings.seed)
        with tqdm(total=count, unit="patch", desc="index") as bar:
            writers: dict[str, Writer] = {
                name: self._part_writer(empty, cut, name, bar) for name, cut in zip(names, cuts)
            }
            writers[PATCHES_NAME] = self._table_writer(patches)
            writers[INDEX_NAME] = self._marker_writer(cuts, bar)
            write_together(folder, writers, sign=INDEX_NAME)
        for path in folder.glob("index-*.faiss"):
            if path.name not in names:  # of an earlier index
                path.unlink()
        return self.facts

    def _kind(self) -> dict[str, Any]:
        count = len(self.vectors)
        if count < self.settings.ivf_from:
            return {"kind": "exact", "lists": None}
        return {"kind": "ivf", "lists": min(round(count**0.5), _MOST_LISTS)}

    def _part_writer(self, empty: Any, cut: tuple[int, int], name: str, bar: tqdm) -> Writer:
        def write(path: Path) -> None:
            faiss = load_faiss()
            part = faiss.clone_index(empty)
            for _, block in self.vectors.blocks(_BLOCK, *cut):
                part.add(block)
                bar.update(len(block))
            if self.facts["kind"] == "ivf":
                part.make_direct_map()
            faiss.write_index(part, str(path))
            digest = {"rows": cut[1] - cut[0], "size": path.stat().st_size, "sha256": file_sha256(path)}
            self.facts.setdefault("parts", []).append({"file": name, **digest})
            self.written.append(path)

        return write

    def _table_writer(self, patches: Patches) -> Writer:
        def write(path: Path) -> None:
            pq.write_table(patches.table, path)
            self.facts["patches"] = {"file": PATCHES_NAME, "size": path.stat().st_size, "sha256": file_sha256(path)}

        return write

    def _marker_writer(self, cuts: list[tuple[int, int]], bar: tqdm) -> Writer:
        def write(path: Path) -> None:  # after all others, which it measures
            bar.close()  # measuring has one of its own
            self.facts |= {"probes": None, "recall": None}
            if self.facts["kind"] == "ivf":
                shards = Shards(self.written, [start for start, _ in cuts], ivf=True)
                self.facts |= _measured(shards, self.vectors, self.facts["lists"], self.settings.seed)
            text_writer(json.dumps(self.facts, indent=1, ensure_ascii=False) + "\n")(path)

        return write


def _counts(patches: Patches) -> dict[str, Any]:
    numbers = np.bincount(patches.class_numbers + 1, minlength=len(patches.class_names) + 1)
    by_class = {name: int(count) for name, count in zip(patches.class_names, numbers[1:])}
    return {
        "patches": len(patches),
        "slides": len(np.unique(patches.slide_numbers)),
        "without a class": int(numbers[0]),
        "classes": by_class,
    }


def _new_index(facts: dict[str, Any], vectors: Vectors, seed: int) -> Any:
    """An index without vectors, its lists trained."""
    faiss = load_faiss()
    float16, metric = faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    hidden = vectors.hidden_size
    if facts["kind"] == "exact":
        index = faiss.IndexScalarQuantizer(hidden, float16, metric)
        index.train(np.zeros((1, hidden), dtype=np.float32))  # float16 has nothing to learn
        return index
    # The lists hold the vectors themselves, not what is left beside their centre.
    index = faiss.IndexIVFScalarQuantizer(faiss.IndexFlatIP(hidden), hidden, facts["lists"], float16, metric, False)
    index.cp.spherical, index.cp.seed, index.cp.niter = True, seed, _ROUNDS
    sample = min(len(vectors), _PER_LIST * facts["lists"], _MOST_TRAINED_ON)
    rows = np.random.default_rng(seed).choice(len(vectors), sample, replace=False)
    logger.info("finding the centres of %d lists from %d vectors", facts["lists"], sample)
    index.train(vectors[np.sort(rows)])
    return index


def _measured(shards: Shards, vectors: Vectors, lists: int, seed: int) -> dict[str, Any]:
    """How many lists a search has to read, and what share of the nearest it then finds, of vectors of the index."""
    sample = min(_SAMPLE, len(vectors))
    rows = np.sort(np.random.default_rng(seed + 1).choice(len(vectors), sample, replace=False))
    queries, count = vectors[rows], min(RECALL_AT, len(vectors) - 1)
    exact = _nearest(vectors, queries, count + 1)
    probes = recall = 0.0
    for probes in _steps(lists):
        _, found = shards.search(queries, count + 1, probes=int(probes))
        recall = _share(found, exact, rows)
        if recall >= LEAST_RECALL:
            break
    logger.info("a search reads %d of %d lists, recall@%d %.3f", probes, lists, count, recall)
    return {"probes": int(probes), "recall": {"at": count, "share": recall, "queries": sample}}


def _steps(most: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12 ... and `most` itself."""
    steps = sorted({step for power in range(20) for step in (1 << power, 3 << power)} - {0})
    return [step for step in steps if step < most] + [most]


def _nearest(vectors: Vectors, queries: np.ndarray, count: int) -> np.ndarray:
    """Rows of the vectors of largest inner product with each query, int64 `(queries, count)`, in any order."""
    scores = np.full((len(queries), count), -np.inf, dtype=np.float32)
    rows = np.full(scores.shape, -1, dtype=np.int64)
    with tqdm(total=len(vectors), unit="patch", desc="recall") as bar:
        for first, block in vectors.blocks(_BLOCK):
            both = np.concatenate([scores, queries @ block.T], axis=1)
            numbers = np.broadcast_to(np.arange(first, first + len(block)), (len(queries), len(block)))
            best = np.argpartition(-both, count - 1, axis=1)[:, :count]
            scores = np.take_along_axis(both, best, axis=1)
            rows = np.take_along_axis(np.concatenate([rows, numbers], axis=1), best, axis=1)
            bar.update(len(block))
    return rows


def _share(found: np.ndarray, exact: np.ndarray, own: np.ndarray) -> float:
    """Mean share of the exact rows that were found; that each query finds itself counts for nothing."""
    shares = []
    for row, wanted, got in zip(own.tolist(), exact.tolist(), found.tolist()):
        nearest = set(wanted) - {row}
        shares.append(len(nearest & set(got)) / max(len(nearest), 1))
    return float(np.mean(shares)) if exact.shape[1] > 1 else 1.0
