"""From the rows of a data set to regions as numbers: which patch lies where in the grid of each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class RegionGrid:
    """The regions of one split as numbers.

    Attributes:
        rows: int64 `(regions, patches)`, row-major: rows of the feature source, -1 where there is no patch.
        labels: int64 `(regions,)`.
        slides: int64 `(regions,)`, equal where the slide is the same.
    """

    rows: np.ndarray
    labels: np.ndarray
    slides: np.ndarray

    def __len__(self) -> int:
        """Number of regions."""
        return len(self.labels)

    def centers(self, numbers: np.ndarray) -> "RegionGrid":
        """Some of the regions, int64 numbers `(n,)`, each cut down to its central patch."""
        center = self.rows.shape[1] // 2
        return RegionGrid(self.rows[numbers, center : center + 1], self.labels[numbers], self.slides[numbers])


def unique_patch_names(splits: Mapping[str, Any]) -> pa.Array:
    """The names of all patches, each once and in alphabetical order, as a pyarrow array of strings.

    Args:
        splits: `datasets.Dataset` by name, with a column `patches`.
    """
    unique = [pc.unique(_flat_patches(_table(split))) for split in splits.values()]
    names = pc.unique(pa.concat_arrays(unique)).drop_null()
    return names.take(pc.sort_indices(names))


def center_patch_names(split: Any) -> pa.Array:
    """The name of every region's central patch, a pyarrow array of strings `(regions,)`.

    Args:
        split: See `region_grid`.
    """
    table = _table(split)
    flat = _flat_patches(table)
    patches = len(flat) // max(table.num_rows, 1)
    return flat.take(pa.array(np.arange(table.num_rows) * patches + patches // 2))


def region_grid(split: Any, rows_of: Any) -> RegionGrid:
    """One split as numbers.

    Args:
        split: A `datasets.Dataset` with the columns `slide_id`, `label` and `patches`.
        rows_of: Maps a pyarrow array of names, null where there is no patch, to int64 rows, -1 for null.
    """
    table = _table(split)
    flat = _flat_patches(table)
    slides = table.column("slide_id").combine_chunks().dictionary_encode().indices
    return RegionGrid(
        rows=np.asarray(rows_of(flat)).reshape(table.num_rows, -1),
        labels=table.column("label").to_numpy().astype(np.int64),
        slides=slides.to_numpy(zero_copy_only=False).astype(np.int64),
    )


def rows_among(names: pa.Array) -> Any:
    """A function for `region_grid` that numbers patches by their place in `names`.

    Raises:
        ValueError: (the function) a name is not among them.
    """

    def rows_of(wanted: pa.Array) -> np.ndarray:
        found = pc.index_in(wanted, value_set=names)
        absent = wanted.filter(pc.and_(pc.is_null(found), pc.is_valid(wanted)))
        if len(absent):
            raise ValueError(f"The patch {absent[0].as_py()!r} is not among the {len(names)} known ones.")
        return found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)

    return rows_of


def _table(split: Any) -> pa.Table:
    """The rows of a data set as an Arrow table, in its order and without what it filtered out."""
    return split.with_format("arrow")[:]


def _flat_patches(table: pa.Table) -> pa.Array:
    column = table.column("patches").combine_chunks()
    flat = column.flatten()
    return flat.cast(pa.string())
