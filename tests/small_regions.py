"""Whole regions of 12 px, three patches of 4 px wide, for the tests that read data sets of whole regions."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from small_datasets import pixels_of

PATCH = 4
SIDE = 3 * PATCH


def image_of(name: str, height: int = SIDE, width: int = SIDE) -> Image.Image:
    """An image that differs between names."""
    return Image.fromarray(pixels_of(name, height, width))


def png_of_region(name: str) -> bytes:
    """The same as a PNG file."""
    file = io.BytesIO()
    image_of(name).save(file, "PNG")
    return file.getvalue()


def write_images(folder: Path, *paths: str) -> Path:
    """Write PNG files at paths below a folder; the pixels are those of the path."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(png_of_region(path))
    return folder


def grid_of(data: Any, row: dict[str, Any]) -> np.ndarray:
    """The region of a row, put together from its patches."""
    tiles = [data.patches.read(name) for name in row["patches"]]
    return np.vstack([np.hstack(tiles[start : start + 3]) for start in (0, 3, 6)])


def content_of(data: Any) -> dict[str, set[tuple[str, str, bytes]]]:
    """Class, slide and pixels of every region, by split."""
    return {
        name: {(data.class_names[row["label"]], row["slide_id"], grid_of(data, row).tobytes()) for row in split}
        for name, split in data.splits.items()
    }


def expected(*rows: tuple[str, str, str]) -> set[tuple[str, str, bytes]]:
    """What `content_of` gives for class, slide and the path that `write_images` was given."""
    return {(class_name, slide, pixels_of(path, SIDE, SIDE).tobytes()) for class_name, slide, path in rows}
