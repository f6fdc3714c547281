"""Which regions form each optimizer step, and the loaders that bring them.

An effective batch is the same whatever the number of processes and accumulation steps: every process computes the
whole plan and takes its part of it. Each region of a batch carries its weight in the batch's loss, so that the parts
may differ in size and their gradients still add up to that of the whole.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler


@dataclass(frozen=True)
class RegionGrid:
    """The regions of one split as numbers.

    Attributes:
        rows: int64 `(regions, patches)`, row-major: rows of the feature source, -1 where there is no patch.
        labels: int64 `(regions,)`.
        slides: int64 `(regions,)`, equal where the slide is the same.
    """

    rows: np.ndarray
    labels: np.ndarray
    slides: np.ndarray

    def __len__(self) -> int:
        """Number of regions."""
        return len(self.labels)


@dataclass(frozen=True)
class MicroBatch:
    """One process's part of an optimizer step that goes through the model at once.

    Attributes:
        regions: int64 `(n,)` numbers of regions.
        weights: float32 `(n,)` shares in the loss of the whole step, which sum to 1 over all its parts.
        context_mask: bool `(n, patches)`, False where context is dropped.
        turn: From 0 to 7, how the regions are turned and mirrored; one for all, so that they still share patches.
    """

    regions: np.ndarray
    weights: np.ndarray
    context_mask: np.ndarray
    turn: int


@dataclass(frozen=True)
class BatchPlan:
    """How the regions of an epoch are drawn.

    Attributes:
        batch_size: Regions per optimizer step over all processes; the last batch of an epoch may be smaller.
        parts: Processes times accumulation steps.
        seed: With the epoch it decides everything.
        order: `"random"`, or `"slide"` to keep the regions of a slide together.
        context_dropout: Chance that a patch other than the centre is masked.
        flip: Whether the regions of a step are turned and mirrored at random, all alike.
    """

    batch_size: int
    parts: int = 1
    seed: int = 0
    order: str = "random"
    context_dropout: float = 0.0
    flip: bool = False

    def steps(self, regions: int) -> int:
        """Optimizer steps of an epoch."""
        return -(-regions // self.batch_size)

    def epoch(self, grid: RegionGrid, class_weights: np.ndarray, epoch: int) -> Iterator[list[MicroBatch]]:
        """The parts of each optimizer step of an epoch, in order.

        Args:
            grid: The regions.
            class_weights: float `(classes,)`, weight of a region in the loss by its class.
            epoch: Number of the epoch, from 0.
        """
        rng = np.random.default_rng([self.seed, epoch])
        order = _slide_order(grid.slides, rng) if self.order == "slide" else rng.permutation(len(grid))
        patches = grid.rows.shape[1]
        for start in range(0, len(grid), self.batch_size):
            regions = order[start : start + self.batch_size]
            keep = rng.random((len(regions), patches)) >= self.context_dropout
            keep[:, patches // 2] = True
            turn = int(rng.integers(8)) if self.flip else 0
            weights = class_weights[grid.labels[regions]]
            yield self._cut(regions, (weights / weights.sum()).astype(np.float32), keep, turn)

    def _cut(self, regions: np.ndarray, weights: np.ndarray, keep: np.ndarray, turn: int) -> list[MicroBatch]:
        parts = []
        for part in np.array_split(np.arange(len(regions)), self.parts):
            own = weights[part]
            if len(part) == 0:  # a process without a region still has to join the step: with one that weighs nothing
                part, own = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.float32)
            parts.append(MicroBatch(regions[part], own, keep[part], turn))
        return parts


class MicroBatchSampler(Sampler[MicroBatch]):
    """One process's micro-batches of an epoch, from any step on.

    Args:
        plan: How batches are drawn.
        grid: The regions.
        class_weights: float `(classes,)`.
        process: Number of this process.
        accumulation: Micro-batches per optimizer step of one process.
    """

    def __init__(
        self, plan: BatchPlan, grid: RegionGrid, class_weights: np.ndarray, process: int, accumulation: int
    ) -> None:
        self._plan = plan
        self._grid = grid
        self._class_weights = class_weights
        self._own = range(process * accumulation, (process + 1) * accumulation)
        self._epoch = self._first_step = 0

    def start_at(self, epoch: int, first_step: int = 0) -> None:
        """Choose the epoch and the first step of the next iteration."""
        self._epoch, self._first_step = epoch, first_step

    def __len__(self) -> int:
        """Micro-batches of a whole epoch."""
        return self._plan.steps(len(self._grid)) * len(self._own)

    def __iter__(self) -> Iterator[MicroBatch]:
        """Micro-batches, in the order of the steps."""
        for step, parts in enumerate(self._plan.epoch(self._grid, self._class_weights, self._epoch)):
            if step < self._first_step:
                continue
            yield from (parts[number] for number in self._own)


class EmbeddedRegions(Dataset):
    """Regions from an embedding store: no image is read.

    Args:
        grid: Regions, their rows numbering the store's.
        store: `store[rows]` gives float16 `(..., hidden)`.
    """

    def __init__(self, grid: RegionGrid, store: Any) -> None:
        self.grid = grid
        self._store = store

    def __len__(self) -> int:
        """Number of regions."""
        return len(self.grid)

    def __getitem__(self, batch: MicroBatch) -> dict[str, torch.Tensor]:
        """`patch_embeddings` float16 `(n, patches, hidden)` and what `_common` lists."""
        rows = self.grid.rows[batch.regions]
        return {"patch_embeddings": self._store[rows], **_common(self.grid, batch)}


class PixelRegions(Dataset):
    """Regions from pixels; a patch that several regions of a batch share is opened once.

    Args:
        grid: Regions, their rows numbering `names`.
        names: Unique patch names.
        source: `source.read(name)` gives uint8 `(P, P, 3)`.
    """

    def __init__(self, grid: RegionGrid, names: Sequence[str], source: Any) -> None:
        self.grid = grid
        self._names = names
        self._source = source

    def __len__(self) -> int:
        """Number of regions."""
        return len(self.grid)

    def __getitem__(self, batch: MicroBatch) -> dict[str, torch.Tensor]:
        """`patches` uint8 `(unique, P, P, 3)`, `patch_index` int64 `(n, patches)` into them, -1 where there is none."""
        rows = self.grid.rows[batch.regions]
        unique, index = np.unique(rows, return_inverse=True)
        index = index.reshape(rows.shape)
        if unique[0] < 0:
            unique, index = unique[1:], index - 1
        patches = np.stack([self._source.read(self._names[row]) for row in unique.tolist()])
        common = _common(self.grid, batch)
        if batch.turn:
            side = int(rows.shape[1] ** 0.5)
            patches = turn(patches, batch.turn, axes=(1, 2))
            index, present = (
                turn(grid.reshape(-1, side, side), batch.turn, axes=(1, 2)).reshape(rows.shape)
                for grid in (index, common["context_mask"].numpy())
            )
            common["context_mask"] = torch.from_numpy(present)
        return {"patches": torch.from_numpy(patches), "patch_index": torch.from_numpy(index), **common}


def turn(array: np.ndarray, number: int, axes: tuple[int, int]) -> np.ndarray:
    """One of the eight turns and mirrors of two axes of equal length; 0 changes nothing."""
    turned = np.rot90(array, number % 4, axes)
    return np.ascontiguousarray(np.flip(turned, axes[1]) if number >= 4 else turned)


def micro_batch_loader(dataset: Dataset, sampler: Any, num_workers: int) -> DataLoader:
    """A loader that takes whole micro-batches; drawing from it leaves torch's random state alone."""
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=sampler,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        generator=torch.Generator(),
    )


