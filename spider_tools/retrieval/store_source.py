"""A store of embeddings beside its data set: which patches it holds, of which slides, and which have a label."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..data.loading import RegionData, load_regions
from ..embeddings.store import EmbeddingStore
from .patches import SCHEMA, Patches
from .settings import DatasetFlags


class StoreSource:
    """The patches that a data set names and a store holds.

    Args:
        folder: Of the store.
        flags: Name the data set.

    Attributes:
        name: The folder, for messages.
        folder: As given.
        content: What decides the embeddings of all stores alike, see `embeddings.identity`.
        absent: How many patches of the data set the store does not hold.

    Raises:
        ValueError: The store is damaged, no data set is named, or the store was made from another one.
    """

    def __init__(self, folder: Path, flags: DatasetFlags) -> None:
        self.folder, self.name = folder, str(folder)
        self._store = EmbeddingStore.open(folder, verify=True)
        self.content = {key: value for key, value in self._store.index.content.items() if key != "source"}
        settings = flags.data_settings(_patch_size(folder, self.content))
        if settings is None:
            raise ValueError(f"{folder} is a store of embeddings: name its data set with --dataset.")
        data = load_regions(settings)
        if self._store.index.content.get("source") != data.fingerprint:
            raise ValueError(
                f"The store {folder} was not made from the data set {data.name} as it is now, read with a "
                f"context_size of {settings.context_size}: its fingerprint is another one."
            )
        self._names, regions = _names_of(data)
        held = pc.invert(pc.is_in(self._names, value_set=self._store.missing(self._names)))
        self.absent = len(self._names) - pc.sum(held).as_py()
        self._labels = _Labels(data, regions, len(self._names))
        kept = np.flatnonzero(held.to_numpy(zero_copy_only=False))
        rows = self._store.rows(self._names.take(pa.array(kept)))
        order = np.argsort(rows)  # as they lie on disk
        self._kept, self._rows = kept[order], rows[order]

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def hidden_size(self) -> int:
        """Values of one embedding."""
        return self._store.hidden_size

    def patches(self) -> Patches:
        """All of them, in the order of the store; without places, which a data set does not tell."""
        count, unknown = len(self), pa.nulls(len(self), pa.float64())
        source = pa.DictionaryArray.from_arrays(np.zeros(count, dtype=np.int32), pa.array([self.name], pa.string()))
        columns = {
            "slide": self._labels.slides(self._kept),
            "source": source,
            **{f"{name}_level0": unknown for name in ("x", "y", "width", "height")},
            "class": self._labels.classes(self._kept),
            "probability": pa.nulls(count, pa.float32()),
            "patch": self._names.take(pa.array(self._kept)).cast(pa.string()),
        }
        return Patches(pa.table(columns, schema=SCHEMA))

    def embeddings(self, rows: np.ndarray) -> np.ndarray:
        """Embeddings of patches, as the store holds them: float32 `(len(rows), hidden)`."""
        return self._store[self._rows[rows]].float().numpy()


def _patch_size(folder: Path, content: dict[str, Any]) -> int:
    try:
        return int(content["preprocessing"]["patch_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / 'index.json'} does not say the size of its patches: {error!r}.") from error


def _names_of(data: RegionData) -> tuple[pa.Array, np.ndarray]:
    """The names of all patches, each once, and which of them each region has: int64 `(regions, patches)`, -1 for none.

    Regions follow each other in the order of the splits.
    """
    lists = [split.with_format("arrow")[:]["patches"].combine_chunks() for split in data.splits.values()]
    flat = pa.concat_arrays([part.flatten().cast(pa.large_string()) for part in lists])
    encoded = flat.dictionary_encode()
    numbers = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return encoded.dictionary, numbers.reshape(sum(map(len, lists)), -1)


class _Labels:
    """Slide and class of the patches of a data set; a patch in several regions takes those of the last of them."""

    def __init__(self, data: RegionData, regions: np.ndarray, count: int) -> None:
        tables = [split.with_format("arrow")[:] for split in data.splits.values()]
        slide_column = pa.concat_arrays([part.cast(pa.string()) for t in tables for part in t["slide_id"].chunks])
        slides = slide_column.dictionary_encode()
        labels = np.concatenate([table["label"].to_numpy() for table in tables])
        self._slide_names, self._class_names = slides.dictionary, pa.array(data.class_names, pa.string())
        self._slides = np.full(count, -1, dtype=np.int32)
        self._classes = np.full(count, -1, dtype=np.int32)
        of_regions = slides.indices.to_numpy(zero_copy_only=False)
        present = regions >= 0
        self._slides[regions[present]] = np.repeat(of_regions, present.sum(axis=1))
        centers = regions[:, regions.shape[1] // 2]
        self._classes[centers[centers >= 0]] = labels[centers >= 0]

    def slides(self, patches: np.ndarray) -> pa.DictionaryArray:
        """Of some patches, as a column."""
        return _column(self._slides[patches], self._slide_names)

    def classes(self, patches: np.ndarray) -> pa.DictionaryArray:
        """Labels of those that are the centre of a region, null for the others, as a column."""
        return _column(self._classes[patches], self._class_names)


def _column(numbers: np.ndarray, names: pa.Array) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(numbers, mask=numbers < 0), names)
