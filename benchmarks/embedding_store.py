"""Measure the embedding store: how fast it fills, how fast it reads, and what it saves an epoch of head training.

Run from the repository's root: `python benchmarks/embedding_store.py`. It takes about four minutes on two cores and
writes `benchmarks/results/embedding_store.md` and `.json`.
"""

import argparse
import json
import os
import platform
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import accelerate
import numpy as np
import pyarrow as pa
import safetensors
import torch
import transformers
from accelerate import Accelerator
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from spider_tools import remote
from spider_tools.features import EmbeddingSettings, embed_patches_once
from spider_tools.store import EmbeddingStore, Shard, StoreIndex, shard_file

RESULTS = Path(__file__).resolve().parent / "results"
SIDE = 224
SHARD = 4096

# SPIDER-skin, the largest of the published data sets: its paper gives these numbers.
UNIQUE_PATCHES = 2_696_987
TRAINING_REGIONS, TEST_REGIONS = 131_164, 28_690

SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2, "patch_size": 28}
VIT_S = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "patch_size": 14}


class PatchFolder:
    """JPEG files, decoded where they are read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fingerprint = "benchmark"

    def read(self, name: str) -> np.ndarray:
        """One patch, uint8 `(224, 224, 3)`."""
        with Image.open(self.folder / name) as image:
            return np.asarray(image.convert("RGB"))

    def fill(self, count: int) -> list[str]:
        """Write patches of coloured texture, about 20 kB each as real ones are; returns their names."""
        rng = np.random.default_rng(0)
        names = [f"{i:06d}.jpg" for i in range(count)]
        for name in names:
            coarse = Image.fromarray(rng.integers(90, 256, (56, 56, 3), dtype=np.uint8)).resize((SIDE, SIDE))
            grain = rng.integers(-12, 13, (SIDE, SIDE, 1))
            Image.fromarray((np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8)).save(self.folder / name)
        return names


@dataclass(frozen=True)
class Case:
    """A backbone to fill a store with."""

    name: str
    model: torch.nn.Module
    patches: int
    batch_size: int


def new_model(backbone: dict | None) -> torch.nn.Module:
    """A SPIDER model with random weights; Hibou-L's architecture by default."""
    torch.manual_seed(0)
    fields = {} if backbone is None else {"backbone_config": {**backbone, "image_size": SIDE}}
    return remote.model_class()(remote.config_class()(num_labels=24, **fields)).eval()


def bare_seconds(case: Case) -> float:
    """Time of the backbone alone, on normalised patches that are in memory already."""
    pixels = torch.randn(case.batch_size, 3, SIDE, SIDE)
    start = time.perf_counter()
    with torch.no_grad():
        for first in range(0, case.patches, case.batch_size):
            case.model.embed_patches(pixels[: case.patches - first])
    return time.perf_counter() - start


@contextmanager
def timed_backbone(model: torch.nn.Module) -> Iterator[list[float]]:
    """Collect the seconds of every call of `model.embed_patches`."""
    times: list[float] = []
    embed_patches = model.embed_patches

    def timed(pixel_values: torch.Tensor) -> torch.Tensor:
        start = time.perf_counter()
        embeddings = embed_patches(pixel_values)
        times.append(time.perf_counter() - start)
        return embeddings

    model.embed_patches = timed
    yield times
    del model.embed_patches


def measure_filling(case: Case, folder: Path) -> dict:
    """Patches per second of the whole of `embed_patches_once`, and of the backbone alone before and after it."""
    source = PatchFolder(folder)
    names = source.fill(case.patches)
    settings = EmbeddingSettings(folder / "stores", batch_size=case.batch_size)
    processor = remote.image_processor_class()()
    with torch.no_grad():
        case.model.embed_patches(torch.randn(1, 3, SIDE, SIDE))
    before = bare_seconds(case)
    start = time.perf_counter()
    with timed_backbone(case.model) as times:
        embed_patches_once(names, source, case.model, processor, Accelerator(cpu=True), settings)
    whole = time.perf_counter() - start
    after = bare_seconds(case)
    bare = (before + after) / 2
    return {
        "backbone": case.name,
        "patches": case.patches,
        "bare_patches_per_second": case.patches / bare,
        "whole_patches_per_second": case.patches / whole,
        "ratio": bare / whole,
        "backbone_share": sum(times) / whole,
        "bare_spread": abs(before - after) / bare,
    }


