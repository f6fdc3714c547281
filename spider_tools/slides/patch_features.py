"""What other tools get of a slide: the patches that were named, each with its embedding and its place."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Optional

import numpy as np
import torch

from .facts import model_name
from .predictions import SlidePredictions
from .preparing import PreparedSlide

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class PatchFeatures:
    """The patches of the predictions, in their order; what is only context of others is not among them.

    Attributes:
        name: Of the slide.
        size: `(width, height)` of the slide in level-0 px.
        predictions: What the model says of each patch.
        mpp: `(x, y)`, um per px of a patch.
        level: Of the slide, whose px the patches have as they are; None if they are resampled.
        level_size: `(width, height)` of the level that is read.
        model: As readers of the results may know it.
        table: Float `(any, hidden)`, the saved embeddings.
        rows: int64 `(n,)`, of the patches in the table.
    """

    name: str
    size: tuple[int, int]
    predictions: SlidePredictions
    mpp: tuple[float, float]
    level: Optional[int]
    level_size: tuple[int, int]
    model: str
    table: torch.Tensor
    rows: np.ndarray

    @classmethod
    def of(
        cls, prepared: PreparedSlide, predictions: SlidePredictions, table: torch.Tensor, rows: np.ndarray
    ) -> "PatchFeatures":
        """Those of a slide.

        Args:
            prepared: The slide.
            predictions: Of it.
            table: Float `(any, hidden)`, its embeddings.
            rows: int64 `(n,)`, of the predictions in the table.
        """
        slide, view = prepared.slide, prepared.view
        return cls(
            name=prepared.task.name,
            size=slide.size,
            predictions=predictions,
            mpp=view.mpp,
            level=None if view.is_resampled else view.level,
            level_size=slide.levels[view.level].size,
            model=model_name(prepared.settings.model),
            table=table,
            rows=rows,
        )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def hidden_size(self) -> int:
        """Values of one embedding."""
        return self.table.shape[1]

    @property
    def corners_level0(self) -> np.ndarray:
        """Upper left corner of every patch, int64 `(n, 2)` as x, y in level-0 px, rounded where it lies between two."""
        return np.rint(self.predictions.corners_level0).astype(np.int64)

    @property
    def side_level0(self) -> int:
        """Of a patch in level-0 px, rounded; the mean of both where px are not square."""
        lattice = self.predictions.lattice
        return round(lattice.patch_size * (lattice.scale[0] + lattice.scale[1]) / 2)

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Embeddings of patches in their order, some at a time: which they are, and float32 `(some, hidden)`."""
        for start in range(0, len(self), _ROWS_AT_ONCE):
            chunk = slice(start, min(start + _ROWS_AT_ONCE, len(self)))
            yield chunk, self.table[torch.from_numpy(self.rows[chunk])].float().numpy()
