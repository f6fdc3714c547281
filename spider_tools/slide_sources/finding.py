"""Which slides files, folders, manifests and URLs name."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..slide_files import dicom
from ..slide_files.file_check import check_is_file
from ..slide_files.slide_error import SlideError
from .addresses import file_of_url, is_url, local_path, protocol_of, public_address
from .manifests import MANIFEST_SUFFIXES, read_manifest
from .task import SlideTask, checked_name
from .url_tasks import task_of_url

logger = logging.getLogger(__name__)

_SLIDE_SUFFIXES = frozenset(
    (".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide", ".vms", ".vmu", ".czi")
)
_IMAGE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp"))


def find_slides(sources: Sequence[str], also: Sequence[str] = (), urls: bool = False) -> list[SlideTask]:
    """The slides that files, folders, manifests and URLs name, in their order.

    A folder gives the slides in it, not in its subfolders. What of it cannot be a slide, as a link to nowhere or a file
    whose name cannot be a folder's, becomes a task that fails and takes no other with it. Of DICOM files, each series
    is one slide. A manifest is what `manifests.read_manifest` reads, the columns `also` included. A URL that ends with
    a slash is a folder, and so is one that its service calls so.

    Args:
        sources: Files, folders, manifests and URLs.
        also: Columns of manifests to keep.
        urls: Whether the caller downloads slides; else they are refused.

    Raises:
        ValueError: There is no slide, a manifest is wrong, a folder cannot be listed, or two slides have one name or
            one that leaves the output folder.
    """
    tasks: list[SlideTask] = []
    for text in sources:
        if is_url(text) and protocol_of(text) != "file":
            tasks += _slides_at(text)
            continue
        source = local_path(text) if is_url(text) else Path(text)
        if source.is_dir():
            found = _slides_in(source)
            if not found:
                raise ValueError(
                    f"The folder {source} holds no slides ({' '.join(sorted(_SLIDE_SUFFIXES))} {dicom.SUFFIX}) or "
                    "images."
                )
            tasks += found
        elif source.suffix.lower() in MANIFEST_SUFFIXES:
            tasks += read_manifest(source, also)
        else:
            tasks.append(SlideTask(source, checked_name(source.stem, source)))
    if not tasks:
        raise ValueError("There are no slides to classify.")
    remote = [task for task in tasks if task.url]
    if remote and not urls:
        raise ValueError(f"{remote[0].address} is a URL, which only segment_slide.py takes: download the slide first.")
    tasks = _one_per_series(tasks)
    _check_names(tasks)
    return tasks


def _check_names(tasks: Sequence[SlideTask]) -> None:
    by_name: dict[str, SlideTask] = {}
    for task in tasks:
        if task.problem:
            continue  # nothing is written to its name
        # Not all file systems tell upper and lower case apart.
        other = by_name.setdefault(task.name.casefold(), task)
        if other is not task:
            raise ValueError(
                f"{other.address} and {task.address} would both be written to {task.name!r}. Give them different names "
                "in the column `name` of a manifest."
            )


def _slides_at(url: str) -> list[SlideTask]:
    """The slide of a URL, or those of a folder."""
    suffix = os.path.splitext(file_of_url(url))[1].lower()
    if suffix in MANIFEST_SUFFIXES:
        raise ValueError(f"{public_address(url)} is a manifest at a URL: download it first.")
    task = None if url.endswith("/") else task_of_url(url, "", public_address(url))
    if task is not None and (task.problem or suffix in _SLIDE_SUFFIXES | _IMAGE_SUFFIXES):
        return [task]
    from .remote_slides import is_folder, list_folder  # its libraries are for those who have slides by URL

    if task is not None and not is_folder(url):
        return [task]
    listed = list_folder(url if url.endswith("/") else f"{url}/")
    files = [file for file in listed if not file_of_url(file).startswith(".")]
    kept = _without_images_beside(public_address(url), [Path(file_of_url(file)) for file in files])
    found = [
        file for file in files if Path(file_of_url(file)) in kept or file_of_url(file).lower().endswith(dicom.SUFFIX)
    ]
    if not found:
        raise ValueError(f"The folder {public_address(url)} holds no slides ({' '.join(sorted(_SLIDE_SUFFIXES))}).")
    return [_named_by_url(file) for file in found]


def _named_by_url(url: str) -> SlideTask:
    """A slide of a folder at a URL; one whose name cannot be used fails, and the others go on."""
    try:
        return task_of_url(url, "", public_address(url))
    except ValueError as error:
        path = Path(file_of_url(url))
        return SlideTask(path, path.stem, problem=str(error), url=url)


def _slides_in(folder: Path) -> list[SlideTask]:
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    files = [path for path in entries if not _problem_of(path)]
    found = _without_images_beside(folder, files)
    tasks = [_named_by(path.stem, path, path) for path in found]
    tasks += _dicom_slides(folder, [path for path in files if path.suffix.lower() == dicom.SUFFIX])
    return tasks + _unusable(entries)


def _without_images_beside(folder: Any, files: Sequence[Path]) -> list[Path]:
    """Those of the files that are called like slides or images, without images that belong to slides."""
    slides = [path for path in files if path.suffix.lower() in _SLIDE_SUFFIXES]
    images = [path for path in files if path.suffix.lower() in _IMAGE_SUFFIXES]
    if any(path.suffix.lower() in (".vms", ".vmu") for path in slides):  # their pixels are .jpg files beside them
        images = []
    stems = {path.stem.casefold() for path in slides}
    beside = [path for path in images if path.stem.casefold() in stems]
    if beside:
        names = [path.name for path in beside]
        logger.warning("In %s the images %s lie beside slides of their names, and are not classified.", folder, names)
    return sorted({*slides, *images} - set(beside))


def _unusable(entries: Sequence[Path]) -> list[SlideTask]:
    """Those of a folder's entries that are called like slides and are neither files nor folders."""
    suffixes = {*_SLIDE_SUFFIXES, *_IMAGE_SUFFIXES, dicom.SUFFIX}
    named = [path for path in entries if path.suffix.lower() in suffixes and not _is_folder(path)]
    return [SlideTask(path, path.stem, problem=problem) for path in named if (problem := _problem_of(path))]