def sparse_store(folder: Path, rows: int, hidden: int) -> list[str]:
    """A store of full size whose embeddings are holes in sparse files: all zeros, and no disk is filled."""
    names = [f"slide-{i // 700:04d}_x{i % 700:05d}_y{i * 7 % 9973:05d}.jpg" for i in range(rows)]
    shards = []
    for start in range(0, rows, SHARD):
        part = names[start : start + SHARD]
        text = "".join(part).encode()
        offsets = np.cumsum([0, *map(len, part)], dtype=np.int64)
        ends = np.cumsum([0, offsets.nbytes, len(text), len(part) * hidden * 2]).tolist()
        shapes = {"name_offsets": ("I64", [len(offsets)]), "name_bytes": ("U8", [len(text)])}
        shapes["embeddings"] = ("F16", [len(part), hidden])
        header = {
            key: {"dtype": dtype, "shape": shape, "data_offsets": ends[i : i + 2]}
            for i, (key, (dtype, shape)) in enumerate(shapes.items())
        }
        packed = json.dumps(header).encode()
        packed += b" " * (-len(packed) % 8)
        path = folder / shard_file(pa.array(part))
        with path.open("wb") as file:
            file.write(struct.pack("<Q", len(packed)) + packed + offsets.tobytes() + text)
            file.truncate(8 + len(packed) + ends[-1])
        shards.append(Shard(path.name, len(part), path.stat().st_size, "not computed"))
    StoreIndex({}, hidden, tuple(shards)).write(folder)
    return names


def private_megabytes() -> float:
    """Memory that the process cannot give back: the mapped files do not count, the system drops them when needed."""
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) / 1024


def gather_milliseconds(store: EmbeddingStore, first: np.ndarray) -> float:
    """Median time to read batches of rows `(256, 25)`, once the file system has the pages."""
    times = []
    for rows in first:
        start = time.perf_counter()
        store[rows]
        times.append(time.perf_counter() - start)
    return statistics.median(times[len(times) // 2 :]) * 1000


def measure_reading(folder: Path) -> tuple[dict, EmbeddingStore]:
    """Look-up and random reading in a store of skin's size."""
    names = pa.array(sparse_store(folder, UNIQUE_PATCHES, 1024), pa.large_string())
    rng = np.random.default_rng(0)
    wanted = names.take(pa.array(rng.integers(0, len(names), TRAINING_REGIONS * 25)))
    before = private_megabytes()
    start = time.perf_counter()
    store = EmbeddingStore.open(folder)
    opened = time.perf_counter()
    rows = store.rows(wanted)
    looked_up = time.perf_counter()
    after_rows = private_megabytes()
    assert len(rows) == len(wanted)
    scattered = rng.integers(0, len(store), (60, 256, 25))
    neighbours = rng.integers(0, len(store) - 25, (60, 256, 1)) + np.arange(25)
    result = {
        "rows": len(store),
        "gigabytes": len(store) * store.hidden_size * 2 / 1e9,
        "open_seconds": opened - start,
        "look_up_names": len(wanted),
        "look_up_seconds": looked_up - opened,
        "look_up_private_megabytes": after_rows - before,
        "scattered_batch_milliseconds": gather_milliseconds(store, scattered),
        "neighbours_batch_milliseconds": gather_milliseconds(store, neighbours),
        "reading_private_megabytes": private_megabytes() - after_rows,
    }
    return result, store


def measure_epoch(model: torch.nn.Module, store: EmbeddingStore, patches_per_second: float, steps: int) -> dict:
    """An epoch of head training from the store, against embedding its patches from pixels."""
    rng = np.random.default_rng(1)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 4e-4)
    batch = 256
    start = 0.0
    for step in range(steps + 3):
        if step == 3:
            start = time.perf_counter()
        rows = rng.integers(0, len(store) - 25, (batch, 1)) + np.arange(25)
        logits = model(patch_embeddings=store[rows].float()).logits
        loss = torch.nn.functional.cross_entropy(logits, torch.zeros(batch, dtype=torch.long), label_smoothing=0.2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    from_store = (time.perf_counter() - start) / steps * TRAINING_REGIONS / batch
    unique = UNIQUE_PATCHES * TRAINING_REGIONS / (TRAINING_REGIONS + TEST_REGIONS)
    return {
        "steps_measured": steps,
        "store_seconds": from_store,
        "pixels_once_seconds": unique / patches_per_second,
        "pixels_once_ratio": unique / patches_per_second / from_store,
        "pixels_all_seconds": TRAINING_REGIONS * 25 / patches_per_second,
        "pixels_all_ratio": TRAINING_REGIONS * 25 / patches_per_second / from_store,
    }


def machine() -> dict:
    """What the numbers were measured on."""
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu)
    versions = {module.__name__: module.__version__ for module in (torch, transformers, accelerate, safetensors)}
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_at_start": os.getloadavg()[0],
        "python": platform.python_version(),
        **versions,
    }


