"""Tables of regions as Arrow files, and the records that cannot become a row of one."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

TABLE_NAME = "regions.arrow"
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class BadRecord:
    """Something in a data set that cannot be used.

    Attributes:
        place: The record, row or archive member, as `"record 12 of metadata.json"`.
        field: Its field, as `"context_info.0_1"`.
        problem: What was expected and what came.
    """

    place: str
    field: str
    problem: str

    def __str__(self) -> str:
        return f"{self.place[:1].upper()}{self.place[1:]}, field {self.field!r}: {self.problem}"


def refuse(bad: list[BadRecord]) -> None:
    """Raise a `ValueError` that spells out the first bad record and counts the others, if there are any."""
    if bad:
        more = f" {len(bad) - 1} more are bad." if len(bad) > 1 else ""
        raise ValueError(f"{bad[0]}{more} Mend the data, or pass --skip_bad_records to leave such records out.")


def table_schema(context_size: int) -> pa.Schema:
    """Columns of a table of regions; patches are row-major, null where none is, and a patient may be null."""
    return pa.schema(
        [
            ("record", pa.int64()),
            ("slide_id", pa.string()),
            ("patient_id", pa.string()),
            ("class", pa.string()),
            ("split", pa.string()),
            ("patches", pa.list_(pa.string(), context_size**2)),
        ]
    )


def write_table(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Write batches as an Arrow stream, the format that `datasets.Dataset.from_file` maps into memory."""
    with pa.OSFile(os.fspath(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def map_table(path: Path) -> pa.Table:
    """An Arrow stream, mapped into memory."""
    return pa.ipc.open_stream(pa.memory_map(os.fspath(path))).read_all()