def _named_by(name: str, path: Path, source: Path) -> SlideTask:
    """A slide of a folder; one whose name cannot be used fails, and the others go on."""
    try:
        return SlideTask(path, checked_name(name, source))
    except ValueError as error:
        return SlideTask(path, name, problem=str(error))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _problem_of(path: Path) -> str:
    try:
        check_is_file(path)
    except SlideError as error:
        return str(error)
    return ""


def _dicom_slides(folder: Path, files: Sequence[Path]) -> list[SlideTask]:
    """A task per series, by the first of its files: OpenSlide finds the others from any of them."""
    groups = dicom.group_by_series(files)
    others = [paths[0].name for series, paths in groups.items() if series is not None and not series.is_slide]
    if others:
        logger.warning("In %s the DICOM series of %s hold no slides, and are left out.", folder, others)
    slides = [(series, paths) for series, paths in groups.items() if series is None or series.is_slide]
    name = folder.resolve().name
    if len(slides) == 1:
        return [_named_by(name, slides[0][1][0], folder)]
    numbers = [series.number if series else "" for series, _ in slides]
    numbered = len(set(numbers)) == len(numbers) and all(number.isalnum() for number in numbers)
    return [_named_by(f"{name}-{_label(series, numbered)}", paths[0], folder) for series, paths in slides]


def _label(series: dicom.DicomSeries | None, numbered: bool) -> str:
    if series is None:
        return "unnamed-series"
    return f"series-{series.number}" if numbered else series.uid


def _one_per_series(tasks: Sequence[SlideTask]) -> list[SlideTask]:
    """Without the DICOM files that belong to the slide of an earlier one, as when a shell lists all of them."""
    kept: list[SlideTask] = []
    seen: set[tuple[Path, str]] = set()
    for task in tasks:
        of_series = task.path.suffix.lower() == dicom.SUFFIX and not task.url
        series = dicom.read_series(task.path) if of_series else None
        key = (task.path.resolve().parent, series.uid) if series else None
        named = task.name != task.path.stem or task.mpp is not None or task.mask is not None
        if key is None or named or key not in seen:
            kept.append(task)
        if key is not None:
            seen.add(key)
    if len(kept) < len(tasks):
        logger.warning("%d DICOM files belong to slides that others of them name already.", len(tasks) - len(kept))
    return kept
