"""Which slides files, folders and manifests name."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

_SLIDE_SUFFIXES = frozenset(
    (".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide", ".vms", ".vmu", ".czi")
)
_IMAGE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp"))
_MANIFEST_SUFFIXES = (".csv", ".txt")
_MANIFEST_COLUMNS = ("slide", "name", "mpp", "mask")


@dataclass(frozen=True)
class SlideTask:
    """One slide of a run.

    Attributes:
        path: The file.
        name: Of its folder below the output folder.
        mpp: um per px of level 0, instead of what the file says.
        mask: A drawing of its tissue.
    """

    path: Path
    name: str
    mpp: Optional[float] = None
    mask: Optional[Path] = None


def find_slides(sources: Sequence[str]) -> list[SlideTask]:
    """The slides that files, folders and manifests name, in their order.

    A folder gives the slides in it, not in its subfolders; one that holds DICOM files is a slide of its own. A
    manifest is a .csv file with a column `slide` and, as one likes, `name` (of the folder of results), `mpp` and
    `mask`, or a .txt file with a path per line; its paths are relative to its folder.

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
                    f"The folder {source} holds no slides ({' '.join(sorted(_SLIDE_SUFFIXES))}) or images."
                )
            tasks += found
        elif source.suffix.lower() in _MANIFEST_SUFFIXES:
            tasks += _read_manifest(source)
        else:
            tasks.append(SlideTask(source, _checked_name(source.stem, source)))
    if not tasks:
        raise ValueError("There are no slides to classify.")
    by_name: dict[str, SlideTask] = {}
    for task in tasks:
        # Not all file systems tell upper and lower case apart.
        other = by_name.setdefault(task.name.casefold(), task)
        if other is not task:
            raise ValueError(
                f"{other.path} and {task.path} would both be written to {task.name!r}. Give them different names "
                "in the column `name` of a manifest."
            )
    return tasks


def _slides_in(folder: Path) -> list[SlideTask]:
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    dicom = [path for path in files if path.suffix.lower() == ".dcm"]
    suffixes = _SLIDE_SUFFIXES
    if not any(path.suffix.lower() in (".vms", ".vmu") for path in files):  # their pixels are .jpg files beside them
        suffixes |= _IMAGE_SUFFIXES
    tasks = [SlideTask(path, _checked_name(path.stem, path)) for path in files if path.suffix.lower() in suffixes]
    # The levels of a DICOM slide are files of one folder; OpenSlide finds the others from any of them.
    return tasks + [SlideTask(path, _checked_name(folder.resolve().name, path)) for path in dicom[:1]]


def _read_manifest(path: Path) -> list[SlideTask]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"The manifest {path} cannot be read: {error}.") from error
    if path.suffix.lower() == ".txt":
        rows: list[dict[str, Any]] = [{"slide": line.strip()} for line in text.splitlines() if line.strip()]
    else:
        reader = csv.DictReader(text.splitlines())
        unknown = set(reader.fieldnames or ()) - set(_MANIFEST_COLUMNS)
        if unknown or "slide" not in (reader.fieldnames or ()):
            raise ValueError(
                f"The manifest {path} has the columns {reader.fieldnames}, expected `slide` and, as needed, "
                "name, mpp, mask."
            )
        rows = list(reader)
    if not rows:
        raise ValueError(f"The manifest {path} names no slides.")
    return [_task_of_row(path, number, row) for number, row in enumerate(rows, start=1)]


def _task_of_row(manifest: Path, number: int, row: dict[str, Any]) -> SlideTask:
    where = f"slide {number} of {manifest}"
    cells = {column: (row.get(column) or "").strip() for column in _MANIFEST_COLUMNS}
    if not cells["slide"] or None in row:
        raise ValueError(f"{where} has no path, or more cells than columns.")
    path = manifest.parent / cells["slide"]
    try:
        mpp = float(cells["mpp"]) if cells["mpp"] else None
    except ValueError as error:
        raise ValueError(f"{where} has the mpp {cells['mpp']!r}, expected a number of um/px.") from error
    mask = manifest.parent / cells["mask"] if cells["mask"] else None
    return SlideTask(path, _checked_name(cells["name"] or path.stem, where), mpp, mask)


def _checked_name(name: str, source: Any) -> str:
    """A name that is one folder below the output folder, whatever a file or a manifest is called."""
    if name in ("", ".", "..") or name != Path(name).name or "\\" in name or not name.isprintable():
        raise ValueError(f"{source} gives the name {name!r} for its folder of results. Give another one in a manifest.")
    return name