def as_markdown(results: dict) -> str:
    """The tables, for people."""
    reading, epoch = results["reading"], results["epoch"]
    filling = [
        f"| {r['backbone']} | {r['patches']} | {r['bare_patches_per_second']:.2f} | "
        f"{r['whole_patches_per_second']:.2f} | **{r['ratio']:.2f}** | {r['backbone_share']:.2f} | "
        f"{r['bare_spread']:.0%} |"
        for r in results["filling"]
    ]
    lines = [
        "# The embedding store, measured",
        "",
        ", ".join(f"{key} {value}" for key, value in results["machine"].items()),
        "",
        "## Filling: `embed_patches_once` against the bare backbone",
        "",
        "Whole = hashing the weights, starting 2 workers, decoding, normalising, embedding, writing; float32 on CPU.",
        "Bare = the backbone on normalised patches in memory, mean of a run before and one after; how far the two are "
        "apart shows how much else the machine had to do. Share = of the whole's time, that in which the backbone ran.",
        "",
        "| backbone | patches | bare patches/s | whole patches/s | whole / bare | share | before vs after |",
        "|---|---|---|---|---|---|---|",
        *filling,
        "",
        "## Reading: a store of skin's size",
        "",
        "The embeddings are holes in sparse files: reading them takes memory as real ones do, but no disk.",
        "",
        "| | |",
        "|---|---|",
        f"| rows | {reading['rows']:,} of 1024 float16, {reading['gigabytes']:.1f} GB |",
        f"| open | {reading['open_seconds']:.2f} s |",
        f"| look up {reading['look_up_names']:,} names | {reading['look_up_seconds']:.1f} s, "
        f"{reading['look_up_private_megabytes']:.0f} MB |",
        f"| a batch (256, 25), rows scattered | {reading['scattered_batch_milliseconds']:.1f} ms |",
        f"| a batch (256, 25), 25 neighbours a region | {reading['neighbours_batch_milliseconds']:.1f} ms |",
        f"| memory that reading holds on to | {reading['reading_private_megabytes']:.0f} MB |",
        "",
        "## An epoch of head training, skin (131,164 regions, batch 256)",
        "",
        f"From the store: {epoch['steps_measured']} steps measured (reading, head forward and backward, AdamW), times "
        "513 steps. From pixels: the number of patches divided by the bare Hibou-L's patches/s above, so without the "
        "head and without decoding: a lower bound.",
        "",
        "| epoch | time | ratio |",
        "|---|---|---|",
        f"| from the store | {epoch['store_seconds']:.0f} s | 1 |",
        f"| from pixels, each unique patch once per epoch | {epoch['pixels_once_seconds'] / 3600:.0f} h | "
        f"**{epoch['pixels_once_ratio']:,.0f}** |",
        f"| from pixels, 25 patches per region | {epoch['pixels_all_seconds'] / 3600:.0f} h | "
        f"**{epoch['pixels_all_ratio']:,.0f}** |",
        "",
    ]
    return "\n".join(lines)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULTS / "embedding_store.md", help="Markdown; JSON beside it")
    parser.add_argument("--hibou_patches", type=int, default=64, help="patches for Hibou-L, the slowest part")
    parser.add_argument("--steps", type=int, default=40, help="steps of head training")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    results: dict = {"machine": machine(), "filling": []}
    hibou = new_model(None)
    cases = [
        Case("Hibou-L (random weights)", hibou, args.hibou_patches, batch_size=8),
        Case("ViT-S/14", new_model(VIT_S), 128, batch_size=32),
        Case("small recipe (64 wide, 2 layers)", new_model(SMALL), 3000, batch_size=64),
    ]
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            results["filling"].append(measure_filling(case, Path(folder)))
    with tempfile.TemporaryDirectory() as folder:
        results["reading"], store = measure_reading(Path(folder))
        rate = results["filling"][0]["bare_patches_per_second"]
        results["epoch"] = measure_epoch(hibou, store, rate, args.steps)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.with_suffix(".json").write_text(json.dumps(results, indent=2) + "\n")
    args.output.write_text(as_markdown(results))
    print(as_markdown(results))


if __name__ == "__main__":
    main(parse_args())
