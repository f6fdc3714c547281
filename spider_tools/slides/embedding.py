"""Embedding every patch of a slide once, while the next ones are read by other processes."""

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Optional, Union

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from xxhash import xxh3_128_digest

from ..slide_files.lattice import Lattice
from ..slide_files.slide_error import SlideError, UnreadableError
from ..slide_files.view import MOST_UNREADABLE, SlideView
from ..workers import WatchedLoader, usable_workers, worker_failures_in_words
from .backbone_clock import BackboneClock
from .model import SlideModel
from .saved_embeddings import EmbeddingTable, SavedEmbeddings
from .settings import SlideSettings

# Patches are read square by square of this many px: neighbours share tiles of the file, and squares of it fit into
# the caches of a reader, the rows of a large slide do not.
_SQUARE_PX = 1792
_MOST_UNSAVED = 4096
_MOST_KNOWN = 1024  # embeddings of patches that may come again


@dataclass(frozen=True, eq=False)
class Embedded:
    """What has been embedded.

    Attributes:
        patches: How many went through the backbone.
        unreadable: int64 `(n, 2)`, x and y of the upper left px of those that cannot be read, which are not saved.
        backbone_seconds: How long the backbone worked.
    """

    patches: int
    unreadable: np.ndarray
    backbone_seconds: float


def embed_slide(
    view: SlideView, corners: np.ndarray, model: SlideModel, saved: SavedEmbeddings, settings: SlideSettings
) -> Embedded:
    """Embed the patches that are not saved yet, and save them.

    Args:
        view: The slide at the model's um/px.
        corners: int64 `(n, 2)`, x and y of the upper left px of every patch in the view.
        model: Embeds them.
        saved: Gets the embeddings, every `settings.save_every` seconds.
        settings: Batch size and workers.

    Raises:
        SlideError: More than a tenth of the patches cannot be read, or the file can no longer be opened.
        FloatingPointError: An embedding is NaN or infinite.
        OSError: Embeddings cannot be saved, or a process that reads patches died.
    """
    missing = in_reading_order(saved.missing(corners))
    batches = [missing[start : start + settings.batch_size] for start in range(0, len(missing), settings.batch_size)]
    loader = _loader(view, batches, model, settings.num_workers)
    unsaved, damage, embed = _Unsaved(saved, settings.save_every), _Damage(len(corners)), _EqualOnce(model)
    # The bar shows patches/s and the time left; what an earlier run has embedded counts as done.
    done = len(corners) - len(missing)
    with tqdm(total=len(corners), initial=done, unit="patch", desc=saved.name) as bar, worker_failures_in_words():
        for batch, (patches, readable, problem) in zip(batches, loader):
            if problem is not None:
                damage.add(batch[~readable.numpy()], problem)
            if len(patches):
                unsaved.add(batch[readable.numpy()], embed(patches))
            bar.update(len(batch))
    unsaved.save()
    return Embedded(embed.patches, damage.corners, embed.clock.seconds())


def _loader(view: SlideView, batches: list[np.ndarray], model: SlideModel, num_workers: int) -> WatchedLoader:
    side = model.config.patch_size
    most = max(map(len, batches), default=0)
    workers = usable_workers(min(num_workers, len(batches)), most * side * side * 3, "patches")
    patches = _PatchBatches(view, side, batches)
    return WatchedLoader(patches, workers, batch_size=None, pin_memory=model.pin_memory)


