"""The embedding store: how fast it fills, beside the bare backbone, what it takes on disk, and how fast it reads.

Filling is the whole of `embed_patches_once`: hashing the weights, starting the workers, decoding, normalising,
embedding, writing. Bare is the same backbone on normalised patches in memory.
"""

import copy
import json
import os
import statistics
import struct
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from accelerate import Accelerator
from PIL import Image

from spider_tools import remote_code
from spider_tools.data.patches import FolderPatches, PatchSource
from spider_tools.embeddings.embedder import PatchEmbedder, float_dtype
from spider_tools.embeddings.precompute import embed_patches_once
from spider_tools.embeddings.settings import EmbeddingSettings
from spider_tools.embeddings.store import EmbeddingStore
from spider_tools.embeddings.store_index import Shard, StoreIndex, shard_file

from .measuring import Goal, Options, Section, alternate, seconds_of, spread
from .models import SMALL, VIT_S, random_model

SIDE = 224
SHARD_SIZE = 4096
FILES = 64

# Of SPIDER-skin, the largest of the published data sets, as its paper gives them.
UNIQUE_PATCHES = 2_696_987
TRAINING_REGIONS = 131_164

# The largest distance between embeddings made both ways, as a share of the largest value: float16 keeps 11 bits,
# bfloat16 keeps 8 in each of 24 layers.
TOLERANCE = {"float32": 2e-3, "bfloat16": 5e-2}


def measure(options: Options) -> list[Section]:
    """See the module."""
    return [_filling(options), _reading(20_000 if options.quick else UNIQUE_PATCHES)]


class PatchFolder(PatchSource):
    """JPEG files, decoded where they are read; any number of names stands for a few files.

    Args:
        folder: Gets the files: patches of coloured texture, about 20 kB each as real ones are.
    """

    fingerprint = "benchmark"
    patch_size = SIDE
    for_threads = True

    def __init__(self, folder: Path) -> None:
        self._files = FolderPatches(folder, SIDE, folder / "no table")
        rng = np.random.default_rng(0)
        for number in range(FILES):
            coarse = Image.fromarray(rng.integers(90, 256, (56, 56, 3), dtype=np.uint8)).resize((SIDE, SIDE))
            grain = rng.integers(-12, 13, (SIDE, SIDE, 1))
            patch = (np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8)
            Image.fromarray(patch).save(folder / f"{number}.jpg")

    def read(self, name: str) -> np.ndarray:
        """One patch, uint8 `(224, 224, 3)`."""
        return self._files.read(f"{int(name) % FILES}.jpg")


@dataclass(frozen=True)
class Case:
    """A backbone to fill a store with.

    Attributes:
        name: Of the backbone.
        backbone: Its sizes; None for Hibou-L.
        dtype: While embedding.
        patches: To embed in one run.
        batch_size: Patches that are read at once, and that go through the bare backbone at once.
        workers: Numbers of processes that decode, one run of each.
        has_goal: Whether the first of them is to come near the bare backbone.
    """

    name: str
    backbone: dict[str, Any] | None
    dtype: str
    patches: int
    batch_size: int
    workers: tuple[int, ...]
    has_goal: bool = True


def _cases(options: Options) -> list[Case]:
    if options.quick:
        return [Case("small recipe", SMALL, "float32", 64, 8, (2, 0), has_goal=False)]
    if options.device.type == "cuda":
        return [
            Case("Hibou-L", None, "bfloat16", 4096, 256, (8, 4, 2)),
            Case("ViT-S/14", VIT_S, "bfloat16", 8192, 256, (8,)),
        ]
    cases = [
        Case("Hibou-L", None, "float32", 16, 8, (2,)),
        Case("Hibou-L", None, "bfloat16", 24, 8, (2,)),
        Case("ViT-S/14", VIT_S, "float32", 96, 8, (2, 0)),
        Case("small recipe", SMALL, "float32", 1536, 64, (2, 1, 0), has_goal=False),
    ]
    return [case for case in cases if case.dtype != "bfloat16" or options.bfloat16]


