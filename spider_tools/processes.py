"""Processes that this one starts: Ctrl-C ends them without a word, and how one of them died is told in words."""

import os
import re
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from typing import Any, Optional

# What gloo and NCCL, which connect the processes of a run, say of the end of another one.
_LOST = re.compile(r"gloo/transport/.*\bpeer\b|remote process exiting prematurely", re.DOTALL)
_CAN_BLOCK = hasattr(signal, "pthread_sigmask")  # Windows cannot


class WorkerError(ChildProcessError):
    """A process that works for this one died, or does not answer."""


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Processes that are started in the block never hear Ctrl-C, which a terminal sends to all: this one ends them.

    Where it reaches this process meanwhile, it is heard at the end of the block. Raised while a process is forked it
    would be lost: Python swallows what is raised there.
    """
    is_main = threading.current_thread() is threading.main_thread()
    heard: list[int] = []
    # Forked processes keep the handler, those that run another program the mask.
    handler = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number)) if is_main else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if _CAN_BLOCK else None
    try:
        yield
    finally:
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if is_main:
            signal.signal(signal.SIGINT, signal.SIG_DFL if handler is None else handler)
        if heard:
            signal.raise_signal(signal.SIGINT)


def serve_quietly(*_: Any) -> None:
    """The same for a process that runs already; of the form that a `DataLoader` asks of its `worker_init_fn`.

    SIGTERM, which Slurm and others send to all processes of a run, ends it only if the process that started it sends
    it: that one may need it until its checkpoint is written. And where that one ends while this one hands tensors over,
    nothing is said.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _say_but_for_lost_connections
    if hasattr(signal, "sigwaitinfo"):  # macOS and Windows have none
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(owner: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != owner:
        pass
    os._exit(0)


def _say_but_for_lost_connections(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    if not isinstance(error, (EOFError, ConnectionError)):
        sys.__excepthook__(kind, error, trace)


@contextmanager
def process_pool(count: int, remedy: str = "", mp_context: Any = None) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes; where the block ends early, what they have not begun is not begun any more.

    Args:
        count: Of processes.
        remedy: What a user can do where one is killed, as " or pass a lower --num_workers"; more memory always helps.
        mp_context: Of `multiprocessing`, how they are started.

    Raises:
        WorkerError: One of them died.
    """
    with _Pool(count, mp_context=mp_context, initializer=_end_quietly) as pool:
        try:
            yield pool
        except BrokenProcessPool as error:
            raise WorkerError(
                "A worker process died. Memory is the usual cause: the system kills what takes too much of it. Give "
                f"the machine or the container more{remedy}, and start again."
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


class _Pool(ProcessPoolExecutor):
    """Its processes are deaf while they start: Python would show a traceback of each."""

    def submit(self, *args: Any, **kwargs: Any) -> Future:
        with deaf_to_interrupts():
            return super().submit(*args, **kwargs)

    def map(self, fn: Callable[..., Any], *iterables: Iterable[Any], **_: Any) -> Iterator[Any]:
        """Like the base method, but where it ends early only the pool's own thread cancels what has not begun.

        That thread shows a traceback if another one cancels while it tells the waiting ones of dead processes.
        """
        waiting = deque(self.submit(fn, *arguments) for arguments in zip(*iterables))
        return (waiting.popleft().result() for _ in range(len(waiting)))


def _end_quietly() -> None:
    """Have Ctrl-C end this process at once."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if _CAN_BLOCK:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def ending(code: int) -> str:
    """How a process ended, for a message that has its name before it; of a kill, what is the usual cause."""
    if code >= 0:
        return f"ended with exit code {code}"
    name = f"signal {-code}"
    with suppress(ValueError):
        name = signal.Signals(-code).name
    cause = " Memory is the usual cause: the system kills what takes too much of it." if name == "SIGKILL" else ""
    return f"was ended by {name}.{cause}".removesuffix(".")


def lost_process(error: BaseException) -> Optional[str]:
    """What an error means that comes of a process of the same run that is no more; None for any other error."""
    if not _LOST.search(str(error)):
        return None
    return (
        "Another process of this run ended before it was done. If it said nothing itself, memory is the usual cause "
        "(SIGKILL, exit code -9): start fewer processes, or pass a lower --num_workers and smaller batches "
        "(--batch_size, --embedding_batch_size)."
    )
