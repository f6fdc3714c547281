"""A function in a process of its own, so that what this one has done and allocated is not measured with it."""

import multiprocessing
from collections.abc import Callable
from typing import Any, Optional

_SECONDS_BETWEEN_LOOKS = 0.5


def in_own_process(function: Callable[..., Any], *arguments: Any, watch: Optional[Callable[[int], Any]] = None) -> Any:
    """What a function returns in a new process.

    Args:
        function: Of the top of a module, so that it can be sent.
        arguments: Its own.
        watch: Told the number of the process about twice a second while it runs.

    Raises:
        RuntimeError: It failed; why it has said itself.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        while not receiver.poll(_SECONDS_BETWEEN_LOOKS):
            if watch is not None and process.pid is not None:
                watch(process.pid)
        return receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"{function.__name__} failed in its process, exit status {process.exitcode}.") from None
    finally:
        process.join()


def _send(sender: Any, function: Callable[..., Any], arguments: Any) -> None:
    # A process that was spawned would spawn others too, as readers, each of which takes seconds to import libraries.
    multiprocessing.set_start_method(None, force=True)
    sender.send(function(*arguments))
