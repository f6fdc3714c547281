"""Tables that name images by their paths: metadata.csv and its like as `datasets` knows them, and other CSV files."""

import csv
import json
import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from .columns import LABEL_COLUMNS, PATH_COLUMNS, SPLIT_COLUMN, Columns, named_like
from .listing import split_in_name, split_of_folder
from .regular_files import refuse_irregular

logger = logging.getLogger(__name__)

_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_LISTS = (".csv", ".tsv")
_DELIMITERS = ",;\t"
_MOST_FIELD = 1 << 30  # characters
_WHOLE = re.compile(r"-?(0|[1-9]\d*)")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[nN]a[nN]")
_ENCODED = re.compile(r"""\{\s*['"](bytes|path)['"]|b['"]""")


def find_lists(folder: Path, files: list[str], columns: Columns) -> list[str]:
    """Those of the files that list images with labels: every metadata file, else the CSV files right in the folder.

    Args:
        folder: The data set's.
        files: All below it, relative to it.
        columns: A CSV file needs a column of paths and one of labels, by these names or by usual ones.

    Raises:
        ValueError: A table cannot be read.
    """
    metadata = list(filter(is_metadata, files))
    if metadata:
        return metadata
    lists = []
    for file in files:
        if "/" not in file and file.lower().endswith(_LISTS):
            row = next(_csv_rows(folder / file), {})
            if _path_column(row, columns) and named_like(row, columns.label, LABEL_COLUMNS):
                lists.append(file)
            elif _path_column(row, columns):
                logger.warning(
                    "%s names images but no labels, so it is not read. If it has labels, pass --label_column.",
                    folder / file,
                )
    return lists


def is_metadata(file: str) -> bool:
    """Whether a file has the name of a table that lists all images of its folder."""
    return PurePosixPath(file).name in _METADATA


def open_lists(folder: Path, lists: list[str], columns: Columns) -> datasets.Dataset:
    """The rows of tables as one data set.

    Args:
        folder: The data set's.
        lists: Of `find_lists`, relative to the folder.
        columns: See there.

    Returns:
        The columns of the tables, typed by what they hold. Paths are relative to `folder`, in the column that `columns`
        names for images, or `image`. `split` is added where the tables or the folders of the images are named for
        splits.

    Raises:
        ValueError: A table cannot be read, has no column of paths, or an image is listed twice.
    """
    rows: list[dict[str, Any]] = []
    image = columns.image or "image"
    for file in lists:
        found = list(_rows(folder / file))
        names = list(found[0]) if found else []
        name = _path_column(names, columns)
        if name is None:
            raise ValueError(
                f"{folder / file} has no column of paths, expected one of {', '.join(PATH_COLUMNS)}; its columns are "
                f"{names}."
            )
        split = split_in_name(PurePosixPath(file).stem)
        for row in found:
            path = _relative(folder, file, row.pop(name, None))
            rows.append({**row, image: path, **_split_of(row, path, split)})
    _refuse_repeated(folder, [row[image] for row in rows])
    found_names = dict.fromkeys(name for row in rows for name in row)
    try:
        table = pa.table({name: _typed([row.get(name) for row in rows], name == image) for name in found_names})
    except (pa.ArrowException, ValueError) as error:
        raise ValueError(f"The tables {lists} of {folder} cannot be used: {error}") from error
    return datasets.Dataset(datasets.table.InMemoryTable(table))


def _split_of(row: dict[str, Any], path: str | None, split: str | None) -> dict[str, str]:
    """The split of a row that does not say it itself: its table's, or that of the folder of its image."""
    if SPLIT_COLUMN in row or path is None:
        return {}
    split = split or split_of_folder(path.split("/")[0] if "/" in path else "")
    return {SPLIT_COLUMN: split} if split else {}


def _relative(folder: Path, file: str, path: Any) -> str | None:
    """A path of a table, relative to the data set's folder if it lies in it; None if there is none."""
    if not isinstance(path, str) or not path:
        return None
    if _ENCODED.match(path):
        raise ValueError(
            f"{folder / file} holds images as text ({path[:30]!r}...). Expected paths; save it as Parquet."
        )
    for root in (folder, folder.absolute(), folder.resolve()):
        if Path(path).is_absolute() and Path(path).is_relative_to(root):
            return Path(path).relative_to(root).as_posix()
    beside = PurePosixPath(file).parent / path
    return str(beside) if (folder / beside).is_file() or not (folder / path).is_file() else str(PurePosixPath(path))


def _refuse_repeated(folder: Path, paths: list[str | None]) -> None:
    seen: set[str] = set()
    for path in filter(None, paths):
        if path in seen:
            raise ValueError(f"{folder}: the image {path} is listed twice, expected one row for each image.")
        seen.add(path)


def _path_column(names: Iterable[str], columns: Columns) -> str | None:
    return named_like(names, columns.image, PATH_COLUMNS)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    refuse_irregular(path)
    if path.suffix == ".parquet":
        return iter(pq.read_table(path).to_pylist())
    return _json_rows(path) if path.suffix == ".jsonl" else _csv_rows(path)


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: expected an object, got {type(row).__name__}.")
            yield row


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    refuse_irregular(path)
    before = csv.field_size_limit(_MOST_FIELD)  # of the whole process
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=max(_DELIMITERS, key=first.count))
            header: list[str] = []
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                if not header:
                    header = _header(path, cells)
                elif len(cells) != len(header):
                    raise ValueError(
                        f"{path}, line {reader.line_num}: {len(cells)} values, expected {len(header)}: {header}."
                    )
                else:
                    yield {name: cell.strip() or None for name, cell in zip(header, cells)}
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as CSV in UTF-8: {error}.") from error
    finally:
        csv.field_size_limit(before)


def _header(path: Path, cells: list[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    if len(set(header)) < len(header):
        raise ValueError(f"{path} has columns of the same name: {header}.")
    return header


def _typed(values: list[Any], as_text: bool) -> pa.Array:
    """A column with the type that its texts have in common; leading zeros make a text of a number."""
    texts = [value for value in values if value is not None]
    if as_text or not texts:
        return pa.array(values, pa.string())
    if not all(isinstance(value, str) for value in texts):
        return pa.array(values)
    if all(map(_WHOLE.fullmatch, texts)):
        return pa.array([None if value is None else int(value) for value in values])
    if all(map(_NUMBER.fullmatch, texts)):
        fractional = any("." in text or "n" in text.lower() for text in texts)
        return (
            pa.array([None if value is None else float(value) for value in values]) if fractional else pa.array(values)
        )
    if all(text.lower() in ("true", "false") for text in texts):
        return pa.array([None if value is None else value.lower() == "true" for value in values])
    return pa.array(values, pa.string())
