"""A slide as tiles in the report: pictures at magnifications that double, of bounded size."""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Optional

import numpy as np
from PIL import Image

from ..slide_files.lattice import Lattice
from ..slide_files.slide import Slide
from ..slide_files.slide_error import UnreadableError
from ..slide_files.view import SlideView

TILE_PX = 512
MOST_BYTES = 12 << 20
"""Of all tiles together; as text in the file they take a third more."""

PROMISED_UM = 4.0
_FINEST_UM = 0.5
_COARSEST_PX = 1024  # along the longer side; the whole of this level is a picture to begin with
_MOST_BASE_PX = 40_000_000  # in memory at once
_SMALLEST_LOST_PX = 16
# JPEG quality, and whether glass is shown as finely as tissue: the first that fits into the bound.
_WAYS = ((80, True), (80, False), (50, False))


@dataclass(frozen=True, eq=False)
class TileLevel:
    """One magnification.

    Attributes:
        um: um per px, the same along both axes.
        size: `(width, height)` in px.
        tiles: JPEG files by `(column, row)`; those of glass may be missing.
    """

    um: float
    size: tuple[int, int]
    tiles: dict[tuple[int, int], bytes]

    @property
    def bytes(self) -> int:
        """Of all tiles."""
        return sum(map(len, self.tiles.values()))


def make_tiles(slide: Slide, lattice: Lattice, cells: np.ndarray, model_um: float) -> list[TileLevel]:
    """The slide at several magnifications, from the coarsest on.

    The finest is 4 um/px, or a half, a quarter or an eighth of it while all tiles stay below `MOST_BYTES` and neither
    the slide nor the model is coarser. From 8 um/px on the whole slide is shown. At 4 um/px tissue is, and glass where
    there is room for it; finer levels hold tissue alone. Only where 4 um/px are too much even with tissue alone and of
    lower quality, 8 um/px are the finest.

    Args:
        slide: Is read; what cannot be read is white.
        lattice: Where its cells are.
        cells: bool of the lattice's shape, True where there is tissue.
        model_um: um/px of the model.
    """
    um, pixels = _base(slide)
    finest = max(_FINEST_UM, min(model_um, PROMISED_UM), max(slide.mpp))
    tissue = _Tissue(lattice, slide.mpp, cells)
    levels = _from_base(um, pixels, tissue)
    while um / 2 >= finest - 1e-6:
        um /= 2
        bound = MOST_BYTES - sum(level.bytes for level in levels)
        if um < PROMISED_UM and 3 * levels[-1].bytes > bound:
            break
        level = _finer(slide, um, tissue, bound)
        if level is None:
            break
        levels.append(level)
    return levels


def as_jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """A picture, uint8 `(height, width, 3)`, as the content of a JPEG file."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=quality)
    return content.getvalue()


@dataclass(frozen=True, eq=False)
class _Tissue:
    """Which tiles of a level hold tissue, or lie beside some."""

    lattice: Lattice
    mpp: tuple[float, float]
    cells: np.ndarray

    def is_in(self, um: float, column: int, row: int) -> bool:
        window = []
        for number, edges, mpp in zip((column, row), self.lattice.cell_edges_level0(), self.mpp):
            first, last = (np.searchsorted(edges * mpp, (number + end) * TILE_PX * um) for end in (0, 1))
            window.append(slice(max(0, int(first) - 2), int(last) + 1))
        return bool(self.cells[window[1], window[0]].any())


def _base(slide: Slide) -> tuple[float, np.ndarray]:
    """The whole slide at 4 um/px, or coarser if that is too much for the memory; all coarser levels are made of it."""
    width, height = (side * mpp for side, mpp in zip(slide.size, slide.mpp))
    um = max(PROMISED_UM, *slide.mpp)
    while width * height / um**2 > _MOST_BASE_PX:
        um *= 2
    return um, _view(slide, um).read_readable()[0]


def _view(slide: Slide, um: float) -> SlideView:
    # A very narrow slide keeps at least one px.
    return SlideView(slide, tuple(min(um / mpp, side) for mpp, side in zip(slide.mpp, slide.size)))  # type: ignore


def _from_base(um: float, pixels: np.ndarray, tissue: _Tissue) -> list[TileLevel]:
    """The base and all that is coarser, from the coarsest on, as far as the bound allows."""
    pictures = [(um, Image.fromarray(pixels))]
    while max(pictures[-1][1].size) > _COARSEST_PX:
        um, picture = pictures[-1]
        pictures.append((um * 2, picture.reduce(2)))
    levels: list[TileLevel] = []
    for um, picture in reversed(pictures):
        level = _fitting(um, picture, tissue, MOST_BYTES - sum(level.bytes for level in levels))
        if level is None:
            break
        levels.append(level)
    return levels


def _fitting(um: float, picture: Image.Image, tissue: _Tissue, bound: int) -> Optional[TileLevel]:
    """A level as good as it fits into the bound; None if it does not."""
    pixels = np.asarray(picture)
    for quality, whole in _WAYS:
        tiles = {
            place: as_jpeg(_part(pixels, place), quality)
            for place in _places(picture.size)
            if whole or um > PROMISED_UM or tissue.is_in(um, *place)
        }
        level = TileLevel(um, picture.size, tiles)
        if level.bytes <= bound:
            return level
    return None


def _finer(slide: Slide, um: float, tissue: _Tissue, bound: int) -> Optional[TileLevel]:
    """Tissue at one magnification; None if it does not fit into the bound."""
    view = _view(slide, um)
    places = [place for place in _places(view.size) if tissue.is_in(um, *place)]
    tiles: dict[tuple[int, int], bytes] = {}
    total = 0
    for column, row in places:
        corner = (column * TILE_PX, row * TILE_PX)
        size = (min(TILE_PX, view.size[0] - corner[0]), min(TILE_PX, view.size[1] - corner[1]))
        tiles[column, row] = as_jpeg(_readable(view, corner, size), _WAYS[0][0])
        total += len(tiles[column, row])
        if total > bound:
            return None
    return TileLevel(um, view.size, tiles)


def _places(size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    columns, rows = (math.ceil(side / TILE_PX) for side in size)
    return ((column, row) for row in range(rows) for column in range(columns))


def _part(pixels: np.ndarray, place: tuple[int, int]) -> np.ndarray:
    x, y = (number * TILE_PX for number in place)
    return pixels[y : y + TILE_PX, x : x + TILE_PX]


def _readable(view: SlideView, corner: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """A window, uint8 `(height, width, 3)`; squares of it that cannot be read are white."""
    try:
        return view.read(corner, size)
    except UnreadableError:
        pixels = np.full((size[1], size[0], 3), 255, dtype=np.uint8)
    half = max(size) // 2
    if half < _SMALLEST_LOST_PX:
        return pixels
    for top in range(0, size[1], half):
        for left in range(0, size[0], half):
            part = (min(half, size[0] - left), min(half, size[1] - top))
            read = _readable(view, (corner[0] + left, corner[1] + top), part)
            pixels[top : top + part[1], left : left + part[0]] = read
    return pixels
