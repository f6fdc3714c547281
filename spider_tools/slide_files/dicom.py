"""Which series a DICOM file belongs to, read from its header without a library for DICOM."""

import stat
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Optional

SUFFIX = ".dcm"
_SLIDE_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"  # VL Whole Slide Microscopy Image Storage
_IMPLICIT, _BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_TRANSFER_SYNTAX, _SOP_CLASS = (0x0002, 0x0010), (0x0008, 0x0016)
_SERIES, _SERIES_NUMBER = (0x0020, 0x000E), (0x0020, 0x0011)
_ITEM_END, _SEQUENCE_END = (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
_LONG_KINDS = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_UNKNOWN_LENGTH = 0xFFFFFFFF
_LONGEST_VALUE = 1024  # an identifier has 64 characters


@dataclass(frozen=True)
class DicomSeries:
    """A series of DICOM files: the levels of one slide, with its label and overview.

    Attributes:
        uid: Its SeriesInstanceUID.
        number: Its SeriesNumber, "" where there is none.
        is_slide: Whether the file holds a whole-slide image, not annotations or a report.
    """

    uid: str
    number: str
    is_slide: bool


def read_series(path: Path) -> Optional[DicomSeries]:
    """The series of a file; None if it is no DICOM file or does not say it."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # from a pipe nothing may ever come
            return None
        return _read_series(path, status.st_size, status.st_mtime_ns)
    except OSError:
        return None


def group_by_series(paths: Sequence[Path]) -> dict[Optional[DicomSeries], list[Path]]:
    """Files by series, in the order in which each is first met; files that do not say theirs are under None.

    A series is a slide if one of its files holds a whole-slide image, and such a file is then the first of the series.
    """
    found: dict[Optional[str], list[tuple[Optional[DicomSeries], Path]]] = {}
    for path in paths:
        series = read_series(path)
        found.setdefault(series.uid if series else None, []).append((series, path))
    groups = {}
    for members in found.values():
        members.sort(key=lambda member: member[0] is not None and not member[0].is_slide)
        groups[members[0][0]] = [path for _, path in members]
    return groups


def files_of_series(path: Path) -> list[Path]:
    """All files in the folder of `path` that belong to its series, itself included."""
    series = read_series(path)
    if series is None:
        return [path]
    others = (other for other in sorted(path.parent.iterdir()) if other.is_file())
    return [other for other in others if other == path or getattr(read_series(other), "uid", None) == series.uid]


@lru_cache(maxsize=65536)  # each of many series in a folder asks for all of its files
def _read_series(path: Path, size: int, mtime_ns: int) -> Optional[DicomSeries]:
    with path.open("rb") as file:
        if file.read(132)[128:] != b"DICM":
            return None
        try:
            values = _values(file)
        except (struct.error, UnicodeDecodeError):
            return None
    if _SERIES not in values:
        return None
    return DicomSeries(
        values[_SERIES], values.get(_SERIES_NUMBER, ""), values.get(_SOP_CLASS, _SLIDE_CLASS) == _SLIDE_CLASS
    )


def _values(file: BinaryIO) -> dict[tuple[int, int], str]:
    """The values that are looked for, as text; a file that was cut off gives fewer."""
    values = {}
    start = file.tell()
    (meta_length,) = struct.unpack("<I", file.read(12)[8:])
    meta = _elements(file, _Encoding(), start + 12 + meta_length)
    syntax = dict(meta).get(_TRANSFER_SYNTAX, "")
    if syntax == _DEFLATED:
        return {}
    encoding = _Encoding(">" if syntax == _BIG_ENDIAN else "<", explicit=syntax != _IMPLICIT)
    for tag, value in _elements(file, encoding):
        if tag > _SERIES_NUMBER:
            break
        values[tag] = value
    return values


@dataclass(frozen=True)
class _Encoding:
    """How elements are written: the order of bytes, and whether each says its kind."""

    order: str = "<"
    explicit: bool = True


def _elements(file: BinaryIO, encoding: _Encoding, end: Optional[int] = None) -> Iterator[tuple[tuple[int, int], str]]:
    """The outermost elements, text for those that are looked for and "" for all others."""
    while (end is None or file.tell() < end) and (head := _head(file, encoding)) is not None:
        tag, length = head
        if tag in (_TRANSFER_SYNTAX, _SOP_CLASS, _SERIES, _SERIES_NUMBER):
            if length > _LONGEST_VALUE:
                raise struct.error(f"a value of {length} bytes where a short one was expected")
            yield tag, file.read(length).decode("ascii").rstrip(" \x00")
        else:
            _skip(file, encoding, length)
            yield tag, ""


def _head(file: BinaryIO, encoding: _Encoding) -> Optional[tuple[tuple[int, int], int]]:
    """Tag and length of the next element, None at the end of the file."""
    head = file.read(8)
    if len(head) < 8:
        return None
    group, number = struct.unpack(f"{encoding.order}HH", head[:4])
    if group == 0xFFFE or not encoding.explicit:  # items and ends of sequences never say a kind
        (length,) = struct.unpack(f"{encoding.order}I", head[4:])
    elif head[4:6] in _LONG_KINDS:
        (length,) = struct.unpack(f"{encoding.order}I", file.read(4))
    else:
        (length,) = struct.unpack(f"{encoding.order}H", head[6:])
    return (group, number), length


def _skip(file: BinaryIO, encoding: _Encoding, length: int) -> None:
    """Pass over a value; what has no length ends with a mark of its own, and holds others of that sort."""
    if length != _UNKNOWN_LENGTH:
        file.seek(length, 1)
        return
    depth = 1
    while depth and (head := _head(file, encoding)) is not None:
        tag, length = head
        if tag in (_ITEM_END, _SEQUENCE_END):
            depth -= 1
        elif length == _UNKNOWN_LENGTH:
            depth += 1
        else:
            file.seek(length, 1)
