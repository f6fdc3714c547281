"""Folders of whole regions as data sets by split: saved by `datasets`, Parquet, tables of paths, or images in folders.

What lies in the folder is compared with what was opened; nothing is left out without a word.
"""

import json
import logging
import re
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from ..files import write_text
from .caches import only_one_process
from .columns import SPLIT_COLUMN, Columns, image_column, is_text, named_like
from .image_folders import open_image_folder
from .listing import images_among, split_in_name, split_of_folder, visible_files
from .path_lists import find_lists, is_metadata, open_lists
from .regular_files import refuse_irregular
from .tables import SPLITS

logger = logging.getLogger(__name__)

_SHARD = re.compile(r"([^/]+)-\d{5}-of-\d{5}[^/]*$")  # as `datasets` names the files of a split
_SAVED = ("dataset_dict.json", "state.json")
_OPENING_ERRORS = (
    datasets.exceptions.DatasetsError,
    FileNotFoundError,
    NotImplementedError,
    ValueError,
    pa.ArrowException,
)


def holds_whole_regions(folder: Path) -> bool:
    """Whether a folder holds a saved data set, Parquet files, images, or a table of images."""
    if any((folder / name).is_file() for name in _SAVED):
        return True
    files = visible_files(folder)
    return bool(images_among(files) or _parquet_among(files) or find_lists(folder, files, Columns()))


def open_dataset(folder: Path, columns: Columns, content: str, cache_dir: Path) -> dict[str, Any]:
    """Open a folder of whole regions.

    Args:
        folder: The data set's.
        columns: Which columns will be read, by name.
        content: Digest of what the folder holds.
        cache_dir: Gets what `datasets` makes of Parquet files, once for this content.

    Returns:
        Split name -> data set; one that has no splits is all `"train"`. Paths of images are relative to the folder.

    Raises:
        ValueError: The folder is none of these, a split is unknown, or something in it would be left out.
    """
    try:
        if any((folder / name).is_file() for name in _SAVED):
            for path in folder.rglob("*.arrow"):
                refuse_irregular(path)
            opened = datasets.load_from_disk(str(folder))
        else:
            opened = _open_files(folder, columns, content, cache_dir)
    except _OPENING_ERRORS as error:
        if isinstance(error, ValueError) and str(folder) in str(error):
            raise
        raise ValueError(f"{folder} cannot be opened as a data set of regions: {error.__cause__ or error}") from error
    splits = {str(name): split for name, split in opened.items()} if isinstance(opened, dict) else {"train": opened}
    if list(splits) == ["train"]:
        splits = _by_split_column(folder, splits["train"])
    unknown = sorted(set(splits) - set(SPLITS))
    if unknown:
        raise ValueError(f"{folder} has the splits {unknown}, expected some of {', '.join(SPLITS)}.")
    return splits


def _open_files(folder: Path, columns: Columns, content: str, cache_dir: Path) -> Any:
    files = visible_files(folder)
    images, tables = images_among(files), _parquet_among(files)
    lists = find_lists(folder, files, columns)
    if lists:
        dataset = open_lists(folder, lists, columns)
        _compare(folder, lists, images, set(dataset[columns.image or "image"]))
        _warn_of_left_out(folder, [table for table in tables if table not in lists], lists[0])
        return dataset
    if tables:
        opened = _open_parquet(folder, tables, cache_dir / "datasets" / content[:16])
        features = next(iter(opened.values())).features
        if not is_text(features[image_column(features, columns.image)]):
            _warn_of_left_out(folder, images, tables[0])
        return opened
    return open_image_folder(folder, images, sorted(set(files) - set(images)))


def _warn_of_left_out(folder: Path, files: list[str], taken: str) -> None:
    if files:
        logger.warning(
            "%s is read from %s: %d files beside it are left out, the first is %s.",
            *(folder, taken, len(files), files[0]),
        )


def _parquet_among(files: list[str]) -> list[str]:
    return [file for file in files if file.endswith(".parquet")]


