"""The streams below `tar_parts`: parts joined to one, without its compression, watched while `tarfile` reads."""

import bz2
import gzip
import io
import lzma
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from .regular_files import refuse_irregular

_OPENERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}


class JoinedParts(io.RawIOBase):
    """Files one after the other as one seekable stream.

    Args:
        paths: At least one file.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__()
        self._paths = list(paths)
        self._starts = [0]
        for path in self._paths:
            refuse_irregular(path)
            self._starts.append(self._starts[-1] + path.stat().st_size)
        self.size = self._starts[-1]
        self._position = 0
        self._number = 0
        self._file: IO[bytes] = open(self._paths[0], "rb", buffering=0)

    @property
    def part(self) -> Path:
        """The file that was read last."""
        return self._paths[self._number]

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Position in the joined stream, in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position, which may lie beyond the end."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read up to the end of a part; 0 at the end of all."""
        if self._position >= self.size:
            return 0
        number = next(n for n in range(len(self._paths)) if self._position < self._starts[n + 1])
        if number != self._number:
            self._file.close()
            self._file = open(self._paths[number], "rb", buffering=0)
            self._number = number
        self._file.seek(self._position - self._starts[number])
        count = self._file.readinto(memoryview(buffer)[: self._starts[number + 1] - self._position])  # type: ignore
        self._position += count
        return count

    def close(self) -> None:
        """Close the open part."""
        self._file.close()
        super().close()


class LastRead:
    """A stream that remembers what was read last, for `tarfile`, which reads the names of members at once.

    Args:
        stream: Seekable.
    """

    _LONGEST = 1 << 26  # bytes; names and other facts of a member are kilobytes long

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        """Read; a piece that only a bomb would hold in one is refused before it fills the memory."""
        if size > self._LONGEST:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        self.last = self._stream.read(size)
        return self.last

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position."""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """Position in bytes."""
        return self._stream.tell()


def decompressed(joined: JoinedParts) -> IO[bytes]:
    """A joined stream without its compression: gzip, bzip2, xz or none, told by its first bytes."""
    buffered = io.BufferedReader(joined, 1 << 20)
    start = buffered.peek(8)
    for magic, opener in _OPENERS.items():
        if start.startswith(magic):
            return opener(buffered, "rb")
    return buffered


def refuse_missing_end(stream: LastRead) -> None:
    """`tarfile` takes a missing end, or garbage in the place of a header, for the end.

    Raises:
        tarfile.ReadError: There is no end, or something behind it.
    """
    if stream.last != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("no end of the archive where the last file ends")
    while padding := stream.read(1 << 20):
        if padding.strip(b"\0"):
            raise tarfile.ReadError("data after the end of the archive")
