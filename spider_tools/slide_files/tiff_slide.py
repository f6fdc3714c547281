"""Slides in a TIFF of which OpenSlide does not read all: levels in SubIFDs, strips, other orders of bytes."""

import os
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import numpy as np
from tifffile import TiffPage

from .file_check import TIFF_ERRORS
from .slide import Slide, true_levels
from .slide_error import SlideError, UnreadableError
from .tiff_layout import Place, TiffLayout, piece_size
from .tiff_pieces import DECODING, rgb_of_piece, rgb_of_samples
from .tiff_text import open_tiff

_KEPT_BYTES = 128 << 20  # of decoded pieces: neighbouring windows share them, and a strip is as wide as the slide


class TiffSlide(Slide):
    """A TIFF that is read tile by tile, or strip by strip: never as a whole.

    Args:
        path: The file.
        layout: Where its levels lie, all of which can be decoded.
        identity: What tells it from others.
    """

    def __init__(self, path: Path, layout: TiffLayout, identity: Mapping[str, Any]) -> None:
        self.path = path
        self.levels = true_levels(layout.sizes)
        self.bounds = (0, 0, *self.size)
        self.identity = dict(identity)
        self.warnings = layout.warnings
        self.read_by = "tifffile"
        self._places = layout.places
        self._file: Optional[_OpenFile] = None

    def read_level(self, level: int, corner: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        """As `Slide.read_level`."""
        if self._file is None or self._file.process != os.getpid():
            self._file = _OpenFile(self.path, self._places)
        return self._file.read(level, corner, size)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}


class _OpenFile:
    """The file as one process has opened it, and what of it was decoded last."""

    def __init__(self, path: Path, places: tuple[Place, ...]) -> None:
        self.process = os.getpid()
        self._path = path
        try:
            self._tiff = open_tiff(path)
            weakref.finalize(self, self._tiff.close)
            self._pages = [place.page_of(self._tiff) for place in places]
        except TIFF_ERRORS as error:
            raise SlideError(f"{path} can no longer be opened: {error}.") from error
        self._pieces: OrderedDict[tuple[int, int, int], np.ndarray] = OrderedDict()
        self._kept_bytes = 0

    def read(self, level: int, corner: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        page = self._pages[level]
        (x, y), (width, height) = corner, size
        if page.is_memmappable:
            return self._mapped(page, slice(y, y + height), slice(x, x + width))
        pixels = np.empty((height, width, 3), dtype=np.uint8)
        wide, high = piece_size(page)
        for row in range(y // high, (y + height - 1) // high + 1):
            for column in range(x // wide, (x + width - 1) // wide + 1):
                top, left = max(y, row * high), max(x, column * wide)
                piece = self._piece(level, row, column)
                part = piece[top - row * high :, left - column * wide :][: y + height - top, : x + width - left]
                pixels[top - y :, left - x :][: part.shape[0], : part.shape[1]] = part
        return pixels

    def _mapped(self, page: TiffPage, rows: slice, columns: slice) -> np.ndarray:
        """A window of px that lie in the file as they are."""
        dtype = np.dtype(page.dtype).newbyteorder(page.parent.byteorder)
        try:
            stored = np.memmap(self._path, dtype, "r", page.dataoffsets[0], page.shaped)  # planes, 1, rows, columns
            return rgb_of_samples(page, np.concatenate(stored[:, 0, rows, columns], axis=-1))
        except DECODING as error:
            raise UnreadableError(f"{self._path} is damaged: {error}.") from error

    def _piece(self, level: int, row: int, column: int) -> np.ndarray:
        key = (level, row, column)
        if key in self._pieces:
            self._pieces.move_to_end(key)
            return self._pieces[key]
        try:
            piece = self._pieces[key] = self._decoded(self._pages[level], row, column)
        except DECODING as error:
            wide, high = piece_size(self._pages[level])
            where = f"level {level}, x {column * wide}, y {row * high}"
            raise UnreadableError(f"{self._path} is damaged at {where}: {error}.") from error
        self._kept_bytes += piece.nbytes
        while self._kept_bytes > _KEPT_BYTES and len(self._pieces) > 1:
            self._kept_bytes -= self._pieces.popitem(last=False)[1].nbytes
        return piece

    def _decoded(self, page: TiffPage, row: int, column: int) -> np.ndarray:
        wide, high = piece_size(page)
        across, down = -(-page.imagewidth // wide), -(-page.imagelength // high)
        planes = int(page.samplesperpixel) if int(page.planarconfig or 1) == 2 else 1
        numbers = [(plane * down + row) * across + column for plane in range(planes)]
        size = (wide, high if page.is_tiled else min(high, page.imagelength - row * high))
        if not any(page.databytecounts[number] for number in numbers):
            return np.full((size[1], size[0], 3), 255, dtype=np.uint8)  # what was not scanned is not written
        return rgb_of_piece(page, [self._bytes_of(page, number) for number in numbers], numbers, size)

    def _bytes_of(self, page: TiffPage, number: int) -> bytes:
        self._tiff.filehandle.seek(page.dataoffsets[number])
        data = self._tiff.filehandle.read(page.databytecounts[number])
        if len(data) < page.databytecounts[number]:
            raise OSError("the file ends there")
        return data