def _open_parquet(folder: Path, files: list[str], home: Path) -> dict[str, Any]:
    """What `datasets` made of the files; a cache that has it is read without a lock."""
    memory = home / "splits.json"
    if not memory.is_file():
        with only_one_process(home):
            if not memory.is_file():
                loaded = _load_parquet(folder, files, home)
                shards = {
                    name: [str(Path(f["filename"]).relative_to(home.resolve())) for f in split.cache_files]
                    for name, split in loaded.items()
                }
                write_text(memory, json.dumps(shards))
    splits = json.loads(memory.read_text(encoding="utf-8"))
    return {
        name: datasets.concatenate_datasets([datasets.Dataset.from_file(str(home / shard)) for shard in shards])
        for name, shards in splits.items()
    }


def _load_parquet(folder: Path, files: list[str], home: Path) -> Any:
    for file in files:
        refuse_irregular(folder / file)
    if (folder / "README.md").is_file() and "data_files" in (folder / "README.md").read_text(encoding="utf-8"):
        # A repository of the Hub may say there which file is what.
        builder = datasets.load_dataset_builder(str(folder), cache_dir=str(home.resolve()))
        taken = {Path(path).resolve() for paths in (builder.config.data_files or {}).values() for path in paths}
        left_out = [file for file in files if (folder / file).resolve() not in taken]
        if left_out:
            raise ValueError(
                f"{folder}: {len(left_out)} of {len(files)} Parquet files are not among the data_files of README.md, "
                f"the first is {left_out[0]}. Name them there, or move them out of the folder."
            )
        return datasets.load_dataset(str(folder), cache_dir=str(home.resolve()))
    by_split = {split: [str(folder / file) for file in own] for split, own in _files_by_split(folder, files).items()}
    return datasets.load_dataset("parquet", data_files=by_split, cache_dir=str(home.resolve()))


def _files_by_split(folder: Path, files: list[str]) -> dict[str, list[str]]:
    """Files by the split that their paths mention; all are for training if none mentions one."""
    split_of = {file: split_in_name(file.removesuffix(".parquet")) for file in files}
    sharded = [match[1] for file in files if split_of[file] is None and (match := _SHARD.search(file))]
    if sharded:
        raise ValueError(f"{folder} has the splits {sorted(set(sharded))}, expected some of {', '.join(SPLITS)}.")
    unclear = [file for file in files if split_of[file] is None]
    if unclear and len(unclear) < len(files):
        clear = next(file for file in files if split_of[file])
        raise ValueError(
            f"{folder} is ambiguous: {clear} is named for the split {split_of[clear]!r}, {unclear[0]} for none or for "
            "several. Name all files for one split each, or none."
        )
    by_split: dict[str, list[str]] = {}
    for file in files:
        by_split.setdefault(split_of[file] or "train", []).append(file)
    return by_split


def _by_split_column(folder: Path, dataset: Any) -> dict[str, Any]:
    """The rows of a data set by its column `split`, if it has one of texts."""
    column = named_like(dataset.features, None, [SPLIT_COLUMN])
    feature = dataset.features.get(column)
    if column is None or getattr(feature, "dtype", None) not in ("string", "large_string") or not len(dataset):
        return {"train": dataset}
    values = np.array(dataset.with_format("arrow")[:][column].to_pylist(), dtype=object)
    split_of = {value: split_of_folder(value or "") for value in dict.fromkeys(values.tolist())}
    unknown = [value for value, split in split_of.items() if split is None]
    if unknown:
        row = int(np.flatnonzero(values == unknown[0])[0])
        raise ValueError(
            f"{folder}: row {row} has the split {unknown[0]!r}, expected train, validation or test. Give every row "
            "one, or take the column away."
        )
    splits = np.array([split_of[value] for value in values.tolist()])
    return {split: dataset.select(np.flatnonzero(splits == split)) for split in SPLITS if (splits == split).any()}


def _compare(folder: Path, lists: list[str], images: list[str], listed: set[str]) -> None:
    """Refuse images that metadata files do not list. Another table may be a selection, so that a warning is enough."""
    unlisted = [image for image in images if image not in listed]
    if not unlisted:
        return
    said = (
        f"{folder}: {len(unlisted)} of {len(images)} images are not listed in {', '.join(lists)}, the first is "
        f"{unlisted[0]}."
    )
    if is_metadata(lists[0]):
        raise ValueError(f"{said} List them too, or move them out of the folder.")
    logger.warning("%s They are left out.", said)
