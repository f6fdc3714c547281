"""Regular files and nothing else: a pipe would be waited at for ever."""

import os
import stat
from collections.abc import Callable

_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)

# Some systems do not know all of these.
_READING = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))


def refuse_irregular(path: str | os.PathLike[str]) -> None:
    """Refuse what is no regular file.

    Raises:
        ValueError: It is a directory, pipe, socket or device.
        OSError: It does not exist or cannot be looked at.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        kind = next((words for is_kind, words in _KINDS if is_kind(mode)), "a device")
        raise ValueError(f"{os.fspath(path)} is {kind}, expected a regular file.")


def open_regular(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Open a regular file without waiting for anything: its descriptor, which the caller closes, and its size in bytes.

    Raises:
        ValueError: It is a directory, pipe, socket or device.
        OSError: It does not exist or cannot be opened.
    """
    try:
        file = os.open(path, _READING)
    except OSError:
        refuse_irregular(path)
        raise
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        os.close(file)
        refuse_irregular(path)
    return file, status.st_size
