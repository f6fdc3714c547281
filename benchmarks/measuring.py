"""Timing ways of doing the same thing side by side, and the tables that come of it."""

import ctypes
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from spider_tools.embeddings.slow_dtypes import is_slow

Way = Callable[[], Any]
PLURALS = {"patch": "patches"}


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
        device: Where models run.
        quick: Whether to use tiny sizes and few runs, which shows that a row works and nothing else.
    """

    device: torch.device
    quick: bool = False

    @property
    def bfloat16(self) -> bool:
        """Whether to measure it: not on a CPU that is many times slower in it, where a row would take hours."""
        return self.quick or not is_slow(torch.bfloat16, self.device)

    @property
    def left_out(self) -> str:
        """What notes say of it."""
        return "" if self.bfloat16 else " This CPU is slow in bfloat16, which is left out."


@dataclass(frozen=True)
class Goal:
    """What a row was to reach.

    Attributes:
        text: What is measured.
        value: What came out.
        bound: What was wanted.
        at_least: Whether the bound is the least or the most.
    """

    text: str
    value: float
    bound: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        """Whether the value is on the right side of the bound."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def __str__(self) -> str:
        """One sentence for the report."""
        wanted = f"{'at least' if self.at_least else 'at most'} {self.bound:g}"
        return f"{self.text}: {self.value:.3g}, wanted {wanted}: {'met' if self.met else 'not met'}"


@dataclass(frozen=True)
class Section:
    """One table of the report.

    Attributes:
        title: Of the table.
        notes: How it was measured; Markdown.
        rows: What was measured, by column; all rows have the same columns.
        goals: What was to be reached.
    """

    title: str
    notes: str
    rows: list[dict[str, Any]]
    goals: list[Goal] = field(default_factory=list)

    def markdown(self) -> str:
        """The table for people; floats are rounded to three digits."""
        columns = list(self.rows[0])
        lines = [
            f"### {self.title}",
            "",
            self.notes,
            "",
            f"| {' | '.join(columns)} |",
            f"|{'---|' * len(columns)}",
            *(f"| {' | '.join(_cell(row[column]) for column in columns)} |" for row in self.rows),
            "",
            *(f"- {goal}" for goal in self.goals),
        ]
        return "\n".join(lines).rstrip() + "\n"


def alternate(ways: Mapping[str, Way], rounds: int, device: torch.device, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of each way, run in turn, so that whatever else the machine does meets all of them alike.

    Args:
        ways: Callables by name.
        rounds: Timed runs of each.
        device: Where they work; a GPU is waited for.
        warm_up: Runs of each before the timed ones.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(-warm_up, rounds):
        for name, way in ways.items():
            elapsed = seconds_of(way, device)
            if number >= 0:
                seconds[name].append(elapsed)
    return seconds


def seconds_of(way: Way, device: torch.device) -> float:
    """Seconds of one run, without the collection of garbage that earlier runs have left."""
    gc.collect()
    _wait_for(device)
    start = time.perf_counter()
    way()
    _wait_for(device)
    return time.perf_counter() - start


def comparison(seconds: Mapping[str, list[float]], units: float, unit: str, baseline: str) -> list[dict[str, Any]]:
    """Rows of a table: median time per unit, spread, rate, and how many times faster than the baseline.

    Args:
        seconds: Of each run of each way, from `alternate`.
        units: Work of one run.
        unit: What the work is counted in, as "region".
        baseline: The way that the others are compared with.
    """
    reference = statistics.median(seconds[baseline])
    return [
        {
            "way": name,
            f"ms per {unit}": statistics.median(times) / units * 1e3,
            "spread": f"{spread(times):.0%}",
            f"{PLURALS.get(unit, unit + 's')}/s": units / statistics.median(times),
            f"times {baseline}": reference / statistics.median(times),
        }
        for name, times in seconds.items()
    ]


def spread(times: list[float]) -> float:
    """Distance of the slowest run from the fastest one, as a share of the median."""
    return (max(times) - min(times)) / statistics.median(times)


def peak_bytes(way: Way, device: torch.device) -> float:
    """Memory that one run takes at most beyond what was in use before: the GPU's, or on a CPU the process's."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        way()
        return float(torch.cuda.max_memory_allocated(device) - before)
    # What malloc keeps of memory that was freed would be used again unseen.
    getattr(ctypes.CDLL(None), "malloc_trim", int)(0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = _resident("VmRSS")
    way()
    return _resident("VmHWM") - before


def _resident(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return float(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}, which only Linux tells.")


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers were measured on."""
    import accelerate
    import safetensors
    import transformers

    description: dict[str, Any] = {
        "cpu": f"{_cpu_name()} ({torch.backends.cpu.get_cpu_capability()})",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        description["gpu"] = torch.cuda.get_device_name(device)
    versions = {module.__name__: module.__version__ for module in (torch, transformers, accelerate, safetensors)}
    return {
        **description,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_at_start": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **versions,
    }


def _cpu_name() -> str:
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
