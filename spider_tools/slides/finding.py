"""Which slides files, folders and manifests name."""

import logging
from collections.abc import Sequence
from pathlib import Path

from . import dicom
from .file_check import check_is_file
from .manifests import MANIFEST_SUFFIXES, read_manifest
from .slide_error import SlideError
from .task import SlideTask, checked_name

logger = logging.getLogger(__name__)

_SLIDE_SUFFIXES = frozenset(
    (".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide", ".vms", ".vmu", ".czi")
)
_IMAGE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp"))


def find_slides(sources: Sequence[str], also: Sequence[str] = ()) -> list[SlideTask]:
    """The slides that files, folders and manifests name, in their order.

    A folder gives the slides in it, not in its subfolders. What of it cannot be a slide, as a link to nowhere or a file
    whose name cannot be a folder's, becomes a task that fails and takes no other with it. Of DICOM files, each series
    is one slide. A manifest is what `manifests.read_manifest` reads, the columns `also` included.

    Raises:
        ValueError: There is no slide, a manifest is wrong, or two slides have one name or one that leaves the output
            folder.
    """
    tasks: list[SlideTask] = []
    for source in map(Path, sources):
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
                f"{other.path} and {task.path} would both be written to {task.name!r}. Give them different names "
                "in the column `name` of a manifest."
            )


def _slides_in(folder: Path) -> list[SlideTask]:
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    files = [path for path in entries if not _problem_of(path)]
    slides = [path for path in files if path.suffix.lower() in _SLIDE_SUFFIXES]
    images = [path for path in files if path.suffix.lower() in _IMAGE_SUFFIXES]
    if any(path.suffix.lower() in (".vms", ".vmu") for path in slides):  # their pixels are .jpg files beside them
        images = []
    stems = {path.stem.casefold() for path in slides}
    beside = [path for path in images if path.stem.casefold() in stems]
    if beside:
        names = [path.name for path in beside]
        logger.warning("In %s the images %s lie beside slides of their names, and are not classified.", folder, names)
    found = sorted({*slides, *images} - set(beside))
    tasks = [_named_by(path.stem, path, path) for path in found]
    tasks += _dicom_slides(folder, [path for path in files if path.suffix.lower() == dicom.SUFFIX])
    return tasks + _unusable(entries)


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
        series = dicom.read_series(task.path) if task.path.suffix.lower() == dicom.SUFFIX else None
        key = (task.path.resolve().parent, series.uid) if series else None
        named = task.name != task.path.stem or task.mpp is not None or task.mask is not None
        if key is None or named or key not in seen:
            kept.append(task)
        if key is not None:
            seen.add(key)
    if len(kept) < len(tasks):
        logger.warning("%d DICOM files belong to slides that others of them name already.", len(tasks) - len(kept))
    return kept
