"""Running a function as another user, who may read what this one wrote but not write it."""

import multiprocessing
import os
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NOBODY = 65534


@contextmanager
def readable_folder() -> Iterator[Path]:
    """A folder that other users may look into, unlike pytest's."""
    folder = Path(tempfile.mkdtemp(prefix="spider-readable-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        freeze(folder, writable=True)
        shutil.rmtree(folder)


def as_another_user(folder: Path, function: Callable[[], Any]) -> Any:
    """What a function returns, or `(class of its error, message)`, in a process that may not write to a folder."""
    freeze(folder)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(function, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        process.join()
        freeze(folder, writable=True)


def freeze(folder: Path, writable: bool = False) -> None:
    """Take the right to write from all that lies below a folder, or give it back."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod((0o755 if writable else 0o555) if path.is_dir() else (0o644 if writable else 0o444))


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Every path below a folder with its size and the time of its last modification."""
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def _run(function: Callable[[], Any], sender: Any) -> None:
    if os.geteuid() == 0:  # whom no mode stops
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    try:
        result = function()
    except Exception as error:
        traceback.print_exc()
        result = (type(error).__name__, str(error))
    sender.send(result)
    os._exit(0)
