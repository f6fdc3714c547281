"""Worker processes of loaders: as many as shared memory has room for, and an end in words where one dies or hangs."""

import logging
import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

from torch.utils.data import DataLoader, Dataset

from .processes import WorkerError, deaf_to_interrupts, serve_quietly

logger = logging.getLogger(__name__)

WORKER_TIMEOUT_SECONDS = 600
"""How long a loader waits for its workers; given as `timeout` to every `DataLoader` that has some."""

BATCH_FLAG = "--batch_size"
"""What most scripts set the size of batches with, as messages name it."""

_SHARED_MEMORY = "/dev/shm"
_PREFETCHED = 2  # batches that each worker of a `DataLoader` makes ahead
_IN_HAND = 2  # the one that is used, and the next while it takes its place
_GRACE_SECONDS = 1.0
_FAILURES = re.compile(r"DataLoader worker \(pid|DataLoader timed out|Pin memory thread exited")
_FROM_A_DATASET = "in DataLoader worker process"  # how PyTorch hands on what a data set raised in a healthy worker


def usable_workers(requested: int, bytes_per_batch: int, what: str) -> int:
    """How many workers a loader may have: workers hand batches over in shared memory, and hang where it is full.

    Each makes two batches ahead, and up to two more are in hand. Processes that were launched together share the room.

    Args:
        requested: Workers that were asked for.
        bytes_per_batch: Size of the largest batch, in bytes.
        what: What they read, for the message: `"patches"`.

    Returns:
        `requested`, or fewer, down to 0, with a warning; `requested` where the system has no such limit.
    """
    free = _free_shared_memory()
    if requested <= 0 or free is None:
        return requested
    room = free // max(1, int(os.environ.get("LOCAL_WORLD_SIZE") or 1))
    usable = min(requested, max(0, (room // max(1, bytes_per_batch) - _IN_HAND) // _PREFETCHED))
    if usable < requested:
        logger.warning(
            "Reading %s with %d workers instead of %d: they need %.0f MB of shared memory, and %s has room for %.0f "
            "MB. In Docker give it more with `docker run --shm-size=8g`, or make the batches smaller.",
            *(what, usable, requested, (_PREFETCHED * requested + _IN_HAND) * bytes_per_batch / 1e6),
            *(_SHARED_MEMORY, room / 1e6),
        )
    return usable


def _free_shared_memory() -> int | None:
    """Bytes; None on systems that have no such folder."""
    try:
        found = os.statvfs(_SHARED_MEMORY)
    except (AttributeError, OSError):
        return None
    return found.f_bavail * found.f_frsize


class WatchedLoader(DataLoader):
    """A `DataLoader` whose iteration ends with a `WorkerError` where a worker dies or stops answering.

    Its workers do not hear Ctrl-C: what becomes of a run decides the process that has them.

    Args:
        dataset: See `DataLoader`.
        num_workers: Of `usable_workers`.
        seconds: How long to wait for a batch.
        batch_flag: What the user sets the size of the batches with.
        **options: Of `DataLoader`, but for `timeout` and `worker_init_fn`.
    """

    def __init__(
        self,
        dataset: Dataset,
        num_workers: int = 0,
        seconds: float = WORKER_TIMEOUT_SECONDS,
        batch_flag: str = BATCH_FLAG,
        **options: Any,
    ) -> None:
        self._batch_flag = batch_flag
        timeout = seconds if num_workers > 0 else 0
        # accelerate makes a loader of another class from this one, and hands on what is given here.
        options["worker_init_fn"] = serve_quietly
        super().__init__(dataset, num_workers=num_workers, timeout=timeout, **options)

    def __iter__(self) -> Any:
        """The batches of one pass."""
        if self.num_workers == 0:
            return super().__iter__()
        with deaf_to_interrupts():
            batches = super().__iter__()
        return _watched(batches, self.timeout, self._batch_flag)


@contextmanager
def worker_failures_in_words(batch_flag: str = BATCH_FLAG) -> Iterator[None]:
    """Turn what PyTorch says of dead or silent workers into a `WorkerError`.

    It says so wherever the process is when a worker dies, which need not be where the next batch is drawn: put this
    around the whole loop.

    Args:
        batch_flag: What the user sets the size of the batches with.
    """
    try:
        yield
    except RuntimeError as error:
        if not _FAILURES.match(str(error)):
            raise
        raise _in_words(str(error), batch_flag) from error


def _watched(batches: Any, seconds: float, batch_flag: str) -> Iterator[Any]:
    with worker_failures_in_words(batch_flag):  # that a worker has died is raised anywhere, in the lines below too
        yield from _drawn(batches, seconds, batch_flag)


def _drawn(batches: Any, seconds: float, batch_flag: str) -> Iterator[Any]:
    workers = _Workers(getattr(batches, "_workers", ()), seconds)
    while True:
        try:
            with workers.killed_if_silent():
                batch = next(batches)
        except StopIteration:
            return
        except (OSError, EOFError, RuntimeError) as error:
            problem = workers.problem(error)
            if problem is None:
                raise
            workers.end()
            raise _in_words(problem, batch_flag) from error
        yield batch


class _Workers:
    """The processes of one loader."""

    def __init__(self, processes: Sequence[BaseProcess], seconds: float) -> None:
        self._processes = list(processes)
        self._seconds = seconds
        self._silent = False

    @contextmanager
    def killed_if_silent(self) -> Iterator[None]:
        """Kill them if the block lasts too long.

        The loader's own time-out does not see a worker that stops while it hands over a batch. Its end does.
        """
        watchdog = threading.Timer(self._seconds + _GRACE_SECONDS, self._kill_silent)
        watchdog.daemon = True
        watchdog.start()
        try:
            yield
        finally:
            watchdog.cancel()

    def problem(self, error: BaseException) -> str | None:
        """What is the matter with the workers if an error comes of them; None if it comes of the data."""
        if _FROM_A_DATASET in str(error):
            return None
        if self._silent or "timed out" in str(error):
            return f"no batch came for {self._seconds:g} seconds"
        ends = [process.exitcode for process in self._ended()]
        if ends:
            return f"process ended by {signal.Signals(-ends[0]).name}" if ends[0] < 0 else f"exit code {ends[0]}"
        return str(error) if _FAILURES.match(str(error)) else None

    def end(self) -> None:
        """Kill them and see them gone: at its own end the program would wait for a stopped one for ever."""
        self._kill()
        for process in self._processes:
            try:
                process.join(_GRACE_SECONDS)
            except RuntimeError:  # PyTorch's, which is told of every child that ends
                process.join(_GRACE_SECONDS)

    def _ended(self) -> list[Any]:
        """Those that have ended; a connection breaks a moment before its process counts as ended."""
        deadline = time.monotonic() + _GRACE_SECONDS
        while time.monotonic() < deadline:
            if ended := [process for process in self._processes if process.exitcode]:
                return ended
            try:
                time.sleep(0.01)
            except RuntimeError:  # PyTorch's, as above
                continue
        return []

    def _kill_silent(self) -> None:
        self._silent = True
        self._kill()

    def _kill(self) -> None:
        for process in self._processes:
            process.kill()


def _in_words(problem: str, batch_flag: str) -> WorkerError:
    return WorkerError(
        f"A worker process that reads data died or does not answer: {problem.strip().rstrip('.')}. Memory is the usual "
        "cause: give the machine, or the container's /dev/shm (docker run --shm-size), more of it, or pass a lower "
        f"--num_workers; 0 reads without workers. A lower {batch_flag} takes less memory too."
    )
