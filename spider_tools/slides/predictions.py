"""What a model says about the tissue of one slide."""

from dataclasses import dataclass

import numpy as np

from ..probabilities import entropy
from .lattice import Lattice


@dataclass(frozen=True, eq=False)
class SlidePredictions:
    """What a model says about the tissue of one slide.

    Attributes:
        lattice: Where the patches lie.
        mpp: `(x, y)`, um per level-0 px.
        positions: int64 `(n, 2)`, row and column of every prediction, in row-major order.
        probabilities: float32 `(n, classes)`; each row adds up to 1.
        class_names: In the order of the probabilities.
    """

    lattice: Lattice
    mpp: tuple[float, float]
    positions: np.ndarray
    probabilities: np.ndarray
    class_names: tuple[str, ...]

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class, int64 `(n,)`."""
        return self.probabilities.argmax(axis=1)

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
        """Area that one prediction stands for."""
        width, height = (self.lattice.stride * scale * um for scale, um in zip(self.lattice.scale, self.mpp))
        return width * height / 1e6

    def map_of(self, values: np.ndarray, fill: float) -> np.ndarray:
        """Values of the predictions, `(n,)`, at their positions, in an array of the lattice's shape."""
        grid = np.full(self.lattice.shape, fill, dtype=values.dtype)
        grid[tuple(self.positions.T)] = values
        return grid
