"""Training the head from an embedding store, by the loop of train.py, beside a plain loop around a default DataLoader.

Both train the published head with AdamW on the same store. The plain way is what one writes first: a data set that
returns one region as float32, which the loader stacks to batches.
"""

import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import get_cosine_schedule_with_warmup

from spider_tools import remote_code
from spider_tools.data.grid import RegionGrid
from spider_tools.data.loaders import EmbeddedBatchLoader, EmbeddedRegions
from spider_tools.embeddings.store import EmbeddingStore
from spider_tools.embeddings.store_index import add_shard, prepare_store
from spider_tools.launching import make_accelerator
from spider_tools.training.batches import BatchPlan, MicroBatchSampler
from spider_tools.training.loop import fit, optimizer_step
from spider_tools.training.progress import Progress
from spider_tools.training.settings import TrainingSettings
from spider_tools.training.setup import assemble
from spider_tools.training.starting_model import starting_model

from .embedding_store import sparse_store
from .measuring import Goal, Options, Section, alternate, comparison

CLASSES = 24

# One layer of Hibou-L's width: training from a store uses nothing of the backbone but that.
BACKBONE = {"hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 1, "mlp_ratio": 1, "patch_size": 14}


@dataclass(frozen=True)
class Size:
    """How much to train.

    Attributes:
        regions: Of an epoch.
        slides: That they lie on.
        side: Patches along a side of each slide, which is a square full of patches.
        batch_size: Regions per step.
        steps: Of each run of a way that is compared.
        rounds: Runs of each way.
    """

    regions: int = 160_000
    slides: int = 150
    side: int = 134
    batch_size: int = 256
    steps: int = 30
    rounds: int = 5


QUICK = Size(regions=640, slides=2, side=20, batch_size=32, steps=2, rounds=1)


def measure(options: Options) -> list[Section]:
    """See the module."""
    size = QUICK if options.quick else Size()
    logging.getLogger("accelerate").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "small").mkdir()
        check_loaders(folder / "small")
        (folder / "store").mkdir()
        sparse_store(folder / "store", size.slides * size.side**2)
        training = HeadTraining(size, EmbeddingStore.open(folder / "store"), folder)
        return [training.whole_epoch(), training.comparison(options.device)]


def check_loaders(folder: Path) -> None:
    """Compare our loader's batches with the same regions read the plain way, from a store of random embeddings."""
    prepare_store(folder, {}, 16)
    patches = QUICK.slides * QUICK.side**2
    embeddings = torch.randn(patches, 16, generator=torch.Generator().manual_seed(0)).half()
    add_shard(folder, pa.array([f"{number:04d}" for number in range(patches)], pa.large_string()), embeddings)
    store, grid = EmbeddingStore.open(folder), synthetic_grid(QUICK)
    sampler = MicroBatchSampler(BatchPlan(QUICK.batch_size), grid, np.ones(CLASSES), process=0, accumulation=1)
    plain, seen = PlainRegions(grid, store), 0
    for batch in EmbeddedBatchLoader(EmbeddedRegions(grid, store), sampler):
        regions = [plain[region] for region in batch["regions"].tolist()]
        seen += len(regions)
        if not torch.equal(batch["patch_embeddings"].float(), torch.stack([region[0] for region in regions])):
            raise RuntimeError("The loaders bring different embeddings.")
        if batch["labels"].tolist() != [region[1] for region in regions]:
            raise RuntimeError("The loaders bring different labels.")
    if seen != len(grid):
        raise RuntimeError(f"Our loader brings {seen} of {len(grid)} regions.")


