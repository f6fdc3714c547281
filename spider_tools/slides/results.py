"""What becomes of a slide: what the processes of a run tell each other, and the user is told."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..plain_text import escaped

_STATUSES = ("done", "skipped", "failed")
_LONGEST_MESSAGE = 160


@dataclass(frozen=True)
class SlideResult:
    """What became of a slide.

    Attributes:
        name: Of the slide's folder.
        status: "done", "skipped" (it was done before), or "failed".
        predicted: Number of patches that got a class.
        embedded: Number of patches that went through the backbone in this run.
        seconds: Of this run.
        message: Why it failed, or what was left out.
    """

    name: str
    status: str
    predicted: int = 0
    embedded: int = 0
    seconds: float = 0.0
    message: str = ""


def results_table(results: Sequence[SlideResult]) -> str:
    """What became of every slide, as text in columns, and how many slides are in each status."""
    rows = [("slide", "status", "patches", "embedded now", "seconds", "")]
    rows += [
        (escaped(r.name), r.status, f"{r.predicted:,}", f"{r.embedded:,}", f"{r.seconds:.1f}", _short(r.message))
        for r in results
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), row[1].ljust(widths[1])]
        cells += [row[column].rjust(widths[column]) for column in (2, 3, 4)]
        lines.append("  ".join([*cells, row[5]]).rstrip())
    counts = (f"{sum(r.status == status for r in results)} {status}" for status in _STATUSES)
    return "\n".join([*lines, ", ".join(counts)])


def _short(message: str) -> str:
    line = escaped(" ".join(message.split()))
    return line if len(line) <= _LONGEST_MESSAGE else line[: _LONGEST_MESSAGE - 3] + "..."