def _filling(options: Options) -> Section:
    rows, goals = [], []
    with tempfile.TemporaryDirectory() as folder:
        source = PatchFolder(Path(folder))
        for case in _cases(options):
            measured = Filling(case, source, options.device).rows(rounds=1 if options.quick else 3)
            rows += measured
            if case.has_goal:
                text = f"{case.name} in {case.dtype}, patches/s of filling against those of the bare backbone"
                goals.append(Goal(text, measured[0]["filling / bare"], 0.95))
    notes = (
        "Start: hashing the weights, comparing the shards that are there with their checksums, and bringing the "
        "backbone into its dtype, once for each run. It is left out of filling's patches/s, since the few patches "
        "here stand for millions; starting the decoders, the first batch and writing are in it. Patches are JPEG files "
        "of about 20 kB. Decoding is what one core reads and decodes, times the number of cores. Nothing can be faster "
        "than the limit: on a CPU the cores embed and decode in turn, a GPU embeds while they decode. The small "
        "recipe's backbone embeds faster than two cores decode, so it has no goal. filling / bare is the median over "
        f"rounds, spread that of this ratio.{options.left_out}"
    )
    return Section("Filling: `embed_patches_once` against the bare backbone", notes, rows, goals)


class Filling:
    """Fills stores with the patches of one case.

    Args:
        case: What with.
        source: Of the patches.
        device: Where to embed.
    """

    def __init__(self, case: Case, source: PatchFolder, device: torch.device) -> None:
        self.case = case
        self.device = device
        self.source = source
        self.names = [f"{number:08d}" for number in range(case.patches)]
        self.model = random_model(case.backbone, device)
        self.processor = remote_code.image_processor_class()()
        self.accelerator = Accelerator(cpu=device.type == "cpu")
        dtype = float_dtype(case.dtype)
        self.bare_model = self.model if dtype == torch.float32 else copy.deepcopy(self.model).to(dtype)
        self.pixels = torch.randn(case.batch_size, 3, SIDE, SIDE).to(device, dtype)

    def rows(self, rounds: int) -> list[dict[str, Any]]:
        """Rows of the table, one for each number of workers; filling and the bare backbone are timed in turn."""
        case = self.case
        start = self.checked_start(rounds)
        fillings = {str(workers): partial(self.fill_anew, workers) for workers in case.workers}
        ways = {"bare": self.bare, "decoding": self.decode, **fillings}
        seconds = alternate(ways, rounds, self.device, warm_up=0)  # the check has warmed up
        decoding = statistics.median(seconds["decoding"]) / (os.cpu_count() or 1)
        rows = []
        for workers in case.workers:
            filling = [whole - start for whole in seconds[str(workers)]]
            ratios = [bare / whole for bare, whole in zip(seconds["bare"], filling)]
            bare = statistics.median(seconds["bare"])
            limit = bare + decoding if self.device.type == "cpu" else max(bare, decoding)
            rows.append(
                {
                    "backbone": case.name,
                    "dtype": case.dtype,
                    "workers": workers,
                    "patches": case.patches,
                    "start s": start,
                    "bare patches/s": case.patches / statistics.median(seconds["bare"]),
                    "decoding patches/s": case.patches / decoding,
                    "filling patches/s": case.patches / statistics.median(filling),
                    "filling / bare": statistics.median(ratios),
                    "spread": f"{spread(ratios):.0%}",
                    "limit / bare": bare / limit,
                    "filling / limit": limit / statistics.median(filling),
                }
            )
        return rows

    def checked_start(self, rounds: int) -> float:
        """Seconds of what a run does before its first patch, after a look at the embeddings of its first batch."""
        names = self.names[: self.case.batch_size]
        with tempfile.TemporaryDirectory() as folder:
            self.check(names, self.fill(Path(folder), names, workers=0))

            def start() -> None:
                self.fill(Path(folder), names, workers=0)
                PatchEmbedder(self.model, self.processor, self.device, self.case.dtype)

            return statistics.median(seconds_of(start, self.device) for _ in range(rounds))

    @torch.no_grad()
    def check(self, names: list[str], store: EmbeddingStore) -> None:
        """Compare the rows of a store with the bare backbone's embeddings of the same patches."""
        patches = torch.from_numpy(np.stack([self.source.read(name) for name in names]))
        expected = self.bare_model.embed_patches(patches.permute(0, 3, 1, 2).to(self.device)).float().cpu()
        distance = float((store[store.rows(names)].float() - expected).abs().max() / expected.abs().max())
        if not distance <= TOLERANCE[self.case.dtype]:
            raise RuntimeError(f"{self.case.name} in {self.case.dtype}: store and backbone are {distance:.2g} apart.")

    @torch.no_grad()
    def bare(self) -> None:
        """The backbone alone."""
        for first in range(0, self.case.patches, self.case.batch_size):
            self.bare_model.embed_patches(self.pixels[: self.case.patches - first])

    def decode(self) -> None:
        """Reading alone, on one core."""
        for name in self.names:
            self.source.read(name)

    def fill(self, folder: Path, names: list[str], workers: int) -> EmbeddingStore:
        """All of `embed_patches_once`."""
        settings = EmbeddingSettings(folder, self.case.dtype, batch_size=self.case.batch_size, num_workers=workers)
        return embed_patches_once(names, self.source, self.model, self.processor, self.accelerator, settings)

    def fill_anew(self, workers: int) -> None:
        """Fill a store that is thrown away."""
        with tempfile.TemporaryDirectory() as folder:
            self.fill(Path(folder), self.names, workers)


