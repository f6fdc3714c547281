"""Slides that a manifest names."""

import csv
import io
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

from ..plain_text import escaped
from ..slide_files.file_check import check_is_file
from .addresses import is_url, without_secrets
from .task import SlideTask, checked_name
from .url_tasks import task_of_url

logger = logging.getLogger(__name__)

MANIFEST_SUFFIXES = (".csv", ".tsv", ".txt")
_COLUMNS = ("slide", "name", "mpp", "mask")
_SEPARATORS = ",;\t"
_SEPARATOR_LINE = re.compile(r"\Asep=.\r?\n")  # of Excel


def read_manifest(path: Path, also: Sequence[str] = ()) -> list[SlideTask]:
    """The slides of a manifest, in its order.

    A .csv or .tsv file has a column `slide` and, as one likes, `name` (of the folder of results), `mpp` and `mask`,
    whatever their case; commas, semicolons or tabs part them. The columns `also` are kept as they are, others are
    ignored with a warning. A .txt file has a path per line. Empty lines are passed over. Paths are relative to the
    manifest's folder; slides may also be named by URL. The text is UTF-8; a path of other bytes is taken if it is that
    of a file.

    Raises:
        ValueError: It cannot be read, has no such column, names no slides, or a row is wrong.
    """
    text = _text_of(path)
    if path.suffix.lower() == ".txt":
        rows: list[dict[Any, Any]] = [{"slide": line.strip()} for line in text.splitlines() if line.strip()]
        separator = ","
    else:
        text = _SEPARATOR_LINE.sub("", text)
        separator = _separator(text)
        rows = _rows(path, text, separator, also)
    if not rows:
        raise ValueError(f"The manifest {path} names no slides.")
    return [_task_of_row(path, number, row, separator, also) for number, row in enumerate(rows, start=1)]


def _text_of(path: Path) -> str:
    """The text, in which a lone surrogate stands for each byte that is no UTF-8, as in the paths of Python."""
    try:
        check_is_file(path, "manifest")
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"The manifest {path} cannot be read: {error.strerror}.") from error
    if b"\0" in content:
        raise ValueError(f"The manifest {path} cannot be read: it holds bytes of 0, expected text in UTF-8.")
    return content.decode("utf-8-sig", "surrogateescape").replace("\r\n", "\n").replace("\r", "\n")


def _separator(text: str) -> str:
    """What parts the columns: the one of them that occurs most in the first line that holds anything."""
    header = next((line for line in text.splitlines() if line.strip()), "")
    return max(_SEPARATORS, key=header.count)


def _rows(path: Path, text: str, separator: str, also: Sequence[str]) -> list[dict[Any, Any]]:
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
    except csv.Error as error:  # as a cell of more than 131,072 characters, behind a quote that nothing closes
        raise ValueError(f"The manifest {path} cannot be read: {error}.") from error
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    names = [name.strip().casefold() for name in rows[0]] if rows else []
    twice = sorted(name for name, count in Counter(names).items() if count > 1 and name in (*_COLUMNS, *also))
    if "slide" not in names or twice:
        problem = f"has the columns {twice} twice" if twice else f"has the columns {_shown(rows[0] if rows else [])}"
        expected = ", ".join((*_COLUMNS[1:], *also))
        raise ValueError(f"The manifest {path} {problem}, expected `slide` and, as needed, {expected}.")
    others = [name for name, low in zip(rows[0], names) if low and low not in (*_COLUMNS, *also)]
    if others:
        read = f"{', '.join((*_COLUMNS, *also)[:-1])} and {(*_COLUMNS, *also)[-1]}"
        logger.warning("The manifest %s: the columns %s are ignored; %s are read.", path, _shown(others), read)
    # As in csv.DictReader, what is more than the columns lies under None.
    return [{**dict(zip(names, row)), **_rest(row[len(names) :])} for row in rows[1:]]


def _shown(cells: Sequence[str]) -> str:
    return without_secrets(str(list(cells)))  # where there is no header, they are what should be below it


def _rest(cells: list[str]) -> dict[Any, Any]:
    return {None: cells} if any(cell.strip() for cell in cells) else {}


def _task_of_row(manifest: Path, number: int, row: dict[Any, Any], separator: str, also: Sequence[str]) -> SlideTask:
    where = f"slide {number} of {manifest}"
    cells = {column: (row.get(column) or "").strip() for column in _COLUMNS}
    if not cells["slide"] or None in row:
        raise ValueError(f"{where} has no path, or more cells than columns.")
    if is_url(cells["mask"]):
        raise ValueError(f"{where} has its mask at a URL, expected a file.")
    mask = manifest.parent / cells["mask"] if cells["mask"] else None
    more = {column: row.get(column) or "" for column in also}
    mpp = _mpp(cells["mpp"], separator, where)
    if is_url(cells["slide"]):
        task = task_of_url(cells["slide"], cells["name"], where)
        return replace(task, mpp=mpp, mask=mask, more=more, manifest_folder=manifest.parent)
    path = manifest.parent / cells["slide"]
    for column, named in (("path", path), ("mask", mask)):
        if named is not None:
            _check_bytes(named, f"{where} has the {column}")
    name = checked_name(cells["name"] or path.stem, where)
    return SlideTask(path, name, mpp, mask, more=more, manifest_folder=manifest.parent)


def _check_bytes(path: Path, where: str) -> None:
    """Refuse a path with bytes that are no UTF-8 and no file's: the manifest was saved in another encoding."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError as error:
        if not os.path.lexists(path):
            raise ValueError(
                f"{where} {escaped(str(path))}, which is not UTF-8, and there is no such file. Save the manifest as "
                "UTF-8."
            ) from error


def _mpp(cell: str, separator: str, where: str) -> Optional[float]:
    # Where semicolons part the columns, commas are in the numbers.
    text = cell if separator == "," else cell.replace(",", ".")
    if not text:
        return None
    try:
        mpp = float(text)
    except ValueError as error:
        raise ValueError(f"{where} has the mpp {cell!r}, expected a number of um/px.") from error
    if not (mpp > 0 and math.isfinite(mpp)):
        raise ValueError(f"{where} has the mpp {cell!r}, expected a number of um/px above 0.")
    return mpp
