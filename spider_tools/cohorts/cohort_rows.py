"""A slide as a row of the table of all slides, read from what its folder holds, and the table as CSV."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Optional

from ..files import read_json_object
from ..plain_text import spreadsheet_cell
from ..slides.facts import MUCH_UNFAMILIAR
from ..slides.outputs import MARKER_NAME
from ..slides.results import BACKBONE
from .records import Record

FIGURES = (
    *("seconds", "backbone_percent", "patches", "tissue_mm2", "cells_mm2"),
    *("percent_left_out", "percent_unfamiliar"),
)
_SETTINGS = ("model", "dtype", "stride", "min_tissue", "abstain", "um_per_px", "tissue", "spider_tools", "source")
_TEXTS = ("slide", "status", "warnings", "message", "finished")
SIGN = ",".join(_TEXTS)
"""How a table of this program begins."""


@dataclass(frozen=True)
class CohortRow:
    """One slide.

    Attributes:
        name: Of its folder.
        status: "done", "failed", or "unreadable" where slide.json or composition.json cannot be used.
        finished: When, as `2025-01-31T12:00:00+00:00`.
        warnings: A sentence each.
        message: Why it failed.
        figures: Those of `FIGURES` that are known.
        classes: Percent of the tissue by class, in the order of the model's classes.
        settings: How it was done.
    """

    name: str
    status: str
    finished: str
    warnings: tuple[str, ...] = ()
    message: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    classes: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def row_of_record(record: Record) -> CohortRow:
    """A slide that failed."""
    figures, settings = {"seconds": record.seconds}, {"source": record.source}
    return CohortRow(record.name, record.status, _time(record.finished), (), record.message, figures, {}, settings)


def row_of_folder(folder: Path, record: Optional[Record]) -> CohortRow:
    """A slide that is done.

    Args:
        folder: Its results.
        record: Of the slide, if there is one.
    """
    finished = _time((folder / MARKER_NAME).stat().st_mtime if record is None else record.finished)
    try:
        marker, composition = (read_json_object(folder / name) for name in (MARKER_NAME, "composition.json"))
        return CohortRow(
            folder.name,
            "done",
            finished,
            tuple(_warnings(marker, composition)),
            "",
            _figures(marker, composition),
            _classes(marker, composition),
            {**_settings(marker), **({} if record is None else {"source": record.source})},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = str(error) if isinstance(error, ValueError) else f"{folder / MARKER_NAME} lacks {error}."
        return CohortRow(folder.name, "unreadable", finished, message=message)


def class_order(rows: Sequence[CohortRow]) -> list[str]:
    """The classes of all slides, each where it is first met."""
    return list(dict.fromkeys(name for row in rows for name in row.classes))


def cohort_csv(rows: Sequence[CohortRow]) -> str:
    """The content of cohort.csv: a row per slide, a column `percent: <class>` for every class of any.

    A cell is empty where nothing is known, and where a slide's model has no such class. A text that a spreadsheet would
    run stands behind an apostrophe, and control characters are escaped.
    """
    classes = class_order(rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_TEXTS, *FIGURES, *(spreadsheet_cell(f"percent: {name}") for name in classes), *_SETTINGS])
    for row in rows:
        told = (row.name, row.status, " ".join(row.warnings), " ".join(row.message.split()), row.finished)
        numbers = [*(row.figures.get(name) for name in FIGURES), *(row.classes.get(name) for name in classes)]
        settings = [row.settings.get(name) for name in _SETTINGS]
        writer.writerow(
            [
                *map(spreadsheet_cell, told),
                *(_number(value) for value in numbers),
                *(spreadsheet_cell(value) if isinstance(value, str) else _number(value) for value in settings),
            ]
        )
    return text.getvalue()


def _figures(marker: dict[str, Any], composition: dict[str, Any]) -> dict[str, Any]:
    seconds = marker["seconds"]
    backbone, embedding = seconds.get(BACKBONE), seconds["embedding"]
    classes = composition["classes"].values()
    figures = {
        "seconds": sum(value for part, value in seconds.items() if part != BACKBONE),
        "backbone_percent": 100 * backbone / embedding if backbone and embedding else None,
        "patches": sum(row["patches"] for row in classes),
        **{name: composition[name] for name in ("tissue_mm2", "cells_mm2")},
        **{name: composition.get(name) for name in ("percent_left_out", "percent_unfamiliar")},
    }
    for name, value in figures.items():
        if not (value is None or isinstance(value, (int, float))):
            raise TypeError(f"a number as {name}")
    return {name: value for name, value in figures.items() if value is not None}


def _classes(marker: dict[str, Any], composition: dict[str, Any]) -> dict[str, float]:
    found = composition["classes"]
    order = [name for name in marker["request"]["class_names"] if name in found]
    order += [name for name in found if name not in order]  # what a map that abstains calls unfamiliar
    return {name: float(found[name]["percent_of_tissue"]) for name in order}


def _settings(marker: dict[str, Any]) -> dict[str, Any]:
    request, facts = marker["request"], marker["facts"]
    return {
        "model": facts.get("Model"),
        "dtype": facts.get("Backbone in"),
        "stride": request["stride"],
        "min_tissue": request["min_tissue"],
        "abstain": bool(request.get("abstain", False)),
        "um_per_px": request["mpp"][0],
        "tissue": facts.get("Tissue"),
        "spider_tools": marker["spider_tools"],
    }


def _warnings(marker: dict[str, Any], composition: dict[str, Any]) -> list[str]:
    if "warnings" in marker:
        return [str(warning) for warning in marker["warnings"]]
    # Earlier versions wrote no list of them.
    facts, share, imported = marker["facts"], composition.get("percent_unfamiliar"), marker.get("import")
    return [
        *([imported["sentence"]] if imported and not imported["verified"] else []),
        *(facts[name] for name in ("Warning", "Damage") if facts.get(name)),
        *([f"{share:.0f}% of the tissue is unfamiliar to the model."] if (share or 0) >= 100 * MUCH_UNFAMILIAR else []),
    ]


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else value


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")