def in_reading_order(corners: np.ndarray) -> np.ndarray:
    """Patches, int64 `(n, 2)` as x, y, square by square of the slide, and row by row within each."""
    x, y = corners.T
    return corners[np.lexsort((x, y, x // _SQUARE_PX, y // _SQUARE_PX))]


def table_rows(lattice: Lattice, needed: np.ndarray, table: EmbeddingTable) -> np.ndarray:
    """Where the embeddings of positions lie: int64 of the lattice's shape, -1 where none is needed."""
    rows = np.full(lattice.shape, -1, dtype=np.int64)
    rows[needed] = table.rows(lattice.corners(np.argwhere(needed)))
    return rows


class _EqualOnce:
    """Embeds patches, equal ones once: scanners paint what they did not scan, and some repeat what they did.

    Equal are those of one batch, and those that equal one of the last 1,024 others.
    """

    def __init__(self, model: SlideModel) -> None:
        self._model = model
        self._known: OrderedDict[bytes, torch.Tensor] = OrderedDict()
        self.patches = 0  # that went through the backbone
        self.clock = BackboneClock(model.device)

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """Embeddings, float `(n, hidden)`, of patches, uint8 `(n, P, P, 3)`."""
        digests = [xxh3_128_digest(patch) for patch in np.ascontiguousarray(patches.numpy())]
        new: dict[bytes, int] = {}
        for place, digest in enumerate(digests):
            if digest not in self._known:
                new.setdefault(digest, place)
        if new:
            with self.clock.running():
                embedded = self._model.embed(patches[list(new.values())])
            # Copies, or all of the batch would stay in memory with any of them.
            self._known.update((digest, embedding.clone()) for digest, embedding in zip(new, embedded))
            self.patches += len(new)
        found = torch.stack([self._known[digest] for digest in digests])
        for digest in digests:
            self._known.move_to_end(digest)
        while len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)
        return found


class _Unsaved:
    """Embeddings that wait on the device, so that a GPU runs ahead, until there are many or they have waited long."""

    def __init__(self, saved: SavedEmbeddings, save_every: float) -> None:
        self._saved = saved
        self._save_every = save_every
        self._start_anew()

    def add(self, corners: np.ndarray, embeddings: torch.Tensor) -> None:
        """Take the embeddings of patches, float `(n, hidden)`, and save if it is time."""
        self._corners.append(corners)
        self._embeddings.append(embeddings)
        self._count += len(embeddings)
        if self._count >= _MOST_UNSAVED or time.monotonic() - self._last_save > self._save_every:
            self.save()

    def save(self) -> None:
        """Save all that wait."""
        if self._count:
            self._saved.add(np.concatenate(self._corners), torch.cat(self._embeddings).cpu())
            self._start_anew()

    def _start_anew(self) -> None:
        self._corners: list[np.ndarray] = []
        self._embeddings: list[torch.Tensor] = []
        self._count = 0
        self._last_save = time.monotonic()


class _Damage:
    """The patches that cannot be read."""

    def __init__(self, needed: int) -> None:
        self._needed = needed
        self._corners = [np.empty((0, 2), dtype=np.int64)]

    @property
    def corners(self) -> np.ndarray:
        """Of all of them, int64 `(n, 2)`."""
        return np.concatenate(self._corners)

    def add(self, corners: np.ndarray, problem: SlideError) -> None:
        """Take more of them, and why the first is one; too many are refused."""
        if not isinstance(problem, UnreadableError):
            raise problem
        self._corners.append(corners)
        count = len(self.corners)
        if count > MOST_UNREADABLE * self._needed:
            raise SlideError(
                f"{problem} {count:,} of {self._needed:,} patches or more cannot be read, at most "
                f"{MOST_UNREADABLE:.0%} are left out."
            ) from problem


_Batch = tuple[torch.Tensor, torch.Tensor, Optional[SlideError]]


class _PatchBatches(Dataset):
    """Batches of patches, uint8 `(n, P, P, 3)`: bytes travel between processes, a quarter of the size of floats."""

    def __init__(self, view: SlideView, patch_size: int, batches: list[np.ndarray]) -> None:
        self._view = view
        self._patch_size = patch_size
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> _Batch:
        """The patches of a batch that can be read, bool `(n,)` which these are, and why another one is not.

        The error is returned: one that is raised in a worker reaches the user as the worker's traceback.
        """
        side = self._patch_size
        read = [self._read(x, y) for x, y in self._batches[number].tolist()]
        patches = [patch for patch in read if not isinstance(patch, SlideError)]
        problems = [patch for patch in read if isinstance(patch, SlideError)]
        problems.sort(key=lambda problem: isinstance(problem, UnreadableError))  # what ends the slide comes first
        pixels = np.stack(patches) if patches else np.empty((0, side, side, 3), dtype=np.uint8)
        readable = torch.tensor([not isinstance(patch, SlideError) for patch in read])
        return torch.from_numpy(pixels), readable, problems[0] if problems else None

    def _read(self, x: int, y: int) -> Union[np.ndarray, SlideError]:
        try:
            return self._view.read((x, y), (self._patch_size, self._patch_size))
        except SlideError as error:
            return error
