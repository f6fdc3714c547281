"""Any SPIDER data set in, splits of regions out: the entry of everything that reads data."""

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import datasets
import numpy as np
import pyarrow as pa

from . import archives, generic, records, sources, splits
from .caches import default_cache_dir, digest, file_digest, listing_digest, only_one_process
from .files import replacing
from .flags import setting
from .patches import FolderPatches, PatchSource
from .records import METADATA_SIZE, SPLITS, TABLE_NAME, BadRecord, map_table, place_of, refuse, table_schema

logger = logging.getLogger(__name__)

_VERSION = 1  # of the tables in the cache
_BAD = "bad_records.json"


@dataclass(frozen=True)
class DataSettings:
    """Which data to load, and how."""

    dataset: str = setting(
        help="folder with metadata.json and images/, folder of tar parts, Hub id, or folder that `datasets` can open"
    )
    dataset_revision: str | None = setting(None, help="branch, tag or commit of a data set on the Hub")
    cache_dir: Path | None = setting(
        None, help="folder for tables and unpacked archives (default: spider/ below the Hugging Face home)"
    )
    context_size: int = setting(METADATA_SIZE, help="1, 3 or 5 patches along one side of a region, the central ones")
    patch_size: int = setting(224, help="side of a patch in px")
    classes: tuple[str, ...] | None = setting(None, help="classes to restrict to, after the mapping: A,B,...")
    class_mapping: Path | None = setting(
        None, help='JSON file {"old name": "new name" or null} that merges, renames or drops classes'
    )
    class_names: tuple[str, ...] | None = setting(
        None, help="classes in the order of the logits (default: those of the data in alphabetical order)"
    )
    max_regions_per_class: int | None = setting(None, help="of every split, chosen at random")
    validation_fraction: float = setting(
        0.1, help="of train, cut by slide if the data have no validation split; 0 for none"
    )
    skip_bad_records: bool = setting(False, help="leave bad records out and list them in a file")
    image_column: str | None = setting(None, help="of a data set of whole regions (default: the one that fits)")
    label_column: str | None = setting(None, help="likewise")
    slide_column: str | None = setting(None, help="likewise (default: slide_id, if there is such a column)")
    seed: int = setting(0, help="of the validation split and of --max_regions_per_class")

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.context_size not in (1, 3, 5):
            raise ValueError(f"`context_size` must be 1, 3 or 5, got {self.context_size}.")
        if self.patch_size < 1:
            raise ValueError(f"`patch_size` must be positive, got {self.patch_size}.")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(f"`validation_fraction` must lie in [0, 1), got {self.validation_fraction}.")
        if self.max_regions_per_class is not None and self.max_regions_per_class < 1:
            raise ValueError(f"`max_regions_per_class` must be positive, got {self.max_regions_per_class}.")
        if self.seed < 0:
            raise ValueError(f"`seed` must not be negative, got {self.seed}.")
        for option in ("classes", "class_names"):
            names = getattr(self, option)
            if names is not None and (not names or len(set(names)) != len(names)):
                raise ValueError(f"`{option}` must be different class names, at least one, got {names}.")


@dataclass(frozen=True)
class RegionData:
    """Labelled regions and the way to their pixels.

    Attributes:
        splits: `train`, `validation` and `test`, those that exist; rows in the order of the data. Columns: `slide_id`,
            string; `label`, ClassLabel; `patches`, list of `context_size**2` strings in row-major order, null where
            there is no patch.
        patches: Opens the patches that the rows name.
        name: How reports call the data set.
        fingerprint: Changes when the data change, and with the meaning of the patch names.
        dropped: What `skip_bad_records` left out.
        dropped_file: JSON file that lists the same; None if there is nothing.
    """

    splits: datasets.DatasetDict
    patches: PatchSource
    name: str
    fingerprint: str
    dropped: tuple[BadRecord, ...] = ()
    dropped_file: Path | None = None


def load_regions(settings: DataSettings) -> RegionData:
    """Load a data set; of several processes that do so at once, one does the work and the others wait.

    Checking the headers of all images takes minutes for millions of them. It is done once and remembered in the cache
    with the table of regions, for as long as metadata, names and sizes of the images stay as they are.

    Raises:
        ValueError: The data set cannot be used. The message names the source, or record and field, and the remedy.
    """
    cache_dir = settings.cache_dir or default_cache_dir()
    source, lost = _open(settings, cache_dir)
    folder = (
        cache_dir / "regions" / digest(_VERSION, source.fingerprint, settings.patch_size, settings.skip_bad_records)
    )
    with only_one_process(folder):
        if not folder.exists():
            with replacing(folder) as work:
                work.mkdir()
                bad = source.build_table(settings.skip_bad_records, work)
                (work / _BAD).write_text(json.dumps([asdict(record) for record in bad]), encoding="utf-8")
        table_path = _table_for(folder, source.table_size, settings.context_size)
    bad = [*lost, *(BadRecord(**record) for record in json.loads((folder / _BAD).read_text(encoding="utf-8")))]
    splits_, class_bad = _Selection(settings, source).make_splits(table_path)
    dropped = (*bad, *class_bad)
    patches = source.patches(folder / TABLE_NAME)
    patches.fingerprint = source.fingerprint
    return RegionData(
        splits=splits_,
        patches=patches,
        name=source.name,
        fingerprint=source.fingerprint,
        dropped=dropped,
        dropped_file=_list_dropped(dropped, folder, settings),
    )


