"""`metadata.json` of a SPIDER folder: its records, checked one by one, become an Arrow table."""

import functools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..files import replacing
from .caches import map_ranges
from .json_list import RepeatedKeys, iterate_json_list
from .patches import bad_images
from .settings import METADATA_SIZE
from .tables import SPLITS, TABLE_NAME, BadRecord, map_table, refuse, table_schema, write_table

KEYS = tuple(f"{row}_{column}" for row in range(METADATA_SIZE) for column in range(METADATA_SIZE))
CENTER = len(KEYS) // 2
_CONTEXT_KEYS = frozenset(KEYS) - {KEYS[CENTER]}
_TEXT_FIELDS = ("slide_id", "image_name", "class", "split")
_NAME_TYPES = {str, type(None)}
_NAMES = pa.schema([("name", pa.string())])
_BATCH = 4000  # records per batch of the table


def place_of(number: int) -> str:
    """How messages call a record."""
    return f"record {number} of metadata.json"


def build_table(source: Path, patch_size: int, skip: bool, work: Path, memory: Path) -> list[BadRecord]:
    """Check the records of a SPIDER folder and their images, and write `work / TABLE_NAME`.

    Args:
        source: Holds `metadata.json` and `images/`.
        patch_size: Side in px that every image must have.
        skip: Whether to leave bad records out, rather than to raise at the first; images are decoded then, since
            only their headers are looked at otherwise.
        work: Folder for the table, `table_schema(5)`, and for what is needed on the way.
        memory: Remembers the bad images, see `check_images`; another one for another `skip`.

    Returns:
        The records that were left out.

    Raises:
        ValueError: A record is bad and `skip` is false, or the file is not a list of records.
    """
    schema = table_schema(METADATA_SIZE)
    parsed = work / "parsed.arrow"
    bad: list[BadRecord] = []
    write_table(parsed, schema, read_batches(source / "metadata.json", schema, skip, bad))
    table = map_table(parsed)
    check = functools.partial(bad_images, source / "images", patch_size, skip)
    problems = check_images(table, check, memory)
    bad_rows = _rows_with(table, problems)
    found = [_bad_image(table, row, problems) for row in bad_rows.to_pylist()]
    if not skip:
        refuse(found)
    if found:
        good_rows = np.setdiff1d(np.arange(len(table)), bad_rows.to_numpy())
        write_table(work / TABLE_NAME, schema, table.take(good_rows).to_batches())
        parsed.unlink()
    else:
        os.replace(parsed, work / TABLE_NAME)
    return bad + found


def read_batches(path: Path, schema: pa.Schema, skip: bool, bad: list[BadRecord]) -> Iterator[pa.RecordBatch]:
    """Batches of good records; a bad one goes to the list, or raises unless `skip`."""
    rows: list[tuple] = []
    centers: dict[str, int] = {}
    for number, record in enumerate(iterate_json_list(path)):
        problem = _problem_of(record) or _repeated_center(record["image_name"], number, centers)
        if problem:
            bad.append(BadRecord(place_of(number), *problem))
            if not skip:
                refuse(bad)
            continue
        centers[record["image_name"]] = number
        patches = [record["context_info"].get(key) for key in KEYS]
        patches[CENTER] = record["image_name"]
        patient = record.get("patient_id")
        patient = None if patient in (None, "") else str(patient)
        rows.append((number, record["slide_id"], patient, record["class"], record["split"], patches))
        if len(rows) == _BATCH:
            yield _batch(rows, schema)
            rows = []
    if rows:
        yield _batch(rows, schema)


def _batch(rows: list[tuple], schema: pa.Schema) -> pa.RecordBatch:
    return pa.record_batch([pa.array(column, field.type) for column, field in zip(zip(*rows), schema)], schema=schema)


def _repeated_center(name: str, number: int, centers: dict[str, int]) -> tuple[str, str] | None:
    if name in centers:
        return "image_name", f"{name!r} is the centre of record {centers[name]} already; expected one record per patch."
    return None


