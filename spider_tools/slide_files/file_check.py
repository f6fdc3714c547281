"""What is wrong with the file of a slide: cut off, damaged, or in a form that nothing here decodes."""

import re
import stat
import struct
from pathlib import Path

from tifffile import COMPRESSION, TiffFile, TiffFileError

from .slide_error import SlideError

IMAGE_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
"""What Pillow may open as a slide or a mask; among its others are some for which it starts other programs."""

_MOST_DIRECTORIES = 65_536
CONVERT = (
    "Convert it to a tiled pyramidal TIFF with JPEG or deflate first: with the scanner's own software, with "
    "bioformats2raw and raw2ometiff --rgb, or with `vips tiffsave in out.tif --tile --pyramid --compression jpeg`."
)
"""What to do with a file that is whole and is not read."""

_UNSUPPORTED = re.compile(r"unsupported|not supported|unrecogni[sz]ed|unimplemented|not configured", re.IGNORECASE)
# None, CCITT, LZW, JPEG, deflate, PackBits, LZMA and Zstandard: a file of these that cannot be decoded is damaged.
_DECODED = (1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34925, 50000)
_COMPRESSION_NUMBER = re.compile(r"compression\D{0,12}(\d+)", re.IGNORECASE)
TIFF_ERRORS = (
    *(TiffFileError, OSError, ValueError, struct.error, IndexError, KeyError, MemoryError),
    *(TypeError, AttributeError, ZeroDivisionError),  # of tags that hold something else than they should
)
"""What tifffile, and reckoning with what it gives, raise for a file that is damaged."""


def check_is_file(path: Path, what: str = "file") -> None:
    """Refuse what is no file: reading from a pipe or a device may come to no end.

    Args:
        path: The file, or a link to one.
        what: It is for the user, as "mask".

    Raises:
        SlideError: There is nothing, a link to nowhere, a folder, a pipe or a device, or it cannot be looked at.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        link = f": it is a link to {path.readlink()}, which is not there" if path.is_symlink() else ""
        raise SlideError(f"There is no {what} {path}{link}.") from error
    except (OSError, ValueError) as error:
        raise SlideError(f"The {what} {path} cannot be opened: {getattr(error, 'strerror', None) or error}.") from error
    if not stat.S_ISREG(mode):
        raise SlideError(f"The {what} {path} is {_kind(mode)}, expected a regular file.")


def open_error(path: Path, reason: str) -> SlideError:
    """What to tell of a slide that a reader recognised and cannot open.

    Args:
        path: Of the slide.
        reason: What the reader says.
    """
    if is_unsupported(reason):
        return SlideError(f"{path} is of a kind that is unsupported: {_named(reason)}. {CONVERT}")
    return SlideError(f"{path} is damaged or incomplete: {reason}.")


def is_unsupported(reason: str) -> bool:
    """Whether a reader says that a file is of a kind that it does not read, not that it is damaged."""
    return _UNSUPPORTED.search(reason) is not None


def image_error(path: Path, reason: str) -> SlideError:
    """What to tell of a file that OpenSlide does not know as a slide, and Pillow cannot decode as an image.

    Args:
        path: Of the file.
        reason: What it is if its compression is a usual one.
    """
    compression = _compression_of(path)
    if compression in _DECODED or compression is None:
        return SlideError(f"{path} is {reason}.")
    return SlideError(
        f"{path} is of a kind that is unsupported: neither OpenSlide nor Pillow decodes a TIFF that is compressed with "
        f"{compression_name(compression)}. {CONVERT}"
    )


def check_tiff_is_whole(path: Path) -> None:
    """Refuse a TIFF whose directory points beyond the end of the file: readers notice that only when they get there.

    Raises:
        SlideError: It does, or its directories are damaged, lead back to one of them, or are absurdly many.
    """
    if not is_tiff(path):
        return
    size, end, seen = path.stat().st_size, 0, set[int]()
    try:
        with TiffFile(path) as tiff:
            for page in tiff.pages:
                if page.offset in seen or len(seen) == _MOST_DIRECTORIES:
                    raise SlideError(f"{path} is no whole TIFF file: {_walk_problem(page.offset, seen)}.")
                seen.add(page.offset)
                end = max([end, *map(sum, zip(page.dataoffsets, page.databytecounts))])
    except TIFF_ERRORS as error:
        raise SlideError(f"{path} is no whole TIFF file: {error}.") from error
    if end > size:
        raise SlideError(f"{path} is truncated: its pixels end at byte {end:,}, the file at byte {size:,}.")


def is_tiff(path: Path) -> bool:
    """Whether a file begins as a TIFF, of any size and order of bytes."""
    with path.open("rb") as file:
        return file.read(2) in (b"II", b"MM")


def compression_name(number: int) -> str:
    """What a TIFF's compression is called, with its number."""
    try:
        return f"{COMPRESSION(number).name}, {number}"
    except ValueError:
        return f"an unknown method, {number}"


def _walk_problem(offset: int, seen: set[int]) -> str:
    if offset in seen:
        return f"its directories lead in a circle, back to the one at byte {offset:,}"
    return f"it has more than {_MOST_DIRECTORIES:,} directories"


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(mode), "nothing that is read")


def _named(reason: str) -> str:
    """A reader's words, with the name of the compression that they number."""
    number = _COMPRESSION_NUMBER.search(reason)
    return f"{reason} ({compression_name(int(number[1]))})" if number else reason


def _compression_of(path: Path) -> int | None:
    """The number of a TIFF's compression, None for another file."""
    try:
        with TiffFile(path) as tiff:
            return int(tiff.pages.first.compression)
    except TIFF_ERRORS:
        return None
