"""What was found or suggested, and the folder that it is left in."""

import csv
import hashlib
import io
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np

from .. import __version__
from ..data.settings import DataSettings
from ..files import bytes_writer, file_sha256, read_json_object, require_writable, text_writer, write_together
from ..output_folder import LOCK_NAME, only_run_in
from ..plain_text import spreadsheet_cell
from ..slide_sources.task import checked_name
from .contact_sheet import contact_sheet
from .patches import Patches
from .pixels import Pixels, read_pixels
from .qupath import suggestions_of_slide
from .result_folder import SlideFacts
from .settings import FindingSettings

logger = logging.getLogger(__name__)

MARKER_NAME = "finding.json"
_TABLE_NAME, _SHEET_NAME = "results.csv", "contact_sheet.png"


@dataclass(frozen=True, eq=False)
class Finding:
    """Patches in the order of their rank.

    Attributes:
        patches: Where they are.
        scores: Float `(n,)`.
        measure: What the scores are, as "Similarity".
        names: What each is suggested as.
        slides: By name, those that have a place.
        class_names: All classes that there are, which decides their colours.
        asked: What was searched for, in the form of JSON.
        remarks: A sentence each.
    """

    patches: Patches
    scores: np.ndarray
    measure: str
    names: list[str]
    slides: Mapping[str, SlideFacts]
    class_names: list[str]
    asked: Mapping[str, Any]
    remarks: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.patches)


def write_finding(finding: Finding, settings: FindingSettings, data: Optional[DataSettings] = None) -> Finding:
    """Write the folder of a finding.

    | file | content |
    |---|---|
    | <slide>.geojson | squares for QuPath, of the class "Suggested: <name>"; check them and take "Suggested: " away |
    | results.csv | a row per patch: rank, slide, place, score, class |
    | contact_sheet.png | the patches with their ranks and scores, as far as their slides can be read |
    | finding.json | what was asked for, remarks, and the digests of the files; written last |

    A finding that is there is replaced, unless a file of it has changed: someone may have checked its annotations.

    Args:
        finding: What to write.
        settings: Output folder, and where the slides are.
        data: Of the patches that are of a data set, to show them.

    Returns:
        The finding with further remarks.

    Raises:
        ValueError: The folder holds something else, or there is no such folder of slides.
        OSError: It cannot be written; what it held before stays.
    """
    folder, earlier = settings.output_dir, check_output(settings)
    pixels, remarks = read_pixels(finding.patches, finding.slides, settings.slides, data)
    finding.remarks.extend(remarks)
    files = _files(finding, pixels)
    writers = {name: bytes_writer(content) for name, content in files.items()}
    with only_run_in(folder):
        write_together(folder, {**writers, MARKER_NAME: text_writer(_marker(finding, files))}, sign=MARKER_NAME)
        for name in earlier - files.keys():
            (folder / name).unlink(missing_ok=True)
    for remark in finding.remarks:
        logger.warning("%s", remark)
    return finding


def _files(finding: Finding, pixels: Pixels) -> dict[str, bytes]:
    """By name, the content of all but the marker."""
    slides = sorted(set(finding.patches.table["slide"].to_pylist()) & set(finding.slides))
    files = {f"{checked_name(slide, 'The index')}.geojson": suggestions_of_slide(finding, slide) for slide in slides}
    files[_TABLE_NAME] = _table(finding)
    captions = [f"{rank}   {score:.3f}" for rank, score in enumerate(finding.scores.tolist(), start=1)]
    sheet = contact_sheet(pixels, captions)
    pictures = {} if sheet is None else {_SHEET_NAME: sheet}
    return {**{name: text.encode("utf-8") for name, text in files.items()}, **pictures}


def check_output(settings: FindingSettings) -> set[str]:
    """Names of the files that an earlier finding left in the output folder; none in a new or empty one.

    Raises:
        ValueError: It holds something else, someone has worked on the annotations there, or there are no slides where
            they are said to be.
        OSError: It cannot be written.
    """
    folder = settings.output_dir
    if settings.slides is not None and not settings.slides.exists():
        raise ValueError(f"--slides {settings.slides}: there is no such file or folder.")
    require_writable(folder, "--output_dir")
    if not folder.is_dir() or not {path.name for path in folder.iterdir()} - {LOCK_NAME}:
        return set()
    if not (folder / MARKER_NAME).is_file():
        raise ValueError(f"--output_dir {folder} holds other files: give a new or an empty folder.")
    listed = read_json_object(folder / MARKER_NAME).get("files")
    if not isinstance(listed, dict) or not all(Path(name).name == name for name in listed):
        raise ValueError(f"{folder / MARKER_NAME} does not list the files of a finding: give a new folder.")
    for path in (folder / name for name in listed):
        if path.is_file() and file_sha256(path) != listed[path.name]:
            raise ValueError(
                f"{path} has changed since it was written: to keep what someone has done there, give another folder."
            )
    return set(listed)


def _marker(finding: Finding, files: Mapping[str, bytes]) -> str:
    content = {
        "spider_tools": __version__,
        "asked": finding.asked,
        "patches": len(finding),
        "remarks": finding.remarks,
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _table(finding: Finding) -> str:
    """One row per patch; names that a spreadsheet would run stand behind an apostrophe."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    places = ["x_level0", "y_level0", "width_level0", "height_level0"]
    writer.writerow(
        ["rank", "slide", *places, finding.measure.lower(), "suggested", "class", "probability", "patch", "source"]
    )
    for rank, (row, score, name) in enumerate(
        zip(finding.patches.table.to_pylist(), finding.scores.tolist(), finding.names), start=1
    ):
        probability = row["probability"]
        writer.writerow(
            [
                rank,
                _cell(row["slide"]),
                *("" if row[place] is None else f"{row[place]:.10g}" for place in places),
                f"{score:.6f}",
                _cell(name),
                _cell(row["class"]),
                "" if probability is None else f"{probability:.6f}",
                _cell(row["patch"]),
                _cell(row["source"]),
            ]
        )
    return text.getvalue()


def _cell(text: Optional[str]) -> str:
    return "" if text is None else spreadsheet_cell(text)
