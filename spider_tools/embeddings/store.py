"""The embedding store on disk: one float16 row per patch, in safetensors shards that an index lists.

A store is a folder that only grows:

- `index.json` says what the rows are (`content`) and lists the shards with their size and sha256;
- `shard-*.safetensors` hold `embeddings`, float16 `(rows, hidden)`, beside the names of the patches of these rows, and
  say in their metadata what they were made from, so that a damaged index can be made again;
- `unfinished/` is there while a run fills the store, or after it was killed: see `unfinished`.

A shard counts from the moment the index lists it. Both are written beside their place and moved there, so that a run
that is killed, or a full disk, leaves what was finished as it was.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Union

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from .shards import read_names, read_tensors
from .store_index import StoreIndex

Names = Union[Sequence[Union[str, None]], np.ndarray, pa.Array, pa.ChunkedArray]


class EmbeddingStore:
    """Reads the rows of a store; they stay on disk, mapped into memory.

    Rows have the order of the index when the store was opened. The object can be sent to other processes, which then
    see the same rows; nothing but the index travels.
    """

    def __init__(self, folder: Path, index: StoreIndex) -> None:
        self.folder = folder
        self.index = index
        self._starts = np.cumsum([0, *(shard.rows for shard in index.shards)])
        self._mapped: dict[int, np.ndarray] = {}
        self._names: pa.Array | None = None

    @classmethod
    def open(cls, folder: Union[str, Path], verify: bool = False) -> "EmbeddingStore":
        """Open a store for reading.

        Args:
            folder: Holds `index.json`.
            verify: Whether to compare every shard with its checksum, which reads all of them (about 1 s per GB on one
                core). Without it only their sizes are compared. `embed_patches_once` has verified the store that it
                returns.

        Raises:
            FileNotFoundError: It is not a store.
            ValueError: The index or a shard is damaged.
        """
        folder = Path(folder)
        index = StoreIndex.read(folder)
        damaged = index.damaged(folder) if verify else index.wrong_size(folder)
        if damaged:
            raise ValueError(
                f"{len(damaged)} of {len(index.shards)} shards in {folder} are damaged or missing, the first is "
                f"{damaged[0].file}. embed_patches_once rebuilds them."
            )
        return cls(folder, index)

    @property
    def hidden_size(self) -> int:
        """Values of one embedding."""
        return self.index.hidden_size

    def __len__(self) -> int:
        """Number of rows."""
        return int(self._starts[-1])

    def rows(self, names: Names) -> np.ndarray:
        """Look up where the embeddings of patches lie.

        Every call makes a table of all names in the store (0.6 s for 2.7 million), so ask for many at once.

        Args:
            names: Of patches; None where there is no patch. One dimension, a pyarrow array to save memory.

        Returns:
            int64 `(len(names),)`, -1 for None.

        Raises:
            ValueError: The store has no embedding of some of the patches.
        """
        wanted = as_names(names)
        found = pc.index_in(wanted, value_set=self._all_names())
        absent = wanted.filter(pc.and_(pc.is_null(found), pc.is_valid(wanted)))
        if len(absent):
            raise ValueError(
                f"The store {self.folder} has no embeddings of {len(absent)} of {len(wanted)} patches, the first is "
                f"{absent[0].as_py()!r}. Embed them first, with embed_patches_once."
            )
        return found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)

    def missing(self, names: Names) -> pa.Array:
        """Those of the names that the store has no embedding of, in the same order."""
        wanted = as_names(names)
        return wanted.filter(pc.invert(pc.is_in(wanted, value_set=self._all_names())))

    def __getitem__(self, rows: Any) -> torch.Tensor:
        """Read embeddings.

        Args:
            rows: Integers of any shape, from `rows`.

        Returns:
            float16 `(*rows.shape, hidden_size)`, a copy; zeros where a row is -1.

        Raises:
            IndexError: A row lies outside of [-1, len(store)).
            TypeError: The rows are no integers.
        """
        rows = np.asarray(rows)
        if rows.size and rows.dtype.kind not in "iu":
            raise TypeError(f"Expected integer rows, got {rows.dtype}.")
        flat = rows.ravel()
        if rows.size and not (-1 <= flat.min() and flat.max() < len(self)):
            raise IndexError(f"Expected rows from -1 to {len(self) - 1}, got {flat.min()} to {flat.max()}.")
        gathered = np.zeros((flat.size, self.hidden_size), dtype=np.float16)
        for shard, positions in self._by_shard(flat):
            gathered[positions] = self._embeddings(shard)[flat[positions] - self._starts[shard]]
        return torch.from_numpy(gathered).view(*rows.shape, self.hidden_size)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": {}, "_names": None}

    def _by_shard(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Every shard that rows lie in, with the positions of these rows, ascending in the file."""
        shard_of = np.searchsorted(self._starts, rows, side="right") - 1  # -1 for the row -1
        order = np.argsort(rows, kind="stable")
        order = order[np.searchsorted(rows[order], 0) :]
        cuts = np.flatnonzero(np.diff(shard_of[order])) + 1
        for positions in np.split(order, cuts) if len(order) else ():
            yield int(shard_of[positions[0]]), positions

    def _embeddings(self, number: int) -> np.ndarray:
        """The mapped rows of a shard, float16 `(rows, hidden_size)`."""
        if number not in self._mapped:
            shard = self.index.shards[number]
            tensor = read_tensors(self.folder / shard.file, "embeddings")[0]
            if tensor.dtype != torch.float16 or tuple(tensor.shape) != (shard.rows, self.hidden_size):
                raise ValueError(
                    f"{self.folder / shard.file} holds {tensor.dtype} {tuple(tensor.shape)}, expected float16 "
                    f"({shard.rows}, {self.hidden_size}). embed_patches_once rebuilds it."
                )
            # numpy gathers rows twice as fast as torch here, from the same mapping.
            self._mapped[number] = tensor.numpy()
        return self._mapped[number]

    def _all_names(self) -> pa.Array:
        """Names of all rows, in their order."""
        if self._names is None:
            empty = pa.array([], type=pa.large_string())
            self._names = pa.concat_arrays([empty, *(read_names(self.folder, s) for s in self.index.shards)])
        return self._names


def as_names(names: Names) -> pa.Array:
    """Names as one arrow array of large strings.

    Raises:
        ValueError: Some are neither strings nor None, or there is more than one dimension.
    """
    try:
        if isinstance(names, pa.ChunkedArray):
            names = names.combine_chunks()
        if isinstance(names, pa.Array):
            if names.type not in (pa.string(), pa.large_string(), pa.null()):
                raise TypeError(f"got an array of {names.type}")
            return names.cast(pa.large_string())
        return pa.array(names, type=pa.large_string())
    except (pa.ArrowException, TypeError) as error:
        raise ValueError(f"Expected the names of patches, one dimension of strings: {error}.") from error
