"""Patches by name, out of a SPIDER folder or cut from whole regions, and batches in which each is opened once."""

import functools
import itertools
import os
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from ..images import DECODING_ERRORS, to_rgb, unusable_mode
from .image_files import image_problem, open_encoded, open_image
from .image_headers import is_plain_image
from .jpeg_decoding import read_plain_jpeg

_READERS = 8  # threads, where a disk is waited for, which answers many at once
_FILES_AT_ONCE = 100  # of one thread

_REMEDY = "Mend it, or pass --skip_bad_records: all images are decoded then, and the records of bad ones left out."


class PatchSource(ABC):
    """Opens patches by the names that the rows of a data set hold. Picklable, for use in the workers of a loader.

    Attributes:
        patch_size: Side of a patch in px.
        fingerprint: Changes when the data do; it keeps embeddings of different data apart.
        for_threads: Whether several threads may read at once, and gain by it.
    """

    patch_size: int
    fingerprint: str = ""
    for_threads: bool = False

    @abstractmethod
    def read(self, name: str) -> np.ndarray:
        """One patch, uint8 `(patch_size, patch_size, 3)`, RGB.

        Raises:
            ValueError: The patch cannot be read or has another size; the message names it and a record that uses it.
        """


class FolderPatches(PatchSource):
    """Patches that are files of one folder.

    Args:
        images: The folder.
        patch_size: Side of a patch in px.
        table: Arrow stream with the columns `record` and `patches`, to name a record by.
    """

    for_threads = True

    def __init__(self, images: Path, patch_size: int, table: Path) -> None:
        self.images = images
        self.patch_size = patch_size
        self._table = table

    def read(self, name: str) -> np.ndarray:
        """See the base class."""
        try:
            path = safe_path(self.images, name)
            pixels = read_plain_jpeg(path, self.patch_size)
            if pixels is not None:
                return pixels
            with open_image(path) as image:
                if image.size != (self.patch_size, self.patch_size):
                    raise ValueError(_wrong_size(image, self.patch_size))
                return to_rgb(image)
        except DECODING_ERRORS as error:
            raise ValueError(
                f"The patch {name!r} of {self._user_of(name)} cannot be used: {error} {_REMEDY}"
            ) from error

    def _user_of(self, name: str) -> str:
        reader = pa.ipc.open_stream(pa.memory_map(os.fspath(self._table)))
        for batch in reader:
            names = batch.column("patches").flatten()
            found = pc.index(names, pa.scalar(name, pa.string())).as_py()
            if found >= 0:
                return f"record {batch.column('record')[found * len(batch) // len(names)]} of metadata.json"
        return "no record"


class RegionPatches(PatchSource):
    """Patches that are parts of whole regions, named `"<split>/<row>/<grid row>_<grid column>"`.

    A region is decoded once for patches that are asked for one after the other.

    Args:
        splits: Data sets by split, whose image column is not decoded.
        image_column: Its name.
        context_size: Patches along one side of a region; what a larger image has around them is cropped.
        patch_size: Side of a patch in px.
        folder: What paths of images are relative to.
    """

    _KEPT = 4  # decoded regions, of 4 MB each

    def __init__(
        self, splits: dict[str, Any], image_column: str, context_size: int, patch_size: int, folder: Path
    ) -> None:
        self.patch_size = patch_size
        self._folder = folder
        self._splits = splits
        self._column = image_column
        self._context_size = context_size
        self._decoded: OrderedDict[tuple[str, int], np.ndarray] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_decoded": OrderedDict()}

    def read(self, name: str) -> np.ndarray:
        """See the base class."""
        split, row, place = name.split("/")
        top, left = (int(number) * self.patch_size for number in place.split("_"))
        try:
            region = self._region(split, int(row))
        except DECODING_ERRORS as error:
            raise ValueError(
                f"The patch {name!r} of row {int(row)} of split {split!r} cannot be used: {error} {_REMEDY}"
            ) from error
        return region[top : top + self.patch_size, left : left + self.patch_size].copy()

    def _region(self, split: str, row: int) -> np.ndarray:
        if (split, row) in self._decoded:
            self._decoded.move_to_end((split, row))
            return self._decoded[split, row]
        side = self._context_size * self.patch_size
        with open_encoded(beside(self._folder, self._splits[split][row][self._column])) as image:
            problem = region_problem(image, side)
            if problem:
                raise ValueError(problem)
            # As the image processor does: the centre patch stays in the image's centre.
            left, top = (image.width - side) // 2, (image.height - side) // 2
            region = to_rgb(image.crop((left, top, left + side, top + side)))
        self._decoded[split, row] = region
        if len(self._decoded) > self._KEPT:
            self._decoded.popitem(last=False)
        return region


