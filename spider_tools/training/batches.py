"""Which regions form each optimizer step.

An effective batch is the same whatever the number of processes and accumulation steps: every process computes the
whole plan and takes its part of it. Each region of a batch carries its weight in the batch's loss, so that the parts
may differ in size and their gradients still add up to that of the whole.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from torch.utils.data import Sampler

from ..data.grid import RegionGrid
from ..data.loaders import MicroBatch


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
        views: In so many views the regions are there. Each region of a batch is shown in one of them, drawn anew every
            time with equal chances, so that an epoch has the same number of steps whatever their number.
    """

    batch_size: int
    parts: int = 1
    seed: int = 0
    order: str = "random"
    context_dropout: float = 0.0
    flip: bool = False
    views: int = 1

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
            # With one view nothing is drawn, so that a seed means what it always did.
            views = rng.integers(self.views, size=len(regions)) if self.views > 1 else np.zeros_like(regions)
            weights = class_weights[grid.labels[regions]]
            whole = MicroBatch(regions, (weights / weights.sum()).astype(np.float32), keep, turn, views)
            yield self._cut(whole)

    def _cut(self, whole: MicroBatch) -> list[MicroBatch]:
        parts = []
        for part in np.array_split(np.arange(len(whole.regions)), self.parts):
            own = whole.weights[part]
            if len(part) == 0:  # a process without a region still has to join the step: with one that weighs nothing
                part, own = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.float32)
            parts.append(replace(whole.of(part), weights=own))
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


def class_weights_of(labels: np.ndarray, classes: int, kind: str) -> np.ndarray:
    """float64 `(classes,)`: ones, or for `"balanced"` inversely proportional to the class counts, 1 on average."""
    if kind == "none":
        return np.ones(classes)
    counts = np.bincount(labels, minlength=classes)
    return len(labels) / (classes * np.maximum(counts, 1))


def _slide_order(slides: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Slides in random order, and the regions of each in random order."""
    by_slide = np.argsort(slides, kind="stable")
    groups = np.split(by_slide, np.flatnonzero(np.diff(slides[by_slide])) + 1)
    return np.concatenate([rng.permutation(groups[i]) for i in rng.permutation(len(groups))])
