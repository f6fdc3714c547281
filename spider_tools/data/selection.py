"""From the table of all regions to the splits that the settings ask for."""

import logging
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from ..patients import patients_or_slides
from . import splits
from .settings import DataSettings
from .sources import Source
from .tables import SPLITS, BadRecord, refuse

logger = logging.getLogger(__name__)


class Selection:
    """Turns the table of all regions into the splits that the settings ask for."""

    def __init__(self, settings: DataSettings, source: Source) -> None:
        self._settings, self._source = settings, source

    def make_splits(self, table_path: Path) -> tuple[datasets.DatasetDict, list[BadRecord]]:
        """Splits of the table in an Arrow file, and the regions that were left out."""
        table = datasets.Dataset.from_file(str(table_path))
        class_of, old_names = _encode(table.data["class"])
        new_names = splits.new_class_names(old_names, self._mapping(), self._settings.classes)
        names = self._label_names(new_names)
        _warn_of_alike(names)
        label_of = np.array([names.index(name) if name is not None else -1 for name in new_names], dtype=np.int64)
        labels = label_of[class_of] if len(class_of) else np.empty(0, dtype=np.int64)
        if not (labels >= 0).any():
            raise ValueError(f"No region is left of {self._source.name}; its classes are {old_names}.")

        rows, bad = self._rows_by_split(table.data, labels, names)
        table = table.remove_columns(["record", "class", "split"])
        # The label stays in memory, the rest in the mapped file that all settings share.
        table = table.add_column("label", labels, feature=datasets.ClassLabel(names=names))
        table = table.select_columns(["slide_id", "patient_id", "label", "patches"])
        return datasets.DatasetDict({name: table.select(rows[name]) for name in SPLITS if len(rows[name])}), bad

    def _mapping(self) -> dict[str, str | None]:
        path = self._settings.class_mapping
        return {} if path is None else splits.read_class_mapping(Path(path))

    def _label_names(self, new_names: list[str | None]) -> list[str]:
        present = {name for name in new_names if name is not None}
        given = self._settings.class_names
        if given is None:
            return _in_order(present)
        if not present <= set(given):
            raise ValueError(
                f"The classes of {self._source.name} and of the model differ. Only the data have "
                f"{sorted(present - set(given))}, only the model has {sorted(set(given) - present)}."
            )
        return list(given)

    def _rows_by_split(self, table: Any, labels: np.ndarray, names: list[str]) -> tuple[dict, list[BadRecord]]:
        split_of, split_names = _encode(table["split"])
        rows = {
            name: np.flatnonzero((labels >= 0) & (split_of == split_names.index(name)))
            if name in split_names
            else np.empty(0, dtype=np.int64)
            for name in SPLITS
        }
        bad = self._refuse_untrained_classes(table, rows, labels, names)
        _warn_of_shared(rows, table)
        if not len(rows["validation"]):
            self._cut_validation(rows, table, labels)
        limit = self._settings.max_regions_per_class
        if limit is not None:
            kept = {name: splits.limit_per_class(labels[rows[name]], limit, self._settings.seed) for name in SPLITS}
            rows = {name: rows[name][kept[name]] for name in SPLITS}
        return rows, bad

    def _refuse_untrained_classes(
        self, table: Any, rows: dict[str, np.ndarray], labels: np.ndarray, names: list[str]
    ) -> list[BadRecord]:
        """Take regions out of the other splits whose class has no region in train, or raise."""
        bad: list[BadRecord] = []
        if not len(rows["train"]):
            return bad  # data to evaluate on
        trained = np.unique(labels[rows["train"]])
        for split in ("validation", "test"):
            known = np.isin(labels[rows[split]], trained)
            for row in rows[split][~known].tolist():
                place = self._source.place_of(table["record"][row].as_py(), split)
                problem = f"{names[labels[row]]!r} is a class of {split} that has no good record in train."
                bad.append(BadRecord(place, "class", problem))
            rows[split] = rows[split][known]
        if not self._settings.skip_bad_records:
            refuse(bad)
        return bad

    def _cut_validation(self, rows: dict[str, np.ndarray], table: Any, labels: np.ndarray) -> None:
        fraction, train = self._settings.validation_fraction, rows["train"]
        if fraction == 0 or not len(train):
            return
        belongs_to = patients_or_slides(table["patient_id"].to_pylist(), table["slide_id"].to_pylist())
        patients = np.unique(belongs_to, return_inverse=True)[1]
        chosen = splits.cut_validation(patients[train], labels[train], fraction, self._settings.seed)
        rows["validation"], rows["train"] = train[chosen], train[~chosen]
        if not chosen.any():
            logger.warning(
                "There is no validation split: each patient or slide of train is the only one of some class."
            )


def _warn_of_shared(rows: dict[str, np.ndarray], table: Any) -> None:
    """Slides and patients on both sides of a split that the data themselves make."""
    for column, kind in (("slide_id", "slides"), ("patient_id", "patients")):
        numbers, names = _encode(table[column])
        for other in ("validation", "test"):
            shared = np.intersect1d(numbers[rows["train"]], numbers[rows[other]])
            shared = shared[shared >= 0]
            if len(shared):
                logger.warning(
                    "%d %s have regions in both train and %s, the first is %s: results on %s will be too good.",
                    *(len(shared), kind, other, names[shared[0]], other),
                )


def _warn_of_alike(names: list[str]) -> None:
    """Classes that a reader cannot tell apart are often one, typed in two ways."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.strip().casefold(), []).append(name)
    alike = [group for group in groups.values() if len(group) > 1]
    if alike:
        logger.warning(
            "Some classes differ only by case or by spaces at their ends: %s. They are learned as different ones; "
            "--class_mapping can join them.",
            "; ".join(" and ".join(map(repr, group)) for group in alike),
        )


def _in_order(names: set[str]) -> list[str]:
    """Alphabetical; whole numbers by their value, so that class "10" does not come before class "2"."""
    numbers = all(name.removeprefix("-").isdecimal() for name in names)
    return sorted(names, key=(lambda name: (int(name), name)) if numbers else None)


def _encode(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Numbers `(rows,)` into a sorted list of the values that occur; -1 for null."""
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.unify_dictionaries().combine_chunks()
    values = np.array(encoded.dictionary.to_pylist(), dtype=object)
    names = sorted(values.tolist())
    position = {name: number for number, name in enumerate(names)}
    rank = np.array([position[value] for value in values.tolist()], dtype=np.int64)
    indices = encoded.indices.fill_null(len(rank)).to_numpy(zero_copy_only=False)
    return np.append(rank, -1)[indices], names