def beside(folder: Path, encoded: Any) -> Any:
    """An image as `datasets.Image(decode=False)` gives it, its path made that of a file below a folder."""
    if encoded is None or encoded["bytes"] is not None or not encoded["path"]:
        return encoded
    return {**encoded, "path": os.fspath(folder / encoded["path"])}


def path_problem(folder: Path, encoded: Any) -> str | None:
    """Why the path that a table names for an image cannot be taken; None if it can."""
    if encoded is None or encoded["bytes"] is not None or not encoded["path"]:
        return None
    path = Path(encoded["path"])
    if ".." in path.parts or (path.is_absolute() and not path.is_relative_to(folder.absolute())):
        return f"the path {encoded['path']!r} may leave the data set's folder, expected one relative to it."
    return None


def region_problem(image: Image.Image, side: int) -> str | None:
    """Why an image, not decoded yet, cannot be a region of `side` px; None if it can."""
    if min(image.size) < side:
        return f"it is {image.width}x{image.height} px, expected a region of at least {side}x{side} px."
    return unusable_mode(image)


def bad_images(images: Path, patch_size: int, decode: bool, names: list[str]) -> list[tuple[str, str]]:
    """Name and problem of those of some patches that cannot be used, in the order of the names.

    Args:
        images: Folder of the patches.
        patch_size: Side in px that they must have.
        decode: Whether to look at the pixels too, not at the files' headers alone.
        names: Of the files.
    """
    unsure = names if decode else _not_plain(images, patch_size, names)
    return [(name, problem) for name in unsure if (problem := check_image(images, name, patch_size, decode))]


def _not_plain(images: Path, patch_size: int, names: list[str]) -> list[str]:
    """The names of which a first look does not say that all is well, in order."""

    def some(start: int) -> list[str]:
        return [
            name
            for name in names[start : start + _FILES_AT_ONCE]
            if not (is_bare_name(name) and is_plain_image(f"{images}{os.sep}{name}", patch_size))
        ]

    start, used = time.perf_counter(), time.thread_time()
    first = some(0)
    taken, used = time.perf_counter() - start, time.thread_time() - used
    rest = range(_FILES_AT_ONCE, len(names), _FILES_AT_ONCE)
    if used > taken / 2:  # all in memory: threads would wait for each other, and take four times as long
        return [*first, *itertools.chain.from_iterable(map(some, rest))]
    with ThreadPoolExecutor(_READERS) as pool:
        return [*first, *itertools.chain.from_iterable(pool.map(some, rest))]


def check_image(images: Path, name: str, patch_size: int, decode: bool) -> str | None:
    """Why a patch cannot be used; None if it can.

    Args:
        images: Folder of the patches.
        name: Of the file.
        patch_size: Side in px that it must have.
        decode: Whether to look at the pixels too, not at the file's header alone.
    """

    def header_problem(image: Image.Image) -> str | None:
        if image.size != (patch_size, patch_size):
            return _wrong_size(image, patch_size)
        return unusable_mode(image)

    try:
        return image_problem(repr(name), lambda: open_image(safe_path(images, name)), header_problem, decode)
    except FileNotFoundError:
        return f"there is no file {name!r} in images/."


def is_bare_name(name: str) -> bool:
    """Whether a name is that of something in a folder itself."""
    return name not in ("", ".", "..") and "/" not in name and "\\" not in name and "\0" not in name


def safe_path(images: Path, name: str) -> str:
    """The path of a file of the folder.

    Raises:
        ValueError: The name is a path, or a symbolic link that leads out of the folder.
    """
    if not is_bare_name(name):
        raise ValueError("expected the bare name of a file in images/; a path, absolute or with '..', may leave it.")
    path = os.path.join(images, name)
    if os.path.islink(path) and not os.path.realpath(path).startswith(_allowed_root(images)):
        raise ValueError("it is a symbolic link that leaves the data set's folder.")
    return path


@functools.lru_cache(maxsize=16)
def _allowed_root(images: Path) -> str:
    """What links may lead to: the data set's folder, or for a Hub snapshot its repository, which holds the blobs."""
    folder = images.resolve().parent
    for ancestor in folder.parents:
        if ancestor.name == "snapshots" and (ancestor.parent / "blobs").is_dir():
            return f"{ancestor.parent}{os.sep}"
    return f"{folder}{os.sep}"


def _wrong_size(image: Image.Image, patch_size: int) -> str:
    return f"it is {image.width}x{image.height} px, expected {patch_size}x{patch_size} px."