class _Source(Protocol):
    """Where regions come from."""

    name: str
    fingerprint: str
    table_size: int  # patches along one side of the regions of its table

    def build_table(self, skip: bool, work: Path) -> list[BadRecord]: ...

    def patches(self, table: Path) -> PatchSource: ...

    def place_of(self, number: int, split: str) -> str: ...


class _SpiderFolder:
    table_size = METADATA_SIZE

    def __init__(self, folder: Path, name: str, settings: DataSettings, cache_dir: Path) -> None:
        self.name = name
        self.fingerprint = digest(file_digest(folder / "metadata.json"), listing_digest(folder / "images"))
        self._folder, self._patch_size = folder, settings.patch_size
        self._memory = cache_dir / "headers" / f"{digest(_VERSION, self.fingerprint, settings.patch_size)}.json"

    def build_table(self, skip: bool, work: Path) -> list[BadRecord]:
        with only_one_process(self._memory):
            return records.build_table(self._folder, self._patch_size, skip, work, self._memory)

    def patches(self, table: Path) -> PatchSource:
        return FolderPatches(self._folder / "images", self._patch_size, table)

    def place_of(self, number: int, split: str) -> str:
        return place_of(number)


class _GenericFolder:
    def __init__(self, folder: Path, name: str, settings: DataSettings, cache_dir: Path) -> None:
        columns = generic.Columns(settings.image_column, settings.label_column, settings.slide_column)
        size = (settings.context_size, settings.patch_size)
        self.name = name
        self.table_size = settings.context_size
        # Names of patches mean other pixels with another grid, and files may change in place without a new size.
        self.fingerprint = digest(listing_digest(folder, with_times=True), asdict(columns), size)
        self._regions = generic.GenericRegions(generic.open_dataset(folder, cache_dir), columns, *size)

    def build_table(self, skip: bool, work: Path) -> list[BadRecord]:
        return self._regions.build_table(skip, work)

    def patches(self, table: Path) -> PatchSource:
        return self._regions.patches()

    def place_of(self, number: int, split: str) -> str:
        return f"row {number} of split {split!r}"


def _open(settings: DataSettings, cache_dir: Path) -> tuple[_Source, list[BadRecord]]:
    """The source that the settings name, and what was left out while unpacking it."""
    folder = sources.local_folder(settings.dataset, settings.dataset_revision)
    # A local folder's own name, without what leads to it; a Hub id as it is.
    name = folder.resolve().name if Path(settings.dataset).is_dir() else settings.dataset
    spider_folder = sources.find_spider_folder(folder)
    if spider_folder is not None:
        return _SpiderFolder(spider_folder, name, settings, cache_dir), []
    parts = archives.find_archives(folder)
    if parts:
        unpacked, bad = archives.unpack(parts, cache_dir, name.replace("/", "--"), settings.skip_bad_records)
        spider_folder = sources.find_spider_folder(unpacked)
        if spider_folder is None:
            raise ValueError(f"The archives {list(parts)} of {folder} do not hold metadata.json and images/.")
        return _SpiderFolder(spider_folder, name, settings, cache_dir), bad
    if (folder / "metadata.json").exists():
        raise ValueError(f"{folder} has metadata.json but no folder images/ beside it.")
    if sources.holds_generic_data(folder):
        return _GenericFolder(folder, name, settings, cache_dir), []
    raise ValueError(
        f"{folder} holds no data set: expected metadata.json and images/, or tar parts (NAME.tar.*), or a data set "
        "saved by `datasets`, parquet files, or images in one folder per class."
    )


def _table_for(folder: Path, table_size: int, context_size: int) -> Path:
    """The table with the central `context_size**2` patches of each region, made from the whole one if need be."""
    if table_size == context_size:
        return folder / TABLE_NAME
    path = folder / f"regions-{context_size}.arrow"
    if not path.exists():
        with replacing(path) as unfinished:
            batches = _central_batches(map_table(folder / TABLE_NAME), table_size, context_size)
            records.write_table(unfinished, table_schema(context_size), batches)
    return path


