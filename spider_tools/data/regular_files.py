"""Refusing what is no regular file, before it is opened: a pipe would be waited at for ever."""

import os
import stat
from collections.abc import Callable

_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)


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
