"""The class of every tissue patch of a slide, from the embeddings of the patches around it."""

from dataclasses import dataclass

import numpy as np
import torch

from ..probabilities import entropy
from .lattice import Lattice
from .model import SlideModel

_REGIONS_AT_ONCE = 256


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


def classify_positions(
    model: SlideModel, lattice: Lattice, tissue: np.ndarray, rows: np.ndarray, embeddings: torch.Tensor
) -> np.ndarray:
    """Logits of the tissue patches of a slide.

    Args:
        model: Has the head.
        lattice: Where the patches lie.
        tissue: bool of the lattice's shape, True where a patch is to be classified.
        rows: int64 of the lattice's shape, rows of `embeddings`; -1 where there is none, which nothing needs.
        embeddings: Float `(patches, hidden)`; may be mapped from a file.

    Returns:
        float32 `(n, classes)`, for the positions in row-major order. A patch of the context that lies beyond the
        slide's edge, wholly or partly, is masked, as in the image processor.

    Raises:
        FloatingPointError: Logits are NaN or infinite.
    """
    logits = []
    positions = np.argwhere(tissue)
    for start in range(0, len(positions), _REGIONS_AT_ONCE):
        regions = torch.from_numpy(lattice.regions(positions[start : start + _REGIONS_AT_ONCE], rows))
        logits.append(model.classify(embeddings[regions.clamp(min=0)], regions >= 0))
    found = torch.cat(logits).numpy()
    _check_finite(found, positions)
    return found


def _check_finite(logits: np.ndarray, positions: np.ndarray) -> None:
    bad = ~np.isfinite(logits).all(axis=1)
    if bad.any():
        raise FloatingPointError(
            f"The logits of {bad.sum():,} of {len(bad):,} patches are NaN or infinite, the first at row, column = "
            f"{positions[bad][0].tolist()}, expected numbers. The weights of the model's head are damaged, or its "
            "training went astray: take an earlier checkpoint."
        )
