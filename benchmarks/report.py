"""The report: rows measured in processes of their own, and their tables in one file for each kind of device."""

import datetime
import importlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from spider_tools.files import write_text

from .measuring import Goal, Options, Section, machine
from .own_process import in_own_process

# Module and title of each row; the first line of its docstring says what it measures.
ROWS = {
    "preprocessing": "Region to patches",
    "backbone": "Backbone",
    "int8": "Backbone in int8",
    "regions": "Region to name",
    "embedding_store": "Embedding store",
    "head_training": "Training the head",
    "slides": "Whole slides",
    "retrieval": "Finding patches again",
    "cold_start": "Cold start",
    "data_loading": "Loading a data set",
}


def run(row: str, options: Options, folder: Path) -> bool:
    """Measure a row in a process of its own and add it to the report."""
    print(f"## {ROWS[row]}", flush=True)
    try:
        measured = in_own_process(_measure, row, options)
    except RuntimeError:
        return False
    add_to_report(folder, options.device.type, row, measured)
    print("\n".join(section.markdown() for section in sections_of(measured)), flush=True)
    return True


def _measure(row: str, options: Options) -> dict[str, Any]:
    measured = {"date": datetime.date.today().isoformat(), "machine": machine(options.device)}
    sections = importlib.import_module(f"{__package__}.{row}").measure(options)
    return {**measured, "sections": [asdict(section) for section in sections]}


def add_to_report(folder: Path, name: str, row: str, measured: dict[str, Any]) -> None:
    """Write `<name>.json` and `<name>.md` anew, each whole, with the figures of one row replaced."""
    path = folder / f"{name}.json"
    report = json.loads(path.read_text()) if path.exists() else {}
    report[row] = measured
    report = {row: report[row] for row in ROWS if row in report}
    write_text(path, json.dumps(report, indent=2) + "\n")
    write_text(folder / f"{name}.md", as_markdown(report))


def as_markdown(report: dict[str, Any]) -> str:
    """All rows for people, each with its date and machine."""
    parts = [
        "# Measured\n",
        "Written by `python -m benchmarks`. Ways of a table ran in turn, in one process where nothing else is said. "
        "Times are medians; spread is from the fastest run to the slowest, as a share of the median.\n",
    ]
    for row, measured in report.items():
        described = ", ".join(f"{key} {value}" for key, value in measured["machine"].items())
        parts.append(f"## {ROWS[row]}\n\n{measured['date']}; {described}\n")
        parts += [section.markdown() for section in sections_of(measured)]
    return "\n".join(parts)


def sections_of(measured: dict[str, Any]) -> list[Section]:
    """The tables of one row of a report."""
    return [
        Section(**{**section, "goals": [Goal(**goal) for goal in section["goals"]]}) for section in measured["sections"]
    ]
