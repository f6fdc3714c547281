"""One small slide: from the uploaded file to its map and report, in a folder that is removed afterwards."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from ..slide_files.file_check import check_is_file
from ..slide_files.lattice import Lattice
from ..slide_files.probe import check_survives
from ..slide_files.reader import open_slide
from ..slide_files.view import SlideView, model_scale
from ..slide_sources.manifests import MANIFEST_SUFFIXES
from ..slide_sources.task import SlideTask, checked_name
from ..slides.one import map_slide
from ..slides.settings import SlideSettings
from ..tissue.tissue_mask import find_tissue
from .model import AppModel
from .settings import AppSettings

SLIDE = "a slide in one file (SVS, TIFF, NDPI, SCN, BIF ...) or an image of one"
COLUMNS = ("Class", "Patches", "Area (mm²)", "Of the tissue", "Unfamiliar", "Mean probability")
_IN_MANY_FILES = (".mrxs", ".vms", ".vmu", ".dcm")
_GLASS = 20  # times as many places on glass as patches are allowed: what lies there costs little


@dataclass(frozen=True)
class SlideMapAnswer:
    """What the model says of a slide.

    Attributes:
        overview: The slide beside its map, PNG.
        report: One HTML file with everything.
        rows: Of `COLUMNS`, a class each, from the largest area on.
        composition: Content of composition.json.
        warnings: What a reader must know first, a sentence each.
    """

    overview: Path
    report: Path
    rows: list[list[str]]
    composition: dict[str, Any]
    warnings: list[str]


def map_upload(path: Path, mpp: Optional[float], work: Path, model: AppModel, settings: AppSettings) -> SlideMapAnswer:
    """Map the tissue of an uploaded slide.

    Args:
        path: The file.
        mpp: um per px at full resolution, instead of what the file says.
        work: Folder for the results.
        model: Classifies it.
        settings: Say how much of a slide is too much.

    Raises:
        ValueError: The slide cannot be used or is too large; of slides, a SlideError.
        OSError: The results cannot be written.
    """
    name = checked_name(path.stem, path.name)
    _refuse_parts(path)
    check_is_file(path)
    check_survives(path)
    how = SlideSettings(
        model=settings.model,
        revision=settings.revision,
        output_dir=work,
        mpp=mpp,
        outputs=("parquet",),
        num_workers=0,  # a process with threads, as a server is, should not fork
    )
    _check_size(path, mpp, how, model, settings)
    result = map_slide(SlideTask(path, name, mpp), model.for_slides, how)
    folder = work / name
    composition = json.loads((folder / "composition.json").read_text(encoding="utf-8"))
    told = json.loads((folder / "slide.json").read_text(encoding="utf-8"))["warnings"]
    return SlideMapAnswer(
        folder / "overview.png",
        _renamed(folder / "report.html", f"{name}.report.html"),
        _rows(composition),
        composition,
        [*told, *([result.message] if result.message and result.message not in told else [])],
    )


def _refuse_parts(path: Path) -> None:
    suffix = path.suffix.lower()
    if suffix in _IN_MANY_FILES:
        raise ValueError(
            f"{path.name} is one of the many files of a slide ({suffix[1:].upper()}), and without the others nothing "
            f"can be read. Expected {SLIDE}: export it as a pyramidal TIFF, or map it with segment_slide.py."
        )
    if suffix in MANIFEST_SUFFIXES:
        raise ValueError(f"{path.name} is a list, not a slide. Expected {SLIDE}; segment_slide.py takes lists.")


def _check_size(path: Path, mpp: Optional[float], how: SlideSettings, model: AppModel, settings: AppSettings) -> None:
    """Refuse a slide of which more would be embedded than this page offers."""
    slide = open_slide(path, mpp)
    config, most = model.model.config, settings.max_patches
    view = SlideView(slide, model_scale(slide, config.mpp, how.mpp_tolerance))
    lattice = Lattice.on(view, config, config.patch_size)
    places = math.prod(lattice.shape)
    if places <= most * _GLASS:
        cells = find_tissue(slide, lattice, None, how.tissue_search).cells(lattice, how.min_tissue)
        count = int(lattice.with_context(cells).sum())
        if count <= most:
            return
        came = f"{count:,} patches with tissue and their context"
    else:
        came = f"{places:,} patches, glass included"
    width, height = slide.size
    raise ValueError(
        f"{path.name} has {came} ({width:,} x {height:,} px at {slide.mpp[0]:g} um/px), expected {most:,} at most. Cut "
        "a part of it out, or map it with segment_slide.py, which has no such limit."
    )


def _renamed(path: Path, name: str) -> Path:
    """The file under a name that still says what it is where it was downloaded to."""
    return path.rename(path.with_name(name))


def _rows(composition: dict[str, Any]) -> list[list[str]]:
    return [
        [
            name,
            f"{row['patches']:,}",
            f"{row['area_mm2']:,.3f}",
            f"{row['percent_of_tissue']:.1f}%",
            "" if row["percent_unfamiliar"] is None else f"{row['percent_unfamiliar']:.1f}%",
            "" if row["mean_probability"] is None else f"{row['mean_probability']:.2f}",
        ]
        for name, row in composition["classes"].items()
        if row["patches"]
    ]