def _reading(rows: int) -> Section:
    """Look-up and random reading in a store of skin's size."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        names = pa.array(sparse_store(Path(folder), rows), pa.large_string())
        wanted = names.take(pa.array(rng.integers(0, rows, TRAINING_REGIONS * 25 * rows // UNIQUE_PATCHES)))
        before = _private_megabytes()
        start = time.perf_counter()
        store = EmbeddingStore.open(folder)
        opened = time.perf_counter()
        found = store.rows(wanted)
        looked_up = time.perf_counter()
        held = _private_megabytes()
        if wanted.to_pylist()[:100] != names.take(pa.array(found[:100])).to_pylist():
            raise RuntimeError("The rows that were looked up are not those of the names.")
        scattered = rng.integers(0, rows, (60, 256, 25))
        neighbours = rng.integers(0, rows - 25, (60, 256, 1)) + np.arange(25)
        figures = {
            "patches": rows,
            "bytes per patch on disk": sum(shard.size for shard in store.index.shards) / rows,
            "opening, ms": (opened - start) * 1e3,
            f"looking up {len(wanted):,} names, s": looked_up - opened,
            "memory that the look-up keeps, MB": held - before,
            "a batch (256, 25) of scattered rows, ms": _gather_milliseconds(store, scattered),
            "a batch (256, 25), 25 neighbours a region, ms": _gather_milliseconds(store, neighbours),
            "memory that reading keeps, MB": _private_megabytes() - held,
        }
    notes = (
        "The embeddings, 1024 wide float16, are holes in sparse files: reading them takes memory as real ones do, but "
        "no disk. Batches are read once the system has their pages. Memory is the process's own; mapped files do not "
        "count, since the system drops them when it needs room."
    )
    return Section("Reading a store of skin's size", notes, [{"what": k, "value": v} for k, v in figures.items()])


def sparse_store(folder: Path, rows: int, hidden: int = 1024) -> list[str]:
    """Write a store of full size whose embeddings are holes in sparse files: all zeros, and no disk is filled.

    Args:
        folder: Of the store; empty.
        rows: Number of patches.
        hidden: Values of an embedding.

    Returns:
        The names of the patches, in the order of the rows.
    """
    names = [f"slide-{i // 700:04d}_x{i % 700:05d}_y{i * 7 % 9973:05d}.jpg" for i in range(rows)]
    shards = []
    for start in range(0, rows, SHARD_SIZE):
        part = names[start : start + SHARD_SIZE]
        path = folder / shard_file(pa.array(part))
        _write_sparse_shard(path, part, hidden)
        shards.append(Shard(path.name, len(part), path.stat().st_size, "not computed"))
    StoreIndex({}, hidden, tuple(shards)).write(folder)
    return names


def _write_sparse_shard(path: Path, names: list[str], hidden: int) -> None:
    text = "".join(names).encode()
    offsets = np.cumsum([0, *map(len, names)], dtype=np.int64)
    ends = np.cumsum([0, offsets.nbytes, len(text), len(names) * hidden * 2]).tolist()
    shapes = {
        "name_offsets": ("I64", [len(offsets)]),
        "name_bytes": ("U8", [len(text)]),
        "embeddings": ("F16", [len(names), hidden]),
    }
    header = {
        key: {"dtype": dtype, "shape": shape, "data_offsets": ends[i : i + 2]}
        for i, (key, (dtype, shape)) in enumerate(shapes.items())
    }
    packed = json.dumps(header).encode()
    packed += b" " * (-len(packed) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(packed)) + packed + offsets.tobytes() + text)
        file.truncate(8 + len(packed) + ends[-1])


def _private_megabytes() -> float:
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) / 1024


def _gather_milliseconds(store: EmbeddingStore, batches: np.ndarray) -> float:
    """Median over batches of rows, `(batches, 256, 25)`, each read twice: the first time brings the pages."""
    times = []
    for rows in batches:
        store[rows]
        start = time.perf_counter()
        store[rows]
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3
