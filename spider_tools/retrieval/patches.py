"""The patches of an index or of a run: where each lies and what is known of it."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa

SCHEMA = pa.schema(
    [
        ("slide", pa.dictionary(pa.int32(), pa.string())),
        ("source", pa.dictionary(pa.int32(), pa.string())),
        ("x_level0", pa.float64()),
        ("y_level0", pa.float64()),
        ("width_level0", pa.float64()),
        ("height_level0", pa.float64()),
        ("class", pa.dictionary(pa.int32(), pa.string())),
        ("probability", pa.float32()),
        ("patch", pa.string()),
    ]
)
"""A patch of a slide has a place and a predicted class with its probability; one of a data set has a name, and a
label as its class if it is the centre of a region."""


class Patches:
    """A table of patches.

    Args:
        table: Of `SCHEMA`.

    Raises:
        ValueError: It has other columns.
    """

    def __init__(self, table: pa.Table) -> None:
        if not table.schema.equals(SCHEMA):
            raise ValueError(f"Expected the columns {SCHEMA.names} of patches, got {table.schema.names}.")
        self.table = table.unify_dictionaries().combine_chunks()

    @classmethod
    def join(cls, parts: "Sequence[Patches]") -> "Patches":
        """The patches of several tables, one after the other."""
        return cls(pa.concat_tables([SCHEMA.empty_table(), *(part.table for part in parts)]))

    def __len__(self) -> int:
        return len(self.table)

    def take(self, rows: np.ndarray) -> "Patches":
        """Some of them, in the order of the rows."""
        return Patches(self.table.take(pa.array(rows)))

    @cached_property
    def boxes(self) -> np.ndarray:
        """x, y, width and height in level-0 px, float64 `(n, 4)`; NaN for patches of a data set."""
        return np.stack([self.column(name) for name in SCHEMA.names[2:6]], axis=1)

    @cached_property
    def slide_numbers(self) -> np.ndarray:
        """Which of `slide_names` each lies on, int32 `(n,)`."""
        return self._numbers("slide")

    @cached_property
    def slide_names(self) -> list[str]:
        """The slides."""
        return self._names("slide")

    @cached_property
    def class_numbers(self) -> np.ndarray:
        """Which of `class_names` each has, int32 `(n,)`, -1 for none."""
        return self._numbers("class")

    @cached_property
    def class_names(self) -> list[str]:
        """The classes."""
        return self._names("class")

    def column(self, name: str) -> np.ndarray:
        """A column of floats, NaN where it holds nothing."""
        return self.table[name].to_numpy()

    def on_slide(self, name: str) -> np.ndarray:
        """Rows of the patches of a slide that have a place, int64; none for an unknown slide."""
        number = self.slide_names.index(name) if name in self.slide_names else -2
        return np.flatnonzero((self.slide_numbers == number) & ~np.isnan(self.boxes[:, 0]))

    def of_slide(self, number: int) -> np.ndarray:
        """Rows of all patches of a slide, from the upper ones on and those without a place last: int64."""
        order, starts, _ = self._by_slide
        return order[starts[number] : starts[number + 1]]

    def near(self, row: int) -> np.ndarray:
        """Rows of the patches of the same slide that are at most a patch above or below one that has a place."""
        order, starts, tops = self._by_slide
        _, y, _, height = self.boxes[row]
        start, stop = starts[self.slide_numbers[row] : self.slide_numbers[row] + 2]
        first = np.searchsorted(tops[start:stop], y - height)
        last = np.searchsorted(tops[start:stop], y + height, side="right")
        return order[start + first : start + last]

    @cached_property
    def _by_slide(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All rows slide by slide, from the upper ones on; where each slide begins; the y of all in this order."""
        order = np.lexsort((self.boxes[:, 1], self.slide_numbers))
        starts = np.searchsorted(self.slide_numbers[order], np.arange(len(self.slide_names) + 1))
        return order, starts, self.boxes[order, 1]

    def of_class(self, name: str) -> np.ndarray:
        """Rows of the patches of a class, int64; none for an unknown class."""
        number = self.class_names.index(name) if name in self.class_names else -2
        return np.flatnonzero(self.class_numbers == number)

    def _numbers(self, column: str) -> np.ndarray:
        return self._encoded(column).indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)

    def _names(self, column: str) -> list[str]:
        return self._encoded(column).dictionary.to_pylist()

    def _encoded(self, column: str) -> pa.DictionaryArray:
        chunks = self.table[column].chunks
        return chunks[0] if chunks else pa.array([], SCHEMA.field(column).type)