def _problem_of(record: Any) -> tuple[str, str] | None:
    """Field and problem of a record, None if it is good as far as can be told without its images."""
    if not isinstance(record, dict):
        return "record", f"expected an object, got {type(record).__name__}."
    if isinstance(record, RepeatedKeys):
        return _shown(record.first), "the key appears twice."
    for field in _TEXT_FIELDS:
        value = record.get(field)
        if not isinstance(value, str) or not value:
            return field, f"expected a non-empty string, got {value!r}." if field in record else "the key is missing."
        if not _is_text(value):
            return field, f"expected text, got {value!r} with half a character (a surrogate)."
    patient = record.get("patient_id")
    if type(patient) not in (str, int, type(None)) or not _is_text(str(patient)):
        return "patient_id", f"expected text, a whole number or null, got {patient!r}."
    if record["split"] not in SPLITS:
        return "split", f"unknown split {record['split']!r}, expected one of {', '.join(SPLITS)}."
    if "context_info" not in record:
        return "context_info", "the key is missing."
    return _problem_of_context(record["context_info"])


def _problem_of_context(context: Any) -> tuple[str, str] | None:
    if not isinstance(context, dict):
        return "context_info", f"expected an object, got {type(context).__name__}."
    if isinstance(context, RepeatedKeys):
        return f"context_info.{_shown(context.first)}", "the key appears twice."
    if not context.keys() <= _CONTEXT_KEYS:
        unknown = sorted(context.keys() - _CONTEXT_KEYS)
        return f"context_info.{_shown(unknown[0])}", "unknown key, expected '0_0' to '4_4' without the centre '2_2'."
    if not {type(name) for name in context.values()} <= _NAME_TYPES:
        key = next(key for key, name in context.items() if type(name) not in _NAME_TYPES)
        return f"context_info.{key}", f"expected a file name or null, got {context[key]!r}."
    for key, name in context.items():
        if name is not None and not _is_text(name):
            return f"context_info.{key}", f"expected text, got {name!r} with half a character (a surrogate)."
    return None


def _is_text(value: str) -> bool:
    """Whether UTF-8 can hold a string: JSON can spell surrogates that stand alone."""
    return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)


def _shown(key: str) -> str:
    """A key as a message can show it, whatever its characters."""
    return repr(key)[1:-1]


def check_images(table: pa.Table, check: Callable[[list[str]], list[tuple[str, str]]], memory: Path) -> dict[str, str]:
    """Problems of the images that a table names: missing, outside the folder, unreadable, wrong size.

    Every unique image is opened once, in several processes. The result is remembered in a file; of images that it
    calls bad a later call looks again, for they may have been mended.

    Args:
        table: Of regions.
        check: Name and problem of those of some images that cannot be used. Picklable.
        memory: JSON file for the result, named so that it belongs to these images and this check.

    Returns:
        File name -> problem, of the bad images alone.
    """
    if memory.exists():
        found = check(list(json.loads(memory.read_text(encoding="utf-8"))))
    else:
        names = pc.unique(_names(table)).drop_null()
        # Processes read the names from a file, for sending millions of them would take memory.
        list_of_names = memory.with_suffix(".names")
        write_table(list_of_names, _NAMES, [pa.record_batch([names], schema=_NAMES)])
        check_range = functools.partial(_check_range, list_of_names, check)
        found = map_ranges(check_range, len(names), "checking images")
        list_of_names.unlink()
    with replacing(memory) as unfinished:
        unfinished.write_text(json.dumps(dict(found)), encoding="utf-8")
    return dict(found)


def _check_range(
    list_of_names: Path, check: Callable[[list[str]], list[tuple[str, str]]], start: int, stop: int
) -> list[tuple[str, str]]:
    return check(map_table(list_of_names)["name"].slice(start, stop - start).to_pylist())


def _names(table: pa.Table) -> pa.ChunkedArray:
    return pa.chunked_array([chunk.flatten() for chunk in table["patches"].chunks], pa.string())


def _rows_with(table: pa.Table, problems: dict[str, str]) -> pa.Array:
    """Sorted numbers of the rows that use any of the names."""
    if not problems:
        return pa.array([], pa.int64())
    uses = pc.indices_nonzero(pc.is_in(_names(table), value_set=pa.array(list(problems), pa.string())))
    return pc.unique(pc.divide(uses.cast(pa.int64()), len(KEYS)))


def _bad_image(table: pa.Table, row: int, problems: dict[str, str]) -> BadRecord:
    names = table["patches"][row].as_py()
    index = CENTER if names[CENTER] in problems else next(i for i, name in enumerate(names) if name in problems)
    field = "image_name" if index == CENTER else f"context_info.{KEYS[index]}"
    return BadRecord(place_of(table["record"][row].as_py()), field, problems[names[index]])