class HeadTraining:
    """The published head in training, by our loop and by the plain one.

    Args:
        size: How much to train.
        store: The embeddings.
        folder: For what a run writes.
    """

    def __init__(self, size: Size, store: EmbeddingStore, folder: Path) -> None:
        self.size = size
        self.store = store
        self.grid = synthetic_grid(size)
        (folder / "backbone.json").write_text(json.dumps({**BACKBONE, "image_size": 224}))
        settings = TrainingSettings(
            output_dir=folder / "run",
            backbone="random",
            backbone_config=str(folder / "backbone.json"),
            epochs=1,
            batch_size=size.batch_size,
        )
        precision = "fp16" if torch.cuda.is_available() else "no"
        model = starting_model(settings, [f"Class {number:02d}" for number in range(CLASSES)], 5, 224)
        # Regions that are numbers only; everything from the loader on is that of train.py.
        self.setup = assemble(
            make_accelerator(mixed_precision=precision),
            settings,
            model,
            remote_code.image_processor_class()(),
            {"train": EmbeddedRegions(self.grid, store)},
        )
        self.loader = TimedLoader(self.setup.loader)
        self.setup.loader = self.loader

    def whole_epoch(self) -> Section:
        """An epoch by `fit`, with its progress bar, schedule and checkpoint."""
        started = time.perf_counter()
        progress = fit(self.setup, Progress())
        whole = time.perf_counter() - started
        seconds = self.size.regions / progress.history[0]["regions_per_second"]
        waited = sum(self.loader.waits)
        row = {
            "regions": self.size.regions,
            "seconds": seconds,
            "with the checkpoint, s": whole,
            "regions/s": self.size.regions / seconds,
            "ms per step": seconds / len(self.loader.waits) * 1e3,
            "waiting for the loader, ms per step": statistics.mean(self.loader.waits) * 1e3,
            "waiting": f"{waited / seconds:.1%}",
        }
        goals = [
            Goal("an epoch of 160,000 regions from the store, s", seconds * 160_000 / self.size.regions, 60, False),
            Goal("share of the epoch in which the loop waits for the loader", waited / seconds, 0.2, False),
        ]
        notes = (
            f"The epoch of train.py itself, {self.size.regions:,} regions in batches of {self.size.batch_size}, all "
            f"steps measured. The store has {len(self.store):,} patches, 1024 wide float16, {self.size.slides} slides "
            "one after the other, each column by column; its embeddings are holes in sparse files, which reading "
            "brings into memory as it would real ones, without a disk."
        )
        return Section("An epoch of head training from the store", notes, [row], goals)

    def comparison(self, device: torch.device) -> Section:
        """Steps of both loops in turn, and of ours with a batch that is there already."""
        size = self.size
        batch = next(iter(self.loader.inner))
        ways: dict[str, Callable[[], None]] = {
            "train.py, a batch in memory": partial(self.steps, [batch] * size.steps),
            "train.py": partial(self.steps, self.loader.inner),
        }
        for workers in (0, 2):
            ways[f"plain, {workers} workers"] = PlainLoop(self, workers, device)
        seconds = alternate(ways, size.rounds, device)
        rows = comparison(seconds, size.steps * size.batch_size, "region", "plain, 0 workers")
        epochs = {row["way"]: row["ms per region"] * 160 for row in rows}
        rows = [{**row, "an epoch of 160,000, s": epochs[row["way"]]} for row in rows]
        notes = (
            f"{size.steps} steps in each run, loaders started anew. Plain: `Dataset` of single regions, default "
            "`DataLoader` with shuffling, one process or two workers, the same head, loss, optimizer and schedule, no "
            "accelerate. A batch in memory: what the loop would take if loading cost nothing."
        )
        return Section("Our loop beside a plain one", notes, rows)

    def steps(self, batches: Iterable[Any]) -> None:
        """Steps of train.py."""
        self.setup.classifier.train()
        iterator = iter(batches)
        for _ in range(self.size.steps):
            optimizer_step(self.setup, iterator)


class TimedLoader:
    """Notes how long every batch was waited for.

    Args:
        inner: The loader.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.waits: list[float] = []

    def __iter__(self) -> Iterator[Any]:
        """Its batches."""
        batches = iter(self.inner)
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                return
            self.waits.append(time.perf_counter() - started)
            yield batch


class PlainRegions(Dataset):
    """One region at a time, as float32.

    Args:
        grid: The regions.
        store: Their embeddings.
    """

    def __init__(self, grid: RegionGrid, store: EmbeddingStore) -> None:
        self._grid = grid
        self._store = store

    def __len__(self) -> int:
        """Number of regions."""
        return len(self._grid)

    def __getitem__(self, region: int) -> tuple[torch.Tensor, int]:
        """Embeddings float32 `(patches, hidden)`, and the label."""
        return self._store[self._grid.rows[region]].float(), int(self._grid.labels[region])


class PlainLoop:
    """The loop as one writes it first.

    Args:
        training: Whose model and regions it takes.
        workers: Of the loader.
        device: Where to train.
    """

    def __init__(self, training: HeadTraining, workers: int, device: torch.device) -> None:
        self._steps = training.size.steps
        self._device = device
        ours = training.setup.model
        self._model = type(ours)(ours.config).to(device)
        self._loader = DataLoader(
            PlainRegions(training.grid, training.store),
            batch_size=training.size.batch_size,
            shuffle=True,
            num_workers=workers,
            pin_memory=device.type == "cuda",
        )
        trained = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(trained, lr=4e-4, weight_decay=0.01)
        epoch = -(-training.size.regions // training.size.batch_size)
        self._schedule = get_cosine_schedule_with_warmup(self._optimizer, epoch, 10 * epoch)

    def __call__(self) -> None:
        """Train for some steps."""
        self._model.train()
        for _, (embeddings, labels) in zip(range(self._steps), self._loader):
            embeddings, labels = embeddings.to(self._device), labels.to(self._device)
            with torch.autocast(self._device.type, torch.float16, enabled=self._device.type == "cuda"):
                logits = self._model(patch_embeddings=embeddings).logits
            loss = nn.functional.cross_entropy(logits.float(), labels, label_smoothing=0.2)
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
            self._schedule.step()


def synthetic_grid(size: Size) -> RegionGrid:
    """Regions at random places of the slides, so that neighbours share patches as in a real data set."""
    rng = np.random.default_rng(0)
    slides = rng.integers(0, size.slides, size.regions)
    left, top = rng.integers(0, size.side - 4, (2, size.regions, 1))
    row, column = np.divmod(np.arange(25), 5)
    return RegionGrid(
        rows=(slides[:, None] * size.side + left + column) * size.side + top + row,
        labels=rng.integers(0, CLASSES, size.regions),
        slides=slides,
    )
