"""Slides of any size, drawn tile by tile, with tissue on six percent of them."""

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

TILE = 512
MPP = 0.25
# Centre and radius of pieces of tissue, as shares of width and height: x, y, x, y.
_PIECES = ((0.2, 0.3, 0.09, 0.1), (0.55, 0.7, 0.12, 0.07), (0.85, 0.2, 0.04, 0.05))
_KINDS = 48


def draw_slide(path: Path, width: int, height: int) -> float:
    """Write a pyramidal TIFF of 0.25 um/px, and return the share of its tiles that hold tissue.

    Args:
        path: Of the file.
        width: In px of level 0.
        height: In px of level 0.
    """
    from tifffile import TiffWriter

    rng = np.random.default_rng(0)
    kinds = [_tissue_tile(rng) for _ in range(_KINDS)]
    rows, columns = -(-height // TILE), -(-width // TILE)
    y, x = np.mgrid[:rows, :columns] / np.array([rows, columns]).reshape(2, 1, 1)
    inside = np.zeros((rows, columns), dtype=bool)
    for center_x, center_y, radius_x, radius_y in _PIECES:
        inside |= ((x - center_x) / radius_x) ** 2 + ((y - center_y) / radius_y) ** 2 < 1
    kind_of = np.where(inside, rng.integers(0, len(kinds), inside.shape), -1)
    with TiffWriter(path, bigtiff=True) as file:
        for factor in (1, 4, 16, 64):
            file.write(
                _encoded_tiles(kinds, kind_of, factor, (height // factor, width // factor)),
                shape=(height // factor, width // factor, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="rgb",
                compression="deflate",
                subfiletype=int(factor > 1),
                resolution=(1e4 / MPP / factor,) * 2,
                resolutionunit="CENTIMETER",
                metadata=None,
            )
    return float(inside.mean())


def _tissue_tile(rng: np.random.Generator) -> np.ndarray:
    """uint8 `(TILE, TILE, 3)`: nuclei-like dots on pink."""
    coarse = rng.integers(0, 60, (TILE // 8, TILE // 8, 3)).repeat(8, axis=0).repeat(8, axis=1)
    dots = rng.random((TILE // 16, TILE // 16, 1)) < rng.uniform(0.05, 0.4)
    dark = dots.repeat(16, axis=0).repeat(16, axis=1) * np.array([110, 70, 40])
    return np.clip(np.array([230, 150, 200]) - coarse - dark, 0, 255).astype(np.uint8)


def _encoded_tiles(
    kinds: list[np.ndarray], kind_of: np.ndarray, factor: int, shape: tuple[int, int]
) -> Iterator[bytes]:
    """Tiles of one level, row by row; those without tissue are encoded once."""
    small = TILE // factor
    glass = np.full((TILE, TILE, 3), 243, dtype=np.uint8)
    reduced = [kind.reshape(small, factor, small, factor, 3).mean(axis=(1, 3)).astype(np.uint8) for kind in kinds]
    encoded = {-1: zlib.compress(glass.tobytes())}
    if factor == 1:
        encoded |= {number: zlib.compress(kind.tobytes()) for number, kind in enumerate(kinds)}
    for row in range(-(-shape[0] // TILE)):
        for column in range(-(-shape[1] // TILE)):
            part = kind_of[row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
            if part.size == 1 or (part == -1).all():
                yield encoded[int(part.flat[0])]
                continue
            tile = glass.copy()
            for r, c in np.argwhere(part >= 0):
                tile[r * small : (r + 1) * small, c * small : (c + 1) * small] = reduced[part[r, c]]
            yield zlib.compress(tile.tobytes())
