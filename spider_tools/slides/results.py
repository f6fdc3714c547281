"""What becomes of a slide: what the processes of a run tell each other, and the user is told."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..plain_text import escaped

BACKBONE = "backbone"
"""How slide.json calls the seconds of embedding in which the backbone worked."""

_STATUSES = ("done", "skipped", "failed")
_LONGEST_MESSAGE = 160
_BUSY = 0.9  # share of the time from which on faster reading gains next to nothing


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
        embedding_seconds: Of reading and embedding, in this run.
        backbone_seconds: Of these, those in which the backbone worked.
    """

    name: str
    status: str
    predicted: int = 0
    embedded: int = 0
    seconds: float = 0.0
    message: str = ""
    embedding_seconds: float = 0.0
    backbone_seconds: float = 0.0


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


def summary(results: Sequence[SlideResult]) -> str:
    """The table, and below it what to do about slides that failed, and how busy the backbone was."""
    lines = [results_table(results)]
    failed = sum(result.status == "failed" for result in results)
    if failed:
        these, them = ("1 slide failed", "it") if failed == 1 else (f"{failed} slides failed", "them")
        lines.append(
            f"{these}: cohort.csv says why. The same command tries {them} again, and with --retry_failed {them} alone."
        )
    embedding, backbone = (sum(getattr(r, f"{part}_seconds") for r in results) for part in ("embedding", "backbone"))
    if embedding > 0 and any(result.embedded for result in results):
        share = min(1.0, backbone / embedding)
        advice = "more --num_workers, or --stage_dir on a fast disk, may help."
        if share >= _BUSY:
            advice = "reading the slides does not hold it up."
        lines.append(f"The backbone worked {share:.0%} of the {embedding:,.0f} s of embedding; {advice}")
    return "\n".join(lines)


def _short(message: str) -> str:
    line = escaped(" ".join(message.split()))
    return line if len(line) <= _LONGEST_MESSAGE else line[: _LONGEST_MESSAGE - 3] + "..."
