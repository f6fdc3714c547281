"""Which files a slide is made of, known before it is opened: from their names and headers."""

from pathlib import Path

from .dicom import files_of_series

_MOST_BYTES = 1 << 20  # of a text that names files


def files_to_copy(path: Path) -> list[Path]:
    """The files without which a copy of a slide would be another slide, below the folder of `path`.

    `content.files_of_slide` says the same of an opened slide; to open one on a slow disk is what a copy is to avoid.

    Raises:
        OSError: A file cannot be looked at.
    """
    suffix = path.suffix.lower()
    if suffix == ".mrxs":
        folder = path.with_suffix("")
        return [path, *sorted(file for file in folder.rglob("*") if file.is_file())]
    if suffix in (".vms", ".vmu"):
        return [path, *_named_in(path)]
    return [path, *(file for file in files_of_series(path) if file != path)]


def _named_in(path: Path) -> list[Path]:
    """The files beside a text of Hamamatsu that it names, as `ImageFile=a.jpg`."""
    with path.open("rb") as file:
        text = file.read(_MOST_BYTES).decode("latin-1")
    values = {line.partition("=")[2].strip() for line in text.splitlines()}
    named = {path.parent / Path(value).name for value in values if value and len(value) < 256}
    return sorted(file for file in named - {path} if file.is_file())
