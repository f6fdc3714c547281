"""Tiles and strips of a TIFF as RGB: Pillow, whose libtiff knows the usual compressions, gets each as a small file."""

import io
import lzma
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from tifffile import EXTRASAMPLE, PHOTOMETRIC, TiffPage

from ..images import DECODING_ERRORS, to_rgb
from .file_check import TIFF_ERRORS

JPEG_2000 = (33005, 34712)
"""Numbers of compressions that Pillow decodes in RGB, without the help of libtiff."""
_NATIVE = (1, 8, 32773, 32946, 34925)  # what tifffile decodes without further packages, also to 16 bits
_SHORT, _LONG, _BYTES = 3, 4, 7
_FORMATS = {_SHORT: "H", _LONG: "I", _BYTES: "B"}
# Of the directory, as they are: predictor, tables of JPEG, subsampling, reference of black and white, order of bits.
_COPIED = {266: _SHORT, 317: _SHORT, 347: _BYTES, 530: _SHORT}
DECODING = (*DECODING_ERRORS, *TIFF_ERRORS, zlib.error, lzma.LZMAError)
"""What decoding raises where a piece is damaged."""


def rgb_of_piece(page: TiffPage, planes: Sequence[bytes], numbers: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """One tile or strip.

    Args:
        page: The directory that it belongs to.
        planes: Its bytes as they stand in the file: one, or one for each colour.
        numbers: Of these among the pieces of the directory.
        size: `(width, height)` in px.

    Returns:
        uint8 `(height, width, 3)`; transparent px are white.

    Raises:
        Exception: One of `DECODING`, where it is damaged.
    """
    if len(planes) == 1 and int(page.compression) in JPEG_2000:
        return _checked(Image.open(io.BytesIO(planes[0]), formats=("JPEG2000",)), size)
    if len(planes) == 1 and page.bitspersample == 8:
        return _checked(_opened(page, planes[0], size), size)
    return rgb_of_samples(page, np.dstack([_samples(page, *each, size) for each in zip(planes, numbers)]))


def rgb_of_samples(page: TiffPage, samples: np.ndarray) -> np.ndarray:
    """Px as they are stored, uint8 or uint16 `(height, width, samples)`, as uint8 `(height, width, 3)`."""
    if page.photometric == PHOTOMETRIC.PALETTE:
        colours: Any = page.colormap
        return np.ascontiguousarray((colours[:, samples[..., 0]] >> 8).astype(np.uint8).transpose(1, 2, 0))
    if samples.dtype.itemsize == 2:
        samples = np.rint(samples / 257)
    colours = samples[..., :3]
    if samples.shape[2] > 3 and page.photometric == PHOTOMETRIC.SEPARATED:
        colours = np.rint((255.0 - colours) * (255.0 - samples[..., 3:4]) / 255)
    elif samples.shape[2] > 3 and page.extrasamples[0] != EXTRASAMPLE.UNSPECIFIED:
        opacity = samples[..., 3:4] / 255.0
        shown = colours if page.extrasamples[0] == EXTRASAMPLE.ASSOCALPHA else colours * opacity
        colours = np.clip(np.rint(shown + 255 * (1 - opacity)), 0, 255)
    return np.ascontiguousarray(colours, dtype=np.uint8)


def _samples(page: TiffPage, data: bytes, number: int, size: tuple[int, int]) -> np.ndarray:
    """A piece as its px are stored, `(height, width, samples)`."""
    if page.bitspersample != 8 and int(page.compression) in _NATIVE:
        decode: Any = page.decode
        decoded = decode(data, number)[0]
        if decoded is None or decoded.shape[1:3] != size[::-1]:
            raise ValueError(f"a piece of {size} px was expected")
        return decoded[0]
    image = _opened(page, data, size)
    image.load()
    pixels = np.asarray(image).reshape(*size[::-1], -1)
    if page.bitspersample == 16 and pixels.dtype == np.uint8:  # Pillow makes 8 bits of 16 where they are RGB
        pixels = pixels * np.uint16(257)
    return pixels


def _checked(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    if image.size != size:
        raise ValueError(f"a piece of {image.size} px where {size} px were expected")
    return to_rgb(image)


def _opened(page: TiffPage, data: bytes, size: tuple[int, int]) -> Image.Image:
    """A piece as the only strip of a TIFF of its own."""
    order = page.parent.byteorder
    is_plane = int(page.planarconfig or 1) == 2
    samples = 1 if is_plane else int(page.samplesperpixel)
    tags: dict[int, tuple[int, Sequence[int]]] = {
        256: (_LONG, [size[0]]),
        257: (_LONG, [size[1]]),
        258: (_SHORT, [int(page.bitspersample)] * samples),
        259: (_SHORT, [int(page.compression)]),
        262: (_SHORT, [int(PHOTOMETRIC.MINISBLACK if is_plane else page.photometric)]),
        273: (_LONG, [0]),
        277: (_SHORT, [samples]),
        278: (_LONG, [size[1]]),
        279: (_LONG, [len(data)]),
    }
    if page.extrasamples and not is_plane:
        tags[338] = (_SHORT, [int(extra) for extra in page.extrasamples])
    if page.colormap is not None:
        tags[320] = (_SHORT, page.colormap.ravel().tolist())
    for code, kind in _COPIED.items():
        value = page.tags.valueof(code)
        if value is not None:
            tags[code] = (kind, list(value) if isinstance(value, (tuple, bytes)) else [int(value)])
    return Image.open(io.BytesIO(_small_tiff(order, tags, data)), formats=("TIFF",))


def _small_tiff(order: str, tags: dict[int, tuple[int, Sequence[int]]], data: bytes) -> bytes:
    """Header, one directory, what does not fit into it, and the strip."""
    beyond = 8 + 2 + 12 * len(tags) + 4
    packed = {
        code: struct.pack(f"{order}{len(values)}{_FORMATS[kind]}", *values) for code, (kind, values) in tags.items()
    }
    begin = beyond + sum(len(value) + len(value) % 2 for value in packed.values() if len(value) > 4)
    packed[273] = struct.pack(f"{order}I", begin)
    directory, rest = bytearray(struct.pack(f"{order}H", len(tags))), bytearray()
    for code in sorted(tags):
        kind, values = tags[code]
        value = packed[code]
        if len(value) > 4:
            place = struct.pack(f"{order}I", beyond + len(rest))
            rest += value + bytes(len(value) % 2)
            value = place
        directory += struct.pack(f"{order}HHI", code, kind, len(values)) + value.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    return head + bytes(directory) + bytes(4) + bytes(rest) + data
