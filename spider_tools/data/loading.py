"""Any SPIDER data set in, splits of regions out: the entry of everything that reads data."""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa

from ..files import replacing, text_writer
from . import locating, tar_parts
from .caches import default_cache_dir, digest, only_one_process
from .opening import holds_whole_regions
from .patches import PatchSource
from .room_on_disk import full_disk_in_words
from .selection import Selection
from .settings import DataSettings
from .sources import TABLE_VERSION, Source, SpiderFolder, WholeRegionFolder
from .tables import TABLE_NAME, BadRecord, map_table, table_schema, write_table

logger = logging.getLogger(__name__)

_BAD = "bad_records.json"


@dataclass(frozen=True)
class RegionData:
    """Labelled regions and the way to their pixels.

    Attributes:
        splits: `train`, `validation` and `test`, those that exist; rows in the order of the data. Columns: `slide_id`,
            string; `patient_id`, string, null where nobody says it; `label`, ClassLabel; `patches`, list of
            `context_size**2` strings in row-major order, null where there is no patch.
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

    @property
    def class_names(self) -> list[str]:
        """Classes in the order of the labels, the same in all splits."""
        return next(iter(self.splits.values())).features["label"].names


def load_regions(settings: DataSettings) -> RegionData:
    """Load a data set; of several processes that do so at once, one does the work and the others wait.

    Reading all images and their headers takes minutes for millions of them, decoding them for `skip_bad_records` up to
    hours. It is done once and remembered in the cache with the table of regions, for as long as metadata and images
    stay as they are.

    Raises:
        ValueError: The data set cannot be used. The message names the source, or record and field, and the remedy.
    """
    cache_dir = settings.cache_dir or default_cache_dir()
    source, lost = _open(settings, cache_dir)
    key = digest(TABLE_VERSION, source.fingerprint, settings.patch_size, settings.skip_bad_records)
    folder = cache_dir / "regions" / key
    _once(folder, lambda work: _build(source, settings.skip_bad_records, work))
    table_path = _table_for(folder, source.table_size, settings.context_size)
    bad = [*lost, *(BadRecord(**record) for record in json.loads((folder / _BAD).read_text(encoding="utf-8")))]
    splits_, class_bad = Selection(settings, source).make_splits(table_path)
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


def _open(settings: DataSettings, cache_dir: Path) -> tuple[Source, list[BadRecord]]:
    """The source that the settings name, and what was left out while unpacking it."""
    folder = locating.local_folder(settings.dataset, settings.dataset_revision)
    # A local folder's own name, without what leads to it; a Hub id as it is.
    name = folder.resolve().name if Path(settings.dataset).is_dir() else settings.dataset
    spider_folder = locating.find_spider_folder(folder)
    if spider_folder is not None:
        return SpiderFolder(spider_folder, name, settings, cache_dir), []
    parts = tar_parts.find_archives(folder)
    if parts:
        unpacked, bad = tar_parts.unpack(parts, cache_dir, name.replace("/", "--"), settings.skip_bad_records)
        spider_folder = locating.find_spider_folder(unpacked)
        if spider_folder is None:
            raise ValueError(f"The archives {list(parts)} of {folder} do not hold metadata.json and images/.")
        return SpiderFolder(spider_folder, name, settings, cache_dir), bad
    if (folder / "metadata.json").exists():
        raise ValueError(f"{folder} has metadata.json but no folder images/ beside it.")
    if holds_whole_regions(folder):
        return WholeRegionFolder(folder, name, settings, cache_dir), []
    raise ValueError(
        f"{folder} holds no data set: expected metadata.json and images/, or tar parts (NAME.tar.*), or a data set "
        "saved by `datasets`, Parquet files, images in one folder per class, or a CSV file of paths and labels."
    )


def _once(path: Path, make: Callable[[Path], object]) -> None:
    """Have a file or a folder of the cache made, whole, by the first process that needs it."""
    if not path.exists():  # else nothing is written, and no lock is needed
        with only_one_process(path):
            if not path.exists():
                with full_disk_in_words(path.parent), replacing(path) as unfinished:
                    make(unfinished)


def _build(source: Source, skip: bool, work: Path) -> None:
    work.mkdir()
    bad = source.build_table(skip, work)
    (work / _BAD).write_text(json.dumps([asdict(record) for record in bad]), encoding="utf-8")


def _table_for(folder: Path, table_size: int, context_size: int) -> Path:
    """The table with the central `context_size**2` patches of each region, made from the whole one if need be."""
    if table_size == context_size:
        return folder / TABLE_NAME
    path = folder / f"regions-{context_size}.arrow"

    def write(unfinished: Path) -> None:
        batches = _central_batches(map_table(folder / TABLE_NAME), table_size, context_size)
        write_table(unfinished, table_schema(context_size), batches)

    _once(path, write)
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


def _list_dropped(dropped: tuple[BadRecord, ...], folder: Path, settings: DataSettings) -> Path | None:
    if not dropped:
        return None
    listed = [asdict(record) for record in dropped]
    path = folder / f"dropped-{digest(listed)[:8]}.json"
    _once(path, text_writer(json.dumps(listed, indent=1, ensure_ascii=False) + "\n"))
    logger.warning("%d bad records were left out, they are listed in %s.", len(dropped), path)
    return path
