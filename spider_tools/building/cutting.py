"""The patches of regions become files, each once, however many regions share it."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..files import readable_as_umask_says
from ..slide_files.lattice import Lattice
from ..slide_files.slide_error import UnreadableError
from ..slide_files.view import SlideView
from .cases import Case
from .labelling import open_case
from .settings import BuildSettings


@dataclass(frozen=True)
class Cut:
    """What became of the patches of a slide.

    Attributes:
        name: Of the slide.
        written: Patches that were written now; the others were there already.
        lost: Names of those that the file is too damaged for.
    """

    name: str
    written: int
    lost: tuple[str, ...]


def patch_name(slide: str, row: int, column: int, suffix: str) -> str:
    """File name of a patch."""
    return f"{slide}_{row:05d}_{column:05d}{suffix}"


def context_of(lattice: Lattice, position: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """The positions of a region's context that lie wholly on the slide, by their keys in the SPIDER layout."""
    reach = lattice.context_size // 2
    rows, columns = lattice.shape
    around = {}
    for i in range(-reach, reach + 1):
        for j in range(-reach, reach + 1):
            row, column = position[0] + i * lattice.context_step, position[1] + j * lattice.context_step
            if (i, j) != (0, 0) and 0 <= row < rows and 0 <= column < columns:
                around[f"{i + reach}_{j + reach}"] = (row, column)
    return around


def cut_slide(case: Case, settings: BuildSettings, positions: np.ndarray, folder: Path) -> Cut:
    """Write the patches of regions and of their context; those that are there already are left.

    Args:
        case: Whose slide.
        settings: See there.
        positions: int `(n, 2)`, `(row, column)` of the central patches.
        folder: For the images.

    Raises:
        SlideError: The slide cannot be opened.
        OSError: A file cannot be written.
    """
    _, view, lattice = open_case(case, settings)
    central = np.zeros(lattice.shape, dtype=bool)
    central[tuple(positions.T)] = True
    needed = np.argwhere(lattice.with_context(central))
    written, lost = 0, []
    for (row, column), corner in zip(needed.tolist(), lattice.corners(needed).tolist()):
        name = patch_name(case.task.name, row, column, settings.suffix)
        if (folder / name).exists():
            continue
        try:
            _write(folder / name, view, corner, settings)
            written += 1
        except UnreadableError:
            lost.append(name)
    return Cut(case.task.name, written, tuple(lost))


def _write(path: Path, view: SlideView, corner: list[int], settings: BuildSettings) -> None:
    pixels = view.read((corner[0], corner[1]), (settings.patch_size, settings.patch_size))
    # No fsync for each of hundreds of thousands of files: metadata.json, the sign of a complete set, comes after all.
    unfinished = path.with_name(f".{path.name}")
    options = {"quality": settings.jpeg_quality, "subsampling": 0} if settings.image_format == "jpeg" else {}
    Image.fromarray(pixels).save(unfinished, format=settings.image_format, **options)
    readable_as_umask_says(unfinished)
    os.replace(unfinished, path)
