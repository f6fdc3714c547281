"""What a model says about the tissue of one slide."""

from dataclasses import dataclass
from typing import Optional

import numpy as np

from ..probabilities import entropy
from ..slide_files.lattice import Lattice

UNFAMILIAR = "Unfamiliar"


@dataclass(frozen=True, eq=False)
class SlidePredictions:
    """What a model says about the tissue of one slide.

    Attributes:
        lattice: Where the patches lie.
        mpp: `(x, y)`, um per level-0 px.
        positions: int64 `(n, 2)`, row and column of every prediction, in row-major order.
        probabilities: float32 `(n, classes)`; each row adds up to 1.
        class_names: In the order of the probabilities.
        unfamiliarity: How unlike what the model has learnt from each is, float32 `(n,)`; None if it does not know.
        unfamiliarity_threshold: Above it a prediction is of something unfamiliar; None likewise.
        tissue_share: Of the cell of each that is tissue, float `(n,)` in [0, 1]; all of it by default.
        found_mm2: Area of all tissue of the slide, also where nothing is predicted; None if it is not known.
        abstain: Whether what is unfamiliar is shown and counted as a class of its own.
    """

    lattice: Lattice
    mpp: tuple[float, float]
    positions: np.ndarray
    probabilities: np.ndarray
    class_names: tuple[str, ...]
    unfamiliarity: Optional[np.ndarray] = None
    unfamiliarity_threshold: Optional[float] = None
    tissue_share: Optional[np.ndarray] = None
    found_mm2: Optional[float] = None
    abstain: bool = False

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class, int64 `(n,)`."""
        return self.probabilities.argmax(axis=1)

    @property
    def is_unfamiliar(self) -> Optional[np.ndarray]:
        """Which predictions are of something unfamiliar, bool `(n,)`; None of a model that does not know."""
        if self.unfamiliarity is None or self.unfamiliarity_threshold is None:
            return None
        return ~(self.unfamiliarity <= self.unfamiliarity_threshold)

    @property
    def unfamiliar_share(self) -> Optional[float]:
        """Of the tissue, 0 to 1; None of a model that does not know."""
        if self.is_unfamiliar is None:
            return None
        return float(np.average(self.is_unfamiliar, weights=self.tissue_mm2))

    @property
    def shown(self) -> np.ndarray:
        """What maps and areas show, int64 `(n,)`: the predicted class, or the last of `shown_names`."""
        if not self.abstain or self.is_unfamiliar is None:
            return self.predicted
        return np.where(self.is_unfamiliar, len(self.class_names), self.predicted)

    @property
    def shown_names(self) -> tuple[str, ...]:
        """Names for `shown`: the classes, and `UNFAMILIAR` behind them if the map abstains."""
        return (*self.class_names, UNFAMILIAR) if self.abstain else self.class_names

    @property
    def entropy(self) -> np.ndarray:
        """Of the probabilities in nat, float64 `(n,)`, 0 to ln(classes)."""
        return entropy(self.probabilities)

    @property
    def corners_level0(self) -> np.ndarray:
        """Upper left corner of every patch, float64 `(n, 2)` as x, y in level-0 px."""
        return self.lattice.level0(self.lattice.corners(self.positions))

    @property
    def centers_level0(self) -> np.ndarray:
        """Centre of every patch, float64 `(n, 2)` as x, y in level-0 px."""
        return self.lattice.level0(self.lattice.corners(self.positions) + self.lattice.patch_size / 2)

    @property
    def cell_area_mm2(self) -> float:
        """Area of the cell of one prediction, tissue or not."""
        width, height = (self.lattice.stride * scale * um for scale, um in zip(self.lattice.scale, self.mpp))
        return width * height / 1e6

    @property
    def tissue_mm2(self) -> np.ndarray:
        """Tissue in the cell of every prediction, float64 `(n,)`."""
        share = np.ones(len(self.positions)) if self.tissue_share is None else self.tissue_share
        return share.astype(np.float64) * self.cell_area_mm2

    @property
    def left_out_share(self) -> float:
        """Of all tissue of the slide, that in which nothing is predicted, 0 to 1."""
        if not self.found_mm2:
            return 0.0
        return max(0.0, 1 - float(self.tissue_mm2.sum()) / self.found_mm2)

    def map_of(self, values: np.ndarray, fill: float) -> np.ndarray:
        """Values of the predictions, `(n,)`, at their positions, in an array of the lattice's shape."""
        grid = np.full(self.lattice.shape, fill, dtype=values.dtype)
        grid[tuple(self.positions.T)] = values
        return grid
