"""Data sets of whole regions, of the `datasets` library or an image folder, as rows of virtual patches."""

import functools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from ..images import DECODING_ERRORS
from .caches import map_ranges
from .patches import RegionPatches, open_encoded, region_problem
from .tables import SPLITS, TABLE_NAME, BadRecord, refuse, table_schema, write_table

logger = logging.getLogger(__name__)

_BATCH = 4000  # rows per batch of the table
_UNKNOWN_CLASS = -1  # how `datasets` marks a ClassLabel without a label


@dataclass(frozen=True)
class Columns:
    """Names of the columns to read; None to find them by their types.

    Attributes:
        image: A column of images.
        label: A column of class labels or strings.
        slide: A column that says which slide a region is from.
    """

    image: str | None = None
    label: str | None = None
    slide: str | None = None


def open_dataset(folder: Path, cache_dir: Path) -> dict[str, Any]:
    """Open a saved data set, or a folder of parquet files or images that `load_dataset` understands.

    Returns:
        Split name -> data set; one that has no splits is all `"train"`.

    Raises:
        ValueError: The folder is none of these, or a split is unknown.
    """
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            opened = datasets.load_from_disk(str(folder))
        else:
            opened = datasets.load_dataset(str(folder), cache_dir=str(cache_dir / "datasets"))
    except (datasets.exceptions.DatasetsError, FileNotFoundError) as error:
        raise ValueError(f"{folder} cannot be opened as a data set of regions: {error}") from error
    splits = {str(name): split for name, split in opened.items()} if isinstance(opened, dict) else {"train": opened}
    unknown = sorted(set(splits) - set(SPLITS))
    if unknown:
        raise ValueError(f"{folder} has the splits {unknown}, expected some of {', '.join(SPLITS)}.")
    return splits


class WholeRegions:
    """Whole regions and their labels.

    Args:
        splits: Of `open_dataset`.
        columns: Which columns to read.
        context_size: Patches along one side of a region.
        patch_size: Side of a patch in px.

    Raises:
        ValueError: A column is missing or has another type than needed.
    """

    def __init__(self, splits: dict[str, Any], columns: Columns, context_size: int, patch_size: int) -> None:
        features = next(iter(splits.values())).features
        self._image = _find_column("image", columns.image, features, _is_image)
        self._label = _find_column("label", columns.label, features, _is_label)
        self._slide = columns.slide or ("slide_id" if "slide_id" in features else None)
        if self._slide is None:
            logger.warning(
                "The data set has no slide column: each region counts as its own slide, and neighbouring regions of "
                "one slide may leak from train into validation. Name the column with --slide_column."
            )
        elif self._slide not in features:
            raise ValueError(f"There is no slide column {self._slide!r}, the columns are {list(features)}.")
        self._splits = {
            name: split.cast_column(self._image, datasets.Image(decode=False)) for name, split in splits.items()
        }
        self._context_size, self._patch_size = context_size, patch_size

    def patches(self) -> RegionPatches:
        """Opens the patches that the table names."""
        return RegionPatches(self._splits, self._image, self._context_size, self._patch_size)

    def build_table(self, skip: bool, work: Path) -> list[BadRecord]:
        """Check every row and write `work / TABLE_NAME`.

        Args:
            skip: Whether to leave bad rows out, rather than to raise at the first.
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
            problems = self._problems(name, split)
            if not skip:
                refuse(list(problems.values()))
            bad += problems.values()
            rows = [
                (row, slide_id, class_name, name, [f"{name}/{row:06d}/{place}" for place in places])
                for row, slide_id, class_name in self._facts(name, split)
                if row not in problems
            ]
            for start in range(0, len(rows), _BATCH):
                columns = zip(*rows[start : start + _BATCH])
                yield pa.record_batch([pa.array(c, field.type) for c, field in zip(columns, schema)], schema=schema)

    def _problems(self, name: str, split: Any) -> dict[int, BadRecord]:
        side = self._context_size * self._patch_size
        place = f"row {{}} of split {name!r}"
        check = functools.partial(_check_rows, split, self._image, side)
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

    def _facts(self, name: str, split: Any) -> Iterator[tuple[int, str, str | None]]:
        """Row, slide and class of every row; the class is None where the row has none."""
        feature = split.features[self._label]
        names = feature.names if isinstance(feature, datasets.ClassLabel) else None
        labels = _values(split, self._label)
        if self._slide is None:
            slides = [f"{name}_{row:06d}" for row in range(len(split))]
        else:
            slides = _values(split, self._slide)
        for row, (label, slide) in enumerate(zip(labels, slides)):
            good = names is None or (label is not None and label != _UNKNOWN_CLASS)
            yield row, str(slide), (names[label] if names and good else label if good else None)


def _values(split: Any, column: str) -> list:
    return split.select_columns([column]).with_format("arrow")[:][column].to_pylist()


def _check_rows(split: Any, column: str, side: int, start: int, stop: int) -> list[tuple[int, str]]:
    found = []
    for row in range(start, stop):
        try:
            with open_encoded(split[row][column]) as image:
                problem = region_problem(image, side)
        except DECODING_ERRORS as error:
            problem = f"the image cannot be read: {error}"
        if problem:
            found.append((row, problem))
    return found


def _is_image(feature: Any) -> bool:
    return isinstance(feature, datasets.Image)


def _is_label(feature: Any) -> bool:
    return isinstance(feature, datasets.ClassLabel) or (
        isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string")
    )


def _find_column(kind: str, name: str | None, features: Any, fits: Any) -> str:
    """The named column, else the one called like its kind, else the only one that fits."""
    if name is not None:
        if name not in features or not fits(features[name]):
            raise ValueError(f"Expected a column {name!r} of {kind}s (--{kind}_column), the columns are {features}.")
        return name
    fitting = [column for column, feature in features.items() if fits(feature)]
    if kind in fitting:
        return kind
    labels = [column for column in fitting if isinstance(features[column], datasets.ClassLabel)]
    fitting = labels if len(labels) == 1 else fitting
    if len(fitting) != 1:
        raise ValueError(f"Name the column of {kind}s with --{kind}_column: {fitting} of {features} could be it.")
    return fitting[0]
