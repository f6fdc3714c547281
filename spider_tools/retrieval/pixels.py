"""The pixels of found patches, from their slides or their data set, as far as these are there."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np

from ..data.loading import load_regions
from ..data.settings import DataSettings
from ..plain_text import escaped
from ..slide_files.probe import check_survives
from ..slide_files.reader import open_slide
from ..slide_files.slide_error import SlideError
from ..slide_files.view import SlideView
from ..slide_sources.finding import find_slides
from ..slide_sources.task import SlideTask
from .contact_sheet import MOST
from .patches import Patches
from .result_folder import SlideFacts

Pixels = list[Optional[np.ndarray]]
"""Uint8 `(side, side, 3)` of each patch, None for what cannot be read."""


def read_pixels(
    patches: Patches, slides: Mapping[str, SlideFacts], place: Optional[Path], data: Optional[DataSettings]
) -> tuple[Pixels, list[str]]:
    """Read as many of the first patches as a sheet shows.

    Args:
        patches: What to read.
        slides: Facts by name; a file that does not hold this slide is not read.
        place: File, folder or manifest of the slides.
        data: Of the patches that are of a data set.

    Returns:
        The pixels, and a sentence on everything that cannot be shown.

    Raises:
        ValueError: The place names no slides, or the data set cannot be used.
    """
    rows = patches.table.slice(0, MOST).to_pylist()
    pixels: Pixels = [None] * len(patches)
    remarks = [] if len(patches) <= MOST else [f"The contact sheet shows the first {MOST} of {len(patches)} patches."]
    for numbers, read in (
        ([i for i, row in enumerate(rows) if row["x_level0"] is not None], _Slides(slides, place).read),
        ([i for i, row in enumerate(rows) if row["x_level0"] is None], _Dataset(data).read),
    ):
        if numbers:
            found, problems = read([rows[i] for i in numbers])
            remarks += problems
            for i, patch in zip(numbers, found):
                pixels[i] = patch
    return pixels, remarks


class _Slides:
    def __init__(self, slides: Mapping[str, SlideFacts], place: Optional[Path]) -> None:
        self._slides = slides
        self._place = place

    def read(self, rows: Sequence[Mapping[str, Any]]) -> tuple[Pixels, list[str]]:
        """Slide by slide, each opened once."""
        if self._place is None:
            return [None] * len(rows), ["The patches of slides are not shown: say where the slides are with --slides."]
        tasks = [task for task in find_slides([str(self._place)]) if not task.problem]
        pixels: Pixels = [None] * len(rows)
        remarks = []
        for name in dict.fromkeys(row["slide"] for row in rows):
            numbers = [i for i, row in enumerate(rows) if row["slide"] == name]
            try:
                view = _view(name, self._slides[name], tasks)
                for i in numbers:
                    pixels[i] = _read(view, self._slides[name], rows[i])
            except SlideError as error:
                remarks.append(f"Patches of the slide {escaped(name)} are not shown: {error}")
        return pixels, remarks


def _view(name: str, facts: SlideFacts, tasks: Sequence[SlideTask]) -> SlideView:
    """The slide at the um/px of its patches.

    Raises:
        SlideError: There is no file of its name, or it holds another slide.
    """
    named = [task for task in tasks if task.name == name] or [
        task for task in tasks if escaped(task.path.name) == facts.file
    ]
    if not named:
        raise SlideError(f"there is no slide of this name, and none of the file name {facts.file}.")
    check_survives(named[0].path)
    slide = open_slide(named[0].path, facts.mpp[0])
    if any(slide.identity.get(key) != value for key, value in facts.identity.items()):
        raise SlideError(f"{named[0].path} holds another slide, or has changed.")
    return SlideView(slide, facts.scale)


def _read(view: SlideView, facts: SlideFacts, row: Mapping[str, Any]) -> np.ndarray:
    x, y = (round(row[f"{axis}_level0"] / factor) for axis, factor in zip("xy", facts.scale))
    return view.read((x, y), (facts.patch_size, facts.patch_size))


class _Dataset:
    def __init__(self, data: Optional[DataSettings]) -> None:
        self._data = data

    def read(self, rows: Sequence[Mapping[str, Any]]) -> tuple[Pixels, list[str]]:
        if self._data is None:
            return [None] * len(rows), ["The patches of the data set are not shown: name it with --dataset."]
        source = load_regions(self._data).patches
        pixels: Pixels = []
        problems = []
        for row in rows:
            try:
                pixels.append(source.read(row["patch"]))
            except (ValueError, KeyError, OSError) as error:
                pixels.append(None)
                problems.append(f"A patch of the data set is not shown: {error}")
        return pixels, problems[:1]
