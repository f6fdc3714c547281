"""The embedding store on disk: one float16 row per patch, in safetensors shards that an index lists.

A store is a folder that only grows:

- `index.json` says what the rows are (`content`) and lists the shards with their size and sha256;
- `shard-*.safetensors` hold `embeddings`, float16 `(rows, hidden)`, beside the names of the patches of these rows.

A shard counts from the moment the index lists it. Both are written beside their place and moved there, so that a run
that is killed, or a full disk, leaves what was finished as it was.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Union

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from .files import replacing

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
INDEX_NAME = "index.json"

Names = Union[Sequence[Union[str, None]], np.ndarray, pa.Array, pa.ChunkedArray]


@dataclass(frozen=True)
class Shard:
    """One shard as the index lists it.

    Attributes:
        file: Name of the file, in the store's folder.
        rows: Number of patches.
        size: Bytes of the file.
        sha256: Of the file, in hexadecimal digits.
    """

    file: str
    rows: int
    size: int
    sha256: str


@dataclass(frozen=True)
class StoreIndex:
    """What `index.json` says.

    Attributes:
        content: What the rows were made from and how; two stores with the same content can share their rows.
        hidden_size: Values of one row.
        shards: In the order of the rows.
    """

    content: dict[str, Any]
    hidden_size: int
    shards: tuple[Shard, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> "StoreIndex":
        """Read the index of a store.

        Raises:
            FileNotFoundError: The folder holds no index.
            ValueError: The index is damaged, or has another schema version.
        """
        path = folder / INDEX_NAME
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            version = fields.pop("schema_version")
            if version != SCHEMA_VERSION:
                raise ValueError(f"it has schema version {version}, expected {SCHEMA_VERSION}")
            index = cls(**{**fields, "shards": tuple(Shard(**shard) for shard in fields["shards"])})
            for shard in index.shards:
                if Path(shard.file).name != shard.file:
                    raise ValueError(f"the shard {shard.file!r} lies outside of the folder")
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{folder} is not an embedding store: it has no {INDEX_NAME}.") from error
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} cannot be used: {error!r}. Delete the folder to embed its patches anew."
            ) from error
        return index

    def write(self, folder: Path) -> None:
        """Write the index, whole or not at all."""
        fields = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        _write_whole(folder / INDEX_NAME, json.dumps(fields, indent=1).encode())

    def wrong_size(self, folder: Path) -> list[Shard]:
        """The shards whose file is missing or has another size than when it was written."""
        return [shard for shard in self.shards if _size(folder / shard.file) != shard.size]

    def damaged(self, folder: Path) -> list[Shard]:
        """The shards whose file is missing or has other bytes than when it was written; reads all of them."""
        with ThreadPoolExecutor(max_workers=4) as pool:
            intact = pool.map(lambda shard: _sha256(folder / shard.file) == shard.sha256, self.shards)
            return [shard for shard, good in zip(self.shards, intact) if not good]


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
            tensor = _read_tensors(self.folder / shard.file, "embeddings")[0]
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
            self._names = pa.concat_arrays([empty, *(_read_names(self.folder, s) for s in self.index.shards)])
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


def prepare_store(folder: Path, content: dict[str, Any], hidden_size: int) -> None:
    """Make a folder ready for writing: start its index, or drop damaged shards and what killed runs left behind.

    Every shard is compared with its checksum. Only one run may do this at a time, before any process adds shards.

    Args:
        folder: Of the store; it exists.
        content: See `StoreIndex`.
        hidden_size: Values of one embedding.

    Raises:
        ValueError: The store holds something else, or its index is damaged.
    """
    index = StoreIndex(content, hidden_size)
    if (folder / INDEX_NAME).exists():
        index = StoreIndex.read(folder)
        if (index.content, index.hidden_size) != (content, hidden_size):
            raise ValueError(f"{folder} holds embeddings of {index.content}, expected {content}.")
    damaged = index.damaged(folder)
    for shard in damaged:
        logger.warning("%s is damaged or missing; its %d patches are embedded again", folder / shard.file, shard.rows)
    index = replace(index, shards=tuple(shard for shard in index.shards if shard not in damaged))
    index.write(folder)
    kept = {shard.file for shard in index.shards}
    for path in {*folder.glob("shard-*"), *folder.glob(".*.unfinished")}:
        if path.name not in kept:
            path.unlink()


def shard_file(names: pa.Array) -> str:
    """Name of the file for a shard of these patches, so that processes that plan the same shard agree."""
    digest = hashlib.sha256(json.dumps(names.to_pylist()).encode()).hexdigest()
    return f"shard-{digest[:24]}.safetensors"


def add_shard(folder: Path, names: pa.Array, embeddings: torch.Tensor) -> StoreIndex:
    """Write one shard and list it in the index. Any number of processes may do this at once.

    Args:
        folder: Of the store, prepared.
        names: Of the patches, large strings without nulls.
        embeddings: float16 `(len(names), hidden_size)` on the CPU, finite.

    Returns:
        The index with the shard, and with those that other processes have added meanwhile.

    Raises:
        OSError: It cannot be written; the store stays as it was.
    """
    text = "".join(names.to_pylist()).encode()
    lengths = [0, *pc.binary_length(names).to_pylist()]
    tensors = {
        "embeddings": embeddings.contiguous(),
        "name_offsets": torch.from_numpy(np.cumsum(lengths, dtype=np.int64)),
        "name_bytes": torch.from_numpy(np.frombuffer(text, dtype=np.uint8).copy()),
    }
    payload = save(tensors)
    shard = Shard(shard_file(names), len(names), len(payload), hashlib.sha256(payload).hexdigest())
    with FileLock(folder / "index.lock"):
        index = StoreIndex.read(folder)
        # Another run may have been as fast; the index must keep telling the truth about its file.
        if shard.file not in {other.file for other in index.shards}:
            _write_whole(folder / shard.file, payload)
            index = replace(index, shards=(*index.shards, shard))
            index.write(folder)
    return index


def _read_tensors(path: Path, *keys: str) -> list[torch.Tensor]:
    """Tensors that are mapped, not read; they stay mapped after the file is closed."""
    try:
        with safe_open(path, framework="pt") as file:
            return [file.get_tensor(key) for key in keys]
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read: {error}. embed_patches_once rebuilds it.") from error


def _read_names(folder: Path, shard: Shard) -> pa.Array:
    offsets, text = _read_tensors(folder / shard.file, "name_offsets", "name_bytes")
    names = pa.LargeStringArray.from_buffers(shard.rows, pa.py_buffer(offsets.numpy()), pa.py_buffer(text.numpy()))
    try:
        names.validate(full=True)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{folder / shard.file} is damaged: {error}. embed_patches_once rebuilds it.") from error
    return names


def _write_whole(path: Path, payload: bytes) -> None:
    try:
        with replacing(path) as unfinished:
            unfinished.write_bytes(payload)
    except OSError as error:
        message = f"{error.strerror}; what the store held before stays usable, so make room and start again"
        raise OSError(error.errno, message, str(path)) from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    if path.is_file():
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
