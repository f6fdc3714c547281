"""PNG and JPEG files known to be good by their first bytes, many times faster than by opening them as images.

Only a yes counts: it is given where Pillow is sure to open the file with this size, in a mode that becomes RGB. What is
bad, rare or longer than the first bytes is left to Pillow, which also has the words for it.
"""

import os
import stat
import struct
import zlib

from PIL import Image

FIRST_BYTES = 4096
"""How much of a file is looked at: most headers take a few hundred, and a page is what a disk reads anyway."""

_CAN_OPEN_SAFELY = hasattr(os, "O_NOFOLLOW") and hasattr(os, "O_NONBLOCK")  # Windows has neither

_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR"
_PNG_CHANNELS = b"\0\2\4\6"  # colour types of grey, RGB, and both with opacity
_PNG_EXTRAS = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9}  # chunks that need no look, with their lengths
_IHDR = struct.Struct(">IIBBBBB")
_CHUNK = struct.Struct(">I4s")
_NUMBER = struct.Struct(">I")

_JPEG = b"\xff\xd8\xff"
_SEGMENT = struct.Struct(">HH")
_FRAME = struct.Struct(">BHHB")
_FRAMES = frozenset({0xFFC0, 0xFFC1, 0xFFC2})  # Huffman-coded in one pass or in several
_TABLES = frozenset({0xFFC4, 0xFFDD, 0xFFFE})  # Huffman tables, restart intervals, comments: skipped
_SAMPLINGS = (b"\x11\x11\x11", b"\x21\x11\x11", b"\x22\x11\x11")  # 4:4:4, 4:2:2, 4:2:0
_QUANTISATION, _SCAN = 0xFFDB, 0xFFDA
# Marker, what the segment begins with, and its least and its largest length. Others may hold a second image, or numbers
# that have to be read: they are Pillow's.
_APPLICATION = {
    0xFFE0: (b"JFIF\0", 16, 16),
    0xFFE2: (b"ICC_PROFILE\0", 17, 65535),
    0xFFEE: (b"Adobe", 14, 14),
}

# The last good header of a JPEG by the side of its image: files of one encoder mostly begin with the very same bytes.
_known: dict[int, bytes] = {}


def is_plain_image(path: str, side: int) -> bool:
    """Whether a file is an everyday PNG or JPEG of `side` x `side` px; False may also mean that nobody knows.

    Links are not followed, and what is no regular file is not waited for.

    Args:
        path: Of the file.
        side: In px.
    """
    if not _CAN_OPEN_SAFELY:
        return False
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return False
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return False
        return is_plain_header(os.read(file, FIRST_BYTES), side)
    except OSError:
        return False
    finally:
        os.close(file)


def is_plain_header(first_bytes: bytes, side: int) -> bool:
    """The same of the first bytes of a file, all of them where it is short."""
    if Image.MAX_IMAGE_PIXELS is not None and side * side > Image.MAX_IMAGE_PIXELS:
        return False
    try:
        if first_bytes.startswith(_JPEG):
            return first_bytes.startswith(_known.get(side, _PNG)) or _is_plain_jpeg(first_bytes, side)
        return first_bytes.startswith(_PNG) and _is_plain_png(first_bytes, side)
    except (struct.error, IndexError):  # the header is longer than this
        return False


def _is_plain_png(head: bytes, side: int) -> bool:
    width, height, depth, channels, compression, filtering, interlaced = _IHDR.unpack_from(head, 16)
    if (width, height, depth) != (side, side, 8) or channels not in _PNG_CHANNELS:
        return False
    if compression or filtering or interlaced > 1:
        return False
    place, length = 8, 13
    while zlib.crc32(head[place + 4 : place + 8 + length]) == _NUMBER.unpack_from(head, place + 8 + length)[0]:
        place += 12 + length
        length, kind = _CHUNK.unpack_from(head, place)
        if kind == b"IDAT":
            return True
        if _PNG_EXTRAS.get(kind) != length:
            return False
    return False


def _is_plain_jpeg(head: bytes, side: int) -> bool:
    place, has_frame = 2, False
    while True:
        marker, length = _SEGMENT.unpack_from(head, place)
        start, end = place + 4, place + 2 + length
        if length < 2 or end > len(head):
            return False
        if marker == _SCAN:
            if has_frame:
                _known[side] = head[:end]
            return has_frame
        if marker in _FRAMES:
            if has_frame or not _is_plain_frame(head, start, length, side):
                return False
            has_frame = True
        elif marker == _QUANTISATION:
            if (length - 2) % 65 or max(head[start:end:65], default=0) > 15:  # tables of 16 bits are longer
                return False
        elif marker in _APPLICATION:
            name, least, most = _APPLICATION[marker]
            if not least <= length <= most or not head.startswith(name, start):
                return False
        elif marker not in _TABLES:
            return False
        place = end


def _is_plain_frame(head: bytes, start: int, length: int, side: int) -> bool:
    bits, height, width, channels = _FRAME.unpack_from(head, start)
    if bits != 8 or not height == width == side or channels not in (1, 3) or length != 8 + 3 * channels:
        return False
    return channels == 1 or head[start + 7 : start + 14 : 3] in _SAMPLINGS
