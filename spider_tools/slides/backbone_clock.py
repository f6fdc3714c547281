"""How long a backbone works: of the time of a CPU, or of a GPU that runs behind its program."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class BackboneClock:
    """Adds up the time of what is done while it runs.

    On a GPU it is that between two events in the order of its work, which are looked at once they are past, so that
    nothing waits for them; what the GPU does before the first or after the second does not count.

    Args:
        device: That of the work.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._seconds = 0.0
        self._events: deque[tuple[Any, Any]] = deque()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the block."""
        if not self._on_gpu:
            started = time.perf_counter()
            try:
                yield
            finally:
                self._seconds += time.perf_counter() - started
            return
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        yield
        end.record()
        self._events.append((begin, end))
        while self._events and self._events[0][1].query():
            self._add_oldest()

    def seconds(self) -> float:
        """The time so far; waits until the GPU has done what was counted."""
        while self._events:
            self._events[0][1].synchronize()
            self._add_oldest()
        return self._seconds

    def _add_oldest(self) -> None:
        begin, end = self._events.popleft()
        self._seconds += begin.elapsed_time(end) / 1000
