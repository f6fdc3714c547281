"""Where the patches of a slide lie: a lattice in px at the model's um/px, and its place in level-0 px."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .slide_error import SlideError
from .view import SlideView

if TYPE_CHECKING:
    from ..remote_code import SpiderConfig


@dataclass(frozen=True)
class Lattice:
    """All patches that lie wholly on the slide, `stride` px apart.

    A position is a row and a column of the lattice; its patch begins at `(column * stride, row * stride)` px of the
    view. The context of a patch is made of the patches around it, one patch size apart, so that a stride of half a
    patch size makes four lattices, one between the other, each of which shares its embeddings. The prediction for a
    patch is drawn as its cell: the central `stride` px of the patch. Cells tile the map without overlap.

    Attributes:
        patch_size: Side of a patch in px of the view.
        stride: Distance of positions in px of the view; it divides the patch size.
        context_size: Patches along one side of a region, odd.
        view_size: `(width, height)` of the view in px.
        scale: `(x, y)`, level-0 px per px of the view.
    """

    patch_size: int
    stride: int
    context_size: int
    view_size: tuple[int, int]
    scale: tuple[float, float]

    @classmethod
    def on(cls, view: SlideView, config: "SpiderConfig", stride: int) -> "Lattice":
        """The lattice of a view for the model with this configuration.

        Raises:
            SlideError: The slide is smaller than one patch.
        """
        lattice = cls(config.patch_size, stride, config.context_size, view.size, view.scale)
        if min(lattice.shape) < 1:
            raise SlideError(
                f"{view.slide.path} has {view.size[0]} x {view.size[1]} px (width x height) at the model's um/px, "
                f"smaller than one patch of {config.patch_size} px."
            )
        return lattice

    @property
    def shape(self) -> tuple[int, int]:
        """`(rows, columns)` of positions. What is left at the right and lower edge is less than a patch."""
        width, height = self.view_size
        return tuple(max(0, (side - self.patch_size) // self.stride + 1) for side in (height, width))  # type: ignore[return-value]

    @property
    def context_step(self) -> int:
        """Distance of a patch and the next one of its context, in positions."""
        return self.patch_size // self.stride

    def corners(self, positions: np.ndarray) -> np.ndarray:
        """Upper left px of patches in the view, int64 `(n, 2)` as x, y, from `(row, column)` positions `(n, 2)`."""
        return positions[:, ::-1].astype(np.int64) * self.stride

    def positions(self, corners: np.ndarray) -> np.ndarray:
        """`(row, column)` of patches, int64 `(n, 2)`, from their upper left px in the view, `(n, 2)` as x, y."""
        return corners[:, ::-1] // self.stride

    def level0(self, points: np.ndarray) -> np.ndarray:
        """Points of the view, `(n, 2)` as x, y in px, in level-0 px: float64 `(n, 2)`, not rounded."""
        return points * np.asarray(self.scale)

    @property
    def cell_offset(self) -> float:
        """From the corner of a patch to the corner of its cell, in px of the view."""
        return (self.patch_size - self.stride) / 2

    def cell_edges_level0(self) -> tuple[np.ndarray, np.ndarray]:
        """Edges of the cells in level-0 px: float64 `(columns + 1,)` along x, `(rows + 1,)` along y."""
        rows, columns = self.shape
        across, down = (np.arange(count + 1) * self.stride + self.cell_offset for count in (columns, rows))
        return across * self.scale[0], down * self.scale[1]

    def with_context(self, positions: np.ndarray) -> np.ndarray:
        """Which patches are needed to classify some: these and all of their context on the slide.

        Args:
            positions: bool `shape`, True for the patches to classify.

        Returns:
            bool `shape`.
        """
        reach = self.context_size // 2
        needed = positions
        for axis in (0, 1):
            grown = needed.copy()
            for steps in range(1, reach + 1):
                shift = steps * self.context_step
                for source, target in (
                    (slice(shift, None), slice(None, -shift)),
                    (slice(None, -shift), slice(shift, None)),
                ):
                    index = (slice(None),) * axis
                    grown[(*index, target)] |= needed[(*index, source)]
            needed = grown
        return needed

    def regions(self, positions: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The patches of regions, as rows of a table of embeddings.

        Args:
            positions: int `(n, 2)`, `(row, column)` of the central patches.
            rows: int64 `shape`, the row of every patch in the table, -1 where there is none.

        Returns:
            int64 `(n, context_size**2)`, row-major; -1 where the patch lies, at least partly, beyond the slide's edge.
        """
        reach = self.context_size // 2
        padding = reach * self.context_step
        padded = np.pad(rows, padding, constant_values=-1)
        steps = np.arange(-reach, reach + 1) * self.context_step + padding
        row = positions[:, 0, None, None] + steps[:, None]
        column = positions[:, 1, None, None] + steps[None, :]
        return padded[row, column].reshape(len(positions), -1)