class EmbeddedBatchLoader:
    """Micro-batches from an embedding store, read by threads ahead of the model that they are for.

    Copying rows leaves the interpreter to the model, and several threads wait for a disk at once. Workers of a
    `DataLoader` would have to send what they read, which takes as long again as reading it.

    Args:
        regions: Where they are read.
        sampler: Which, in the order in which they come.
        pin_memory: Whether to place them where a GPU copies from without waiting.
    """

    _THREADS = 4

    def __init__(self, regions: EmbeddedRegions, sampler: Iterable[MicroBatch], pin_memory: bool = False) -> None:
        self._regions = regions
        self._sampler = sampler
        self._pin_memory = pin_memory

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """The micro-batches of one pass over the sampler; an error in reading is raised where its batch would come."""
        coming: deque[Future[dict[str, torch.Tensor]]] = deque()
        with ThreadPoolExecutor(self._THREADS) as readers:
            for batch in self._sampler:
                coming.append(readers.submit(self._read, batch))
                if len(coming) > self._THREADS:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()

    def _read(self, batch: MicroBatch) -> dict[str, torch.Tensor]:
        found = self._regions[batch]
        return {key: tensor.pin_memory() for key, tensor in found.items()} if self._pin_memory else found


def evaluation_loader(dataset: Any, batch_size: int, num_workers: int) -> DataLoader:
    """Every region once, in order, with all its context; `accelerator.prepare` shares it between processes."""
    return DataLoader(
        range(len(dataset)),
        batch_size=batch_size,
        collate_fn=partial(_with_all_context, dataset),
        num_workers=num_workers,
        generator=torch.Generator(),
    )


def _with_all_context(dataset: Any, numbers: list[int]) -> dict[str, torch.Tensor]:
    regions = np.array(numbers)
    keep = np.ones((len(regions), dataset.grid.rows.shape[1]), dtype=bool)
    return dataset[MicroBatch(regions, np.ones(len(regions), dtype=np.float32), keep, turn=0)]


def class_weights_of(labels: np.ndarray, classes: int, kind: str) -> np.ndarray:
    """float64 `(classes,)`: ones, or for `"balanced"` inversely proportional to the class counts, 1 on average."""
    if kind == "none":
        return np.ones(classes)
    counts = np.bincount(labels, minlength=classes)
    return len(labels) / (classes * np.maximum(counts, 1))


def _common(grid: RegionGrid, batch: MicroBatch) -> dict[str, torch.Tensor]:
    """`labels` int64 `(n,)`, `weights` float32 `(n,)`, `regions` int64 `(n,)`, `context_mask` bool `(n, patches)`."""
    present = grid.rows[batch.regions] >= 0
    return {
        "labels": torch.from_numpy(grid.labels[batch.regions]),
        "weights": torch.from_numpy(batch.weights),
        "regions": torch.from_numpy(batch.regions),
        "context_mask": torch.from_numpy(present & batch.context_mask),
    }


def _slide_order(slides: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Slides in random order, and the regions of each in random order."""
    by_slide = np.argsort(slides, kind="stable")
    groups = np.split(by_slide, np.flatnonzero(np.diff(slides[by_slide])) + 1)
    return np.concatenate([rng.permutation(groups[i]) for i in rng.permutation(len(groups))])
