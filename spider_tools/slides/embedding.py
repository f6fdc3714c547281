"""Embedding every patch of a slide once, while the next ones are read by other processes."""

import time
from typing import Union

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from .lattice import Lattice
from .model import SlideModel
from .reader import SlideError
from .saved_embeddings import EmbeddingTable, SavedEmbeddings
from .settings import SlideSettings
from .view import SlideView

# Patches are read square by square of this many px: neighbours share tiles of the file, and squares of it fit into
# the caches of a reader, the rows of a large slide do not.
_SQUARE_PX = 1792
_MOST_UNSAVED = 4096


def embed_slide(
    view: SlideView, corners: np.ndarray, model: SlideModel, saved: SavedEmbeddings, settings: SlideSettings
) -> int:
    """Embed the patches that are not saved yet, and save them.

    Args:
        view: The slide at the model's um/px.
        corners: int64 `(n, 2)`, x and y of the upper left px of every patch in the view.
        model: Embeds them.
        saved: Gets the embeddings, every `settings.save_every` seconds.
        settings: Batch size and workers.

    Returns:
        How many patches went through the backbone.

    Raises:
        SlideError: The slide is damaged.
        FloatingPointError: An embedding is NaN or infinite.
        OSError: Embeddings cannot be saved.
    """
    missing = in_reading_order(saved.missing(corners))
    batches = [missing[start : start + settings.batch_size] for start in range(0, len(missing), settings.batch_size)]
    loader = DataLoader(
        _PatchBatches(view, model.config.patch_size, batches),
        batch_size=None,
        num_workers=min(settings.num_workers, len(batches)),
        pin_memory=model.pin_memory,
    )
    unsaved = _Unsaved(saved, missing, settings.save_every)
    # The bar shows patches/s and the time left; what an earlier run has embedded counts as done.
    with tqdm(total=len(corners), initial=len(corners) - len(missing), unit="patch", desc=view.slide.path.name) as bar:
        for patches in loader:
            if isinstance(patches, SlideError):
                raise patches
            unsaved.add(model.embed(patches))
            bar.update(len(patches))
    unsaved.save()
    return len(missing)


def in_reading_order(corners: np.ndarray) -> np.ndarray:
    """Patches, int64 `(n, 2)` as x, y, square by square of the slide, and row by row within each."""
    x, y = corners.T
    return corners[np.lexsort((x, y, x // _SQUARE_PX, y // _SQUARE_PX))]


def table_rows(lattice: Lattice, needed: np.ndarray, table: EmbeddingTable) -> np.ndarray:
    """Where the embeddings of positions lie: int64 of the lattice's shape, -1 where none is needed."""
    rows = np.full(lattice.shape, -1, dtype=np.int64)
    rows[needed] = table.rows(lattice.corners(np.argwhere(needed)))
    return rows


class _Unsaved:
    """Embeddings that wait on the device, so that a GPU runs ahead, until there are many or they have waited long."""

    def __init__(self, saved: SavedEmbeddings, corners: np.ndarray, save_every: float) -> None:
        self._saved = saved
        self._corners = corners  # of the patches that are not saved, in the order in which they are embedded
        self._save_every = save_every
        self._start_anew()

    def add(self, embeddings: torch.Tensor) -> None:
        """Take the embeddings of the next patches, float `(n, hidden)`, and save if it is time."""
        self._waiting.append(embeddings)
        self._count += len(embeddings)
        if self._count >= _MOST_UNSAVED or time.monotonic() - self._last_save > self._save_every:
            self.save()

    def save(self) -> None:
        """Save all that wait."""
        if self._waiting:
            self._saved.add(self._corners[: self._count], torch.cat(self._waiting).cpu())
            self._corners = self._corners[self._count :]
            self._start_anew()

    def _start_anew(self) -> None:
        self._waiting: list[torch.Tensor] = []
        self._count = 0
        self._last_save = time.monotonic()


class _PatchBatches(Dataset):
    """Batches of patches, uint8 `(n, P, P, 3)`: bytes travel between processes, a quarter of the size of floats."""

    def __init__(self, view: SlideView, patch_size: int, batches: list[np.ndarray]) -> None:
        self._view = view
        self._patch_size = patch_size
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> Union[torch.Tensor, SlideError]:
        """A batch, or why it cannot be read: an error that is raised in a worker reaches the user as its traceback."""
        side = (self._patch_size, self._patch_size)
        try:
            patches = [self._view.read((x, y), side) for x, y in self._batches[number].tolist()]
        except SlideError as error:
            return error
        return torch.from_numpy(np.stack(patches))
