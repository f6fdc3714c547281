"""How processes share work: each claims pieces of it by locks on files, which the system frees when a process dies."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_REFUSALS = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def refusal_in_words(folder: Path, remedy: str) -> Iterator[None]:
    """Say in one sentence that a folder may not be written, where the block finds that out.

    Args:
        folder: That the block writes to.
        remedy: What to do then, as "Choose another one with --cache_dir."

    Raises:
        PermissionError: The system refuses it.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        raise PermissionError(
            f"{folder} may not be written ({error.strerror}): it is read-only or belongs to another user. {remedy}"
        ) from error


class Claims:
    """The claims of one process on work that processes share; nobody has to wait for anybody.

    A claim lasts until it is given up or its process ends, however it ends. Processes that were forked meanwhile, as
    the workers of a loader, hold it on until they end too, which they do some seconds after their parent.

    Args:
        folder: Holds a file `<name>.lock` for everything that was ever claimed; made with the first of them.
        remedy: What to do where the folder may not be written, for the message.
    """

    def __init__(self, folder: Path, remedy: str = "Choose another folder.") -> None:
        self._folder, self._remedy = folder, remedy
        self._locks: dict[str, FileLock] = {}

    def claim(self, name: str, patience: float = 0.0) -> bool:
        """Claim a piece of work.

        Args:
            name: Of the piece; it can be part of a file's name.
            patience: Seconds to wait while another has it.

        Returns:
            Whether it is this process's now; False if another one has it, or these claims already hold it.

        Raises:
            PermissionError: The folder may not be written.
        """
        if name in self._locks:
            return False
        lock = FileLock(self._folder / f"{name}.lock")
        try:
            with refusal_in_words(self._folder, self._remedy):
                self._folder.mkdir(parents=True, exist_ok=True)
                lock.acquire(timeout=patience)
        except Timeout:
            return False
        self._locks[name] = lock
        return True

    def release(self, name: str) -> None:
        """Give up one claim, if it is held."""
        if name in self._locks:
            self._locks.pop(name).release()

    def release_all(self) -> None:
        """Give up all claims."""
        for name in list(self._locks):
            self.release(name)


def is_claimed(folder: Path, prefix: str = "") -> bool:
    """Whether a process, this one included, holds a claim in a folder.

    Args:
        folder: Of `Claims`.
        prefix: Only claims whose names begin with it.
    """
    probe = Claims(folder)
    for path in sorted(folder.glob(f"{prefix}*.lock")):
        name = path.name.removesuffix(".lock")
        if not probe.claim(name):
            return True
        probe.release(name)
    return False
