"""Masks of tissue that a segmenter wrote into a folder, found by the names that such tools give and read with care."""

import logging
from pathlib import Path

import numpy as np
from PIL import Image

from ..images import DECODING_ERRORS
from ..slide_files.file_check import IMAGE_FORMATS
from ..slide_files.slide_error import SlideError
from ..slide_files.view import SlideView
from ..slide_sources.task import SlideTask
from .drawings import GEOJSON_SUFFIXES, marked_px, read_drawing

logger = logging.getLogger(__name__)

_SUFFIXES = (".png", ".tif", ".tiff", *GEOJSON_SUFFIXES)
_ENDINGS = ("", "_mask", "_MASK", "_mask_use")  # plain and TRIDENT; GrandQC and others; HistoQC
_FOLDERS = ("contours_geojson",)  # of TRIDENT
_MOST_SHOWN = 8


def learned_mask_for(folder: Path, task: SlideTask) -> Path:
    """The mask of one slide in a folder of masks.

    It is named like the slide, with its ending or without, or like its folder of results, perhaps with "_mask" or
    "_mask_use" behind; and lies in the folder, in one of the slide's name or in TRIDENT's "contours_geojson".

    Raises:
        SlideError: There is none, or more than one, or the slide has a drawing too.
    """
    if task.mask is not None:
        raise SlideError(
            f"{task.name} has the drawing {task.mask} in the manifest and --tissue_model beside it: give one of them."
        )
    names = dict.fromkeys((task.name, task.path.stem, task.path.name))
    found = [
        path
        for place in (folder, *(folder / name for name in (*names, *_FOLDERS)))
        for name in names
        for ending in _ENDINGS
        for suffix in _SUFFIXES
        if (path := place / f"{name}{ending}{suffix}").is_file()
    ]
    different = list({path.resolve(): path for path in found if path.resolve() != task.path.resolve()}.values())
    if len(different) != 1:
        raise SlideError(
            f"Expected one mask of {task.path.name} in --tissue_model {folder}, a PNG, TIFF or GeoJSON named like the "
            f"slide, as {task.path.stem}.png or {task.path.stem}_mask.png, got "
            f"{[str(path.relative_to(folder)) for path in different] or 'none'}."
        )
    return different[0]


def read_learned_mask(path: Path, view: SlideView) -> tuple[np.ndarray, str]:
    """Which px of a view a segmenter has found to be tissue.

    Args:
        path: An image of two values, 0 for glass, of the shape of the slide; or GeoJSON in level-0 px from the slide's
            corner, as tools count that read slides with OpenSlide.
        view: Of the slide.

    Returns:
        bool `(height, width)`, and how it was found, for the report.

    Raises:
        SlideError: The mask cannot be used.
    """
    if path.suffix.lower() in GEOJSON_SUFFIXES:
        if view.slide.bounds[:2] != (0, 0):
            logger.warning("%s: its coordinates are taken from the corner of level 0, not from QuPath's.", path)
    else:
        _check_two_values(path)
    mask, what = read_drawing(path, view, origin=(0, 0))
    return mask, f"--tissue_model, {what}"


def _check_two_values(path: Path) -> None:
    """Refuse labels of more than tissue and glass: nobody has said which of them are tissue."""
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            all_marked = bool(marked_px(image).all())
            values = np.unique(_numbers(image))
    except DECODING_ERRORS as error:
        raise SlideError(f"The mask {path} is no image ({', '.join(IMAGE_FORMATS)}): {error}.") from error
    if len(values) > 2 or (len(values) == 2 and all_marked):
        shown = ", ".join(f"{value:g}" for value in values[:_MOST_SHOWN])
        shown += " ..." if len(values) > _MOST_SHOWN else ""
        raise SlideError(
            f"The mask {path} has {len(values)} values ({shown}), expected 0 for glass and one other for tissue: save "
            "it so that only what is tissue is not 0. Artifacts are looked for here."
        )


def _numbers(image: Image.Image) -> np.ndarray:
    """What tells the values of px from each other, one number each."""
    if image.mode in ("P", "1", "L", "I", "F") or image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.float64)
    return np.asarray(image.convert("RGBA")).astype(np.uint32) @ np.array([1 << 24, 1 << 16, 1 << 8, 1], np.uint32)
