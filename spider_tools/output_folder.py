"""One run at a time writes a folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    from accelerate import Accelerator

LOCK_NAME = ".lock"
_IN_USE = " is being written by another run."


class FolderInUseError(OSError):
    """Another run writes the folder."""


@contextmanager
def only_run_in(folder: Path, accelerator: Optional["Accelerator"] = None) -> Iterator[None]:
    """Keep other runs out of a folder, so that it never holds files of two.

    The system frees the lock when its process ends, however it ends. The empty file `.lock` stays in the folder.

    Args:
        folder: Made if absent.
        accelerator: Of a run of several processes. All of them call this: the main one takes the lock, and all learn
            whether it could. Without it this process takes the lock.

    Raises:
        FolderInUseError: Another run writes the folder.
        OSError: It cannot be locked.
    """
    # Whoever may write the folder may lock it, also after another user's run.
    lock = FileLock(folder / LOCK_NAME, timeout=0, mode=0o666)
    problem = _acquire(lock, folder) if accelerator is None or accelerator.is_main_process else ""
    if accelerator is not None:
        from accelerate.utils import broadcast_object_list  # seconds of imports, which one process need not wait for

        problem = broadcast_object_list([problem])[0]
    if problem:
        raise FolderInUseError(problem) if problem.endswith(_IN_USE) else OSError(problem)
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock, folder: Path) -> str:
    """What keeps this process from holding the lock; nothing if it does now."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        return f"{folder}{_IN_USE}"
    except (OSError, NotImplementedError) as error:  # the latter where a file system has no locks
        return f"{folder} cannot be locked against other runs: {error}"
    return ""
