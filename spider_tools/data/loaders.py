"""The loaders that bring regions, from embeddings or from pixels."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Optional

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..workers import WatchedLoader, usable_workers
from .grid import RegionGrid


@dataclass(frozen=True)
class MicroBatch:
    """One process's part of an optimizer step that goes through the model at once.

    Attributes:
        regions: int64 `(n,)` numbers of regions.
        weights: float32 `(n,)` shares in the loss of the whole step, which sum to 1 over all its parts.
        context_mask: bool `(n, patches)`, False where context is dropped.
        turn: From 0 to 7, how the regions are turned and mirrored; one for all, so that they still share patches.
        views: int64 `(n,)`, the view in which each region is shown; None for the first of all. Only `EmbeddedViews` has
            others.
    """

    regions: np.ndarray
    weights: np.ndarray
    context_mask: np.ndarray
    turn: int
    views: Optional[np.ndarray] = None

    def of(self, part: np.ndarray) -> "MicroBatch":
        """Some of its regions, by their places in it."""
        views = None if self.views is None else self.views[part]
        return MicroBatch(self.regions[part], self.weights[part], self.context_mask[part], self.turn, views)


class EmbeddedRegions(Dataset):
    """Regions from an embedding store: no image is read.

    Args:
        grid: Regions, their rows numbering the store's.
        store: `store[rows]` gives float16 `(..., hidden)`. Kept as an attribute.
    """

    def __init__(self, grid: RegionGrid, store: Any) -> None:
        self.grid = grid
        self.store = store

    def __len__(self) -> int:
        """Number of regions."""
        return len(self.grid)

    def centers(self, numbers: np.ndarray) -> "EmbeddedRegions":
        """See `RegionGrid.centers`."""
        return EmbeddedRegions(self.grid.centers(numbers), self.store)

    @property
    def bytes_per_region(self) -> int:
        """Size of a region of a batch."""
        return self.store[self.grid.rows[:1]].nbytes

    def __getitem__(self, batch: MicroBatch) -> dict[str, torch.Tensor]:
        """`patch_embeddings` float16 `(n, patches, hidden)` and what `_common` lists."""
        rows = self.grid.rows[batch.regions]
        return {"patch_embeddings": self.store[rows], **_common(self.grid, batch)}


class EmbeddedViews(EmbeddedRegions):
    """The same regions in several views, each from an embedding store of its own.

    Args:
        views: Of the same regions in the same order; the first is the undisturbed one. A turned view has a turned grid.
    """

    def __init__(self, views: Sequence[EmbeddedRegions]) -> None:
        super().__init__(views[0].grid, views[0].store)
        self._views = views

    def __getitem__(self, batch: MicroBatch) -> dict[str, torch.Tensor]:
        """As the base class, every region in its view; the batch's `context_mask` is of the grid of that view."""
        if batch.views is None:
            return super().__getitem__(batch)
        shown = np.unique(batch.views)
        places = [np.flatnonzero(batch.views == view) for view in shown]
        parts = [self._views[view][batch.of(place)] for view, place in zip(shown, places)]
        back = torch.from_numpy(np.argsort(np.concatenate(places)))
        return {key: torch.cat([part[key] for part in parts])[back] for key in parts[0]}


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

    def centers(self, numbers: np.ndarray) -> "PixelRegions":
        """See `RegionGrid.centers`."""
        return PixelRegions(self.grid.centers(numbers), self._names, self._source)

    @property
    def bytes_per_region(self) -> int:
        """Size of a region of a batch, if it shares no patch."""
        return self.grid.rows.shape[1] * self._source.patch_size**2 * 3

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


def micro_batch_loader(dataset: Any, sampler: Any, num_workers: int) -> DataLoader:
    """A loader that takes whole micro-batches; drawing from it leaves torch's random state alone.

    Args:
        dataset: `PixelRegions` or `EmbeddedRegions`.
        sampler: Micro-batches, the first of which is as large as any.
        num_workers: Fewer are taken where shared memory has no room for so many.
    """
    if num_workers:
        first = next(iter(sampler), None)
        regions = 0 if first is None else len(first.regions)
        num_workers = usable_workers(num_workers, regions * dataset.bytes_per_region, "regions to train on")
    return WatchedLoader(
        dataset,
        num_workers,
        batch_size=None,
        sampler=sampler,
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
    """Every region once, in order, with all its context; `accelerator.prepare` shares it between processes.

    Fewer workers are taken where shared memory has no room for so many. A prepared loader keeps the time-out, but not
    the words of its end: put `worker_failures_in_words` around the loop.
    """
    if num_workers:
        num_workers = usable_workers(num_workers, batch_size * dataset.bytes_per_region, "regions to evaluate")
    return WatchedLoader(
        range(len(dataset)),
        num_workers,
        batch_size=batch_size,
        collate_fn=partial(_with_all_context, dataset),
        generator=torch.Generator(),
    )


def _with_all_context(dataset: Any, numbers: list[int]) -> dict[str, torch.Tensor]:
    regions = np.array(numbers)
    keep = np.ones((len(regions), dataset.grid.rows.shape[1]), dtype=bool)
    return dataset[MicroBatch(regions, np.ones(len(regions), dtype=np.float32), keep, turn=0)]


def _common(grid: RegionGrid, batch: MicroBatch) -> dict[str, torch.Tensor]:
    """`labels` int64 `(n,)`, `weights` float32 `(n,)`, `regions` int64 `(n,)`, `context_mask` bool `(n, patches)`."""
    present = grid.rows[batch.regions] >= 0
    return {
        "labels": torch.from_numpy(grid.labels[batch.regions]),
        "weights": torch.from_numpy(batch.weights),
        "regions": torch.from_numpy(batch.regions),
        "context_mask": torch.from_numpy(present & batch.context_mask),
    }
