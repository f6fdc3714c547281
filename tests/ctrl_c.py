"""Programs in a terminal of their own, for tests that press Ctrl-C: it sends SIGINT to all processes of a program."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import warm_python
from tiny_spider import ROOT

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}


def _hear() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # shells have what runs in the background ignore it


def start(command: Sequence[Any], warm: bool = False, **environment: str) -> "subprocess.Popen[str]":
    """Start a program that finds the checkout and the tests' modules; what it says is read by `stop`.

    Args:
        command: What to start.
        warm: Whether its imports may be over, as `warm_python` has it; not where Ctrl-C comes before their end.
        environment: Variables beside `ENVIRONMENT`.
    """
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    env = {**os.environ, "PYTHONPATH": paths, **ENVIRONMENT, **environment}
    if warm:
        pipe = subprocess.PIPE
        return warm_python.start(command, cwd=ROOT, env=env, stdout=pipe, stderr=pipe, start_new_session=True)
    return subprocess.Popen(
        [str(word) for word in command],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_hear,
    )


def wait_until(condition: Callable[[], Any], process: "subprocess.Popen[str]") -> None:
    """Wait for what a program does; if it ends before, the test fails with what it said."""
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def stop(process: "subprocess.Popen[str]", number: int = signal.SIGINT) -> tuple[int, str, str]:
    """Press Ctrl-C, or send all processes another signal; gives the exit code and what was said on both streams.

    None of its processes is left.
    """
    os.killpg(process.pid, number)
    output, error = process.communicate(timeout=60)
    deadline = time.monotonic() + 10  # workers of a process that was killed see that within seconds
    while _is_somebody_left(process.pid):
        assert time.monotonic() < deadline, "processes are left"
        time.sleep(0.1)
    return process.returncode, output, error


def told(error: str) -> str:
    """The last line of what a program said, without what its progress bars left there."""
    return error.replace("\r", "\n").strip().splitlines()[-1]


def _is_somebody_left(group: int) -> bool:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(of) == group and state != "Z":
            return True
    return False