def _central_batches(table: pa.Table, table_size: int, context_size: int) -> Iterator[pa.RecordBatch]:
    margin = (table_size - context_size) // 2
    central = slice(margin, margin + context_size)
    center = np.arange(table_size**2).reshape(table_size, table_size)[central, central].ravel()
    schema = table_schema(context_size)
    for batch in table.to_batches():
        picked = (np.arange(len(batch))[:, None] * table_size**2 + center).ravel()
        names = batch.column("patches").flatten().take(pa.array(picked))
        patches = pa.FixedSizeListArray.from_arrays(names, context_size**2)
        yield pa.record_batch([*batch.columns[:-1], patches], schema=schema)


class _Selection:
    """Turns the table of all regions into the splits that the settings ask for."""

    def __init__(self, settings: DataSettings, source: _Source) -> None:
        self._settings, self._source = settings, source

    def make_splits(self, table_path: Path) -> tuple[datasets.DatasetDict, list[BadRecord]]:
        table = datasets.Dataset.from_file(str(table_path))
        class_of, old_names = _encode(table.data["class"])
        new_names = splits.new_class_names(old_names, self._mapping(), self._settings.classes)
        names = self._label_names(new_names)
        label_of = np.array([names.index(name) if name is not None else -1 for name in new_names], dtype=np.int64)
        labels = label_of[class_of] if len(class_of) else np.empty(0, dtype=np.int64)
        if not (labels >= 0).any():
            raise ValueError(f"No region is left of {self._source.name}; its classes are {old_names}.")

        rows, bad = self._rows_by_split(table.data, labels, names)
        table = table.remove_columns(["record", "class", "split"])
        # The label stays in memory, the rest in the mapped file that all settings share.
        table = table.add_column("label", labels, feature=datasets.ClassLabel(names=names))
        table = table.select_columns(["slide_id", "label", "patches"])
        return datasets.DatasetDict({name: table.select(rows[name]) for name in SPLITS if len(rows[name])}), bad

    def _mapping(self) -> dict[str, str | None]:
        path = self._settings.class_mapping
        return {} if path is None else splits.read_class_mapping(Path(path))

    def _label_names(self, new_names: list[str | None]) -> list[str]:
        present = {name for name in new_names if name is not None}
        given = self._settings.class_names
        if given is None:
            return sorted(present)
        if not present <= set(given):
            raise ValueError(
                f"The classes of {self._source.name} and of the model differ. Only the data have "
                f"{sorted(present - set(given))}, only the model has {sorted(set(given) - present)}."
            )
        return list(given)

    def _rows_by_split(self, table: Any, labels: np.ndarray, names: list[str]) -> tuple[dict, list[BadRecord]]:
        slides, slide_ids = _encode(table["slide_id"])
        split_of, split_names = _encode(table["split"])
        rows = {
            name: np.flatnonzero((labels >= 0) & (split_of == split_names.index(name)))
            if name in split_names
            else np.empty(0, dtype=np.int64)
            for name in SPLITS
        }
        bad = self._refuse_untrained_classes(table, rows, labels, names)
        self._warn_of_shared_slides(rows, slides, slide_ids)
        if not len(rows["validation"]):
            self._cut_validation(rows, slides, labels)
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

    def _warn_of_shared_slides(self, rows: dict, slides: np.ndarray, slide_ids: list[str]) -> None:
        for other in ("validation", "test"):
            shared = np.intersect1d(slides[rows["train"]], slides[rows[other]])
            if len(shared):
                logger.warning(
                    "%d slides have regions in both train and %s, the first is %s: results on %s will be too good.",
                    *(len(shared), other, slide_ids[shared[0]], other),
                )

    def _cut_validation(self, rows: dict[str, np.ndarray], slides: np.ndarray, labels: np.ndarray) -> None:
        fraction, train = self._settings.validation_fraction, rows["train"]
        if fraction == 0 or not len(train):
            return
        chosen = splits.cut_validation(slides[train], labels[train], fraction, self._settings.seed)
        rows["validation"], rows["train"] = train[chosen], train[~chosen]
        if not chosen.any():
            logger.warning("There is no validation split: every slide of train is the only one of some class.")


def _encode(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Numbers `(rows,)` into a sorted list of the values that occur."""
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.unify_dictionaries().combine_chunks()
    values = np.array(encoded.dictionary.to_pylist(), dtype=object)
    names = sorted(values.tolist())
    position = {name: number for number, name in enumerate(names)}
    rank = np.array([position[value] for value in values.tolist()], dtype=np.int64)
    return rank[encoded.indices.to_numpy(zero_copy_only=False)] if len(rank) else np.empty(0, dtype=np.int64), names


def _list_dropped(dropped: tuple[BadRecord, ...], folder: Path, settings: DataSettings) -> Path | None:
    if not dropped:
        return None
    listed = [asdict(record) for record in dropped]
    path = folder / f"dropped-{digest(listed)[:8]}.json"
    with only_one_process(folder), replacing(path) as unfinished:
        unfinished.write_text(json.dumps(listed, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    logger.warning("%d bad records were left out, they are listed in %s.", len(dropped), path)
    return path
