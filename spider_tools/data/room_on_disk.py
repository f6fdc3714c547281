"""Room for what the cache gets: looked at before a file is unpacked, and told in words where there is none."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_RESERVE = 1 << 28  # bytes left to whatever else writes to the disk
_UNSUSPECTED = 1 << 30  # bytes that any archive may become
_MOST_RATIO = 200  # of output to input; images hardly shrink, tables and JSON to a tenth
_REMEDY = "Make room, or choose a folder on another disk with --cache_dir."
_FULL = (errno.ENOSPC, errno.EDQUOT)


def refuse_without_room(called: str, size: int, folder: Path) -> None:
    """Refuse to write a file that the disk has no room for.

    Args:
        called: What the message calls the file.
        size: Its bytes.
        folder: An existing folder on the disk.

    Raises:
        ValueError: Less than a reserve of 256 MiB would be left.
    """
    free = shutil.disk_usage(folder).free
    if size > free - _RESERVE:
        raise ValueError(
            f"{called} takes {_mebibytes(size)}, expected at most what the disk of {folder} has free, "
            f"{_mebibytes(free)}, less {_mebibytes(_RESERVE)} in reserve. {_REMEDY}"
        )


def refuse_bomb(archive: str, output: int, size: int) -> None:
    """Refuse an archive that becomes far larger than any of images does.

    Args:
        archive: Its name.
        output: Bytes that it has become, or would with its next member.
        size: Its own bytes.

    Raises:
        ValueError: The output is larger than 1 GiB and than 200 times the archive.
    """
    if output > max(_UNSUSPECTED, _MOST_RATIO * size):
        raise ValueError(
            f"{archive} has {size:,} bytes and becomes {_mebibytes(output)} or more, expected at most {_MOST_RATIO} "
            f"times its size where that is above {_mebibytes(_UNSUSPECTED)}. If you trust it, unpack it by hand and "
            "name the folder."
        )


@contextmanager
def full_disk_in_words(folder: Path) -> Iterator[None]:
    """Have errors of a full disk or quota name the folder and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise OSError(error.errno, f"{error.strerror or error}. {_REMEDY}", str(folder)) from error


def _mebibytes(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"
