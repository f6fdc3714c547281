"""Data sets of whole regions as rows of virtual patches: which column is what, and which rows are bad."""

import functools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from .caches import map_ranges
from .columns import Columns, image_column, is_whole_number, label_column, patient_column, slide_column
from .image_files import image_problem, open_encoded
from .patches import RegionPatches, beside, path_problem, region_problem
from .tables import TABLE_NAME, BadRecord, refuse, table_schema, write_table

logger = logging.getLogger(__name__)

_BATCH = 4000  # rows per batch of the table
_UNKNOWN_CLASS = -1  # how `datasets` marks a ClassLabel without a label


class WholeRegions:
    """Whole regions and their labels.

    Args:
        splits: Of `open_dataset`.
        columns: Which columns to read.
        size: Patches along one side of a region, and side of a patch in px.
        folder: What paths of images are relative to.

    Raises:
        ValueError: A column is missing or has another type than needed.
    """

    def __init__(self, splits: dict[str, Any], columns: Columns, size: tuple[int, int], folder: Path) -> None:
        features = next(iter(splits.values())).features
        self._slide = slide_column(features, columns.slide)
        self._patient = patient_column(features, columns.patient)
        self._image = image_column(features, columns.image)
        self._label = label_column(features, columns.label, (self._image, self._slide, self._patient))
        if self._slide is None:
            logger.warning(
                "The data set has no slide column: each region counts as its own slide, and neighbouring regions of "
                "one slide may leak from train into validation. Name the column with --slide_column."
            )
        self._paths_are_named = not isinstance(features[self._image], datasets.Image)
        self._splits = {
            name: split.cast_column(self._image, datasets.Image(decode=False)) for name, split in splits.items()
        }
        self._context_size, self._patch_size = size
        self._folder = folder
        if is_whole_number(features[self._label]):
            self._warn_of_numbers()

    def _warn_of_numbers(self) -> None:
        found = {value for split in self._splits.values() for value in _values(split, self._label)} - {None}
        logger.warning(
            "The labels in the column %r are numbers without names: %s. They are taken as the names of the classes; "
            "--class_mapping gives them others.",
            *(self._label, ", ".join(map(str, sorted(found)[:20])) + (", ..." if len(found) > 20 else "")),
        )

    def patches(self) -> RegionPatches:
        """Opens the patches that the table names."""
        return RegionPatches(self._splits, self._image, self._context_size, self._patch_size, self._folder)

    def build_table(self, skip: bool, work: Path) -> list[BadRecord]:
        """Check every row and write `work / TABLE_NAME`.

        Args:
            skip: Whether to leave bad rows out, rather than to raise at the first; images are decoded then.
            work: Folder for the table, `table_schema(context_size)`.

        Returns:
            The rows that were left out.

        Raises:
            ValueError: A row is bad and `skip` is false.
        """
        bad: list[BadRecord] = []
        schema = table_schema(self._context_size)
        write_table(work / TABLE_NAME, schema, self._batches(schema, skip, bad))
        return bad

    def _batches(self, schema: pa.Schema, skip: bool, bad: list[BadRecord]) -> Iterator[pa.RecordBatch]:
        n = self._context_size
        places = [f"{row}_{column}" for row in range(n) for column in range(n)]
        for name, split in self._splits.items():
            problems = self._problems(name, split, decode=skip)
            if not skip:
                refuse(list(problems.values()))
            bad += problems.values()
            rows = [
                (*facts, name, [f"{name}/{facts[0]:06d}/{place}" for place in places])
                for facts in self._facts(name, split)
                if facts[0] not in problems
            ]
            for start in range(0, len(rows), _BATCH):
                columns = zip(*rows[start : start + _BATCH])
                yield pa.record_batch([pa.array(c, field.type) for c, field in zip(columns, schema)], schema=schema)

    def _problems(self, name: str, split: Any, decode: bool) -> dict[int, BadRecord]:
        side = self._context_size * self._patch_size
        place = f"row {{}} of split {name!r}"
        check_image = functools.partial(_check_image, self._folder, self._paths_are_named, side, decode)
        check = functools.partial(_check_rows, split, self._image, check_image)
        problems = {
            row: BadRecord(place.format(row), self._image, problem)
            for row, problem in map_ranges(check, len(split), f"checking regions of {name}")
        }
        for field in (self._label, self._slide):
            if field is not None:
                for row, value in enumerate(_values(split, field)):
                    if value is None or value == "" or (field == self._label and value == _UNKNOWN_CLASS):
                        problems[row] = BadRecord(place.format(row), field, f"expected a value, got {value!r}.")
        return dict(sorted(problems.items()))

    def _facts(self, name: str, split: Any) -> Iterator[tuple[int, str, str | None, str | None]]:
        """Row, slide, patient and class of every row; patient and class are None where the row has none."""
        feature = split.features[self._label]
        names = feature.names if isinstance(feature, datasets.ClassLabel) else None
        labels = _values(split, self._label)
        if self._slide is None:
            slides = [f"{name}_{row:06d}" for row in range(len(split))]
        else:
            slides = _values(split, self._slide)
        patients = [None] * len(split) if self._patient is None else _values(split, self._patient)
        for row, (label, slide, patient) in enumerate(zip(labels, slides, patients)):
            good = label is not None and label != _UNKNOWN_CLASS
            class_name = (names[label] if names else str(label)) if good else None
            yield row, str(slide), None if patient in (None, "") else str(patient), class_name


def _values(split: Any, column: str) -> list:
    return split.select_columns([column]).with_format("arrow")[:][column].to_pylist()


def _check_rows(
    split: Any, column: str, check: Callable[[Any], str | None], start: int, stop: int
) -> list[tuple[int, str]]:
    return [(row, problem) for row in range(start, stop) if (problem := check(split[row][column]))]


def _check_image(folder: Path, named: bool, side: int, decode: bool, encoded: Any) -> str | None:
    problem = path_problem(folder, encoded) if named else None
    if problem:
        return problem
    header_problem = functools.partial(region_problem, side=side)
    try:
        return image_problem("the image", lambda: open_encoded(beside(folder, encoded)), header_problem, decode)
    except FileNotFoundError:
        return f"there is no file {encoded['path']!r} in {folder}."
