"""What was done with a slide, and what it is good for, in words for the reader of the report."""

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .. import __version__
from ..plain_text import escaped
from ..tissue.tissue_mask import TissueMask
from .predictions import SlidePredictions
from .preparing import PreparedSlide

MUCH_UNFAMILIAR = 0.2  # of the tissue; on familiar slides it is about one in twenty


def make_facts(prepared: PreparedSlide, mask: TissueMask, predictions: SlidePredictions) -> dict[str, Any]:
    """What was done, by title."""
    lattice, slide, settings, view = prepared.lattice, prepared.slide, prepared.settings, prepared.view
    um = lattice.stride * view.mpp[0]
    tissue, cells = predictions.tissue_mm2.sum(), len(predictions.positions) * predictions.cell_area_mm2
    source = f" ({prepared.mpp_source})" if prepared.mpp_source else ""
    made = datetime.now(timezone.utc)
    return {
        "Made": f"{made:%Y-%m-%d %H:%M} UTC, by spider_tools {__version__}",
        "Slide": escaped(prepared.task.path.name),
        "Size at level 0": f"{slide.size[0]} x {slide.size[1]} px",
        **_origin(prepared),
        "um/px at level 0": f"{slide.mpp[0]:g} x {slide.mpp[1]:g}{source}",
        **({"Doubts": " ".join(slide.warnings)} if slide.warnings else {}),
        "um/px for the model": f"{view.mpp[0]:g} x {view.mpp[1]:g}",
        "Read from": f"level {view.level}" + (", resampled" if view.is_resampled else ", as it is"),
        "Model": model_name(settings.model) + (f" at {settings.revision}" if settings.revision else ""),
        **({} if prepared.imported is None else {"Import": prepared.imported["sentence"]}),
        "Weights": f"backbone sha256 {prepared.request['model']['backbone_sha256']}, head sha256 "
        f"{prepared.request['head_sha256']}",
        "Backbone in": settings.dtype,
        "Tissue": f"{escaped(mask.origin)}; at least {settings.min_tissue:.0%} of a cell",
        "Left out": mask.left_out_in_words,
        **({"Warning": " ".join(mask.warnings)} if mask.warnings else {}),
        "Patch": f"{lattice.patch_size} px, with {lattice.context_size} x {lattice.context_size} patches of context",
        "Distance of predictions": f"{lattice.stride} px, {um:.1f} um",
        "Predictions": len(predictions.positions),
        "Area": f"{tissue:.3f} mm2 of tissue in {cells:.3f} mm2 of cells; {predictions.left_out_share:.1%} of what was "
        "found is in none",
        **_unfamiliar(predictions),
    }


def warnings(prepared: PreparedSlide) -> list[str]:
    """What a reader must know before the map."""
    imported = prepared.imported
    unverified = [] if imported is None or imported["verified"] else [imported["sentence"]]
    return [*unverified, *prepared.slide.warnings]


def unfamiliar_warning(predictions: SlidePredictions) -> list[str]:
    """What a reader must know of a slide much of which the model does not know; nothing of others."""
    share = predictions.unfamiliar_share
    if share is None or share < MUCH_UNFAMILIAR:
        return []
    shown = "grey" if predictions.abstain else "hatched"
    return [
        f"{share:.0%} of the tissue is unlike what the model has learnt from ({shown} in the map): another organ, "
        "stain, scanner or magnification, pen, folds or blur. What it calls that is a guess."
    ]


def _unfamiliar(predictions: SlidePredictions) -> dict[str, str]:
    share = predictions.unfamiliar_share
    if share is None:
        return {"Unfamiliar": "not known: the model was given no notion of what is familiar"}
    said = f"{share:.1%} of the tissue, above {predictions.unfamiliarity_threshold:.3g}"
    return {"Unfamiliar": said + (", mapped as a class of its own" if predictions.abstain else "")}


def model_name(model: str) -> str:
    """A model as readers of the results may know it: its Hub id, or the last part of its folder.

    What is above a folder tells of the author's computer, and nothing of the model; the weights are told by their
    digests in slide.json.
    """
    folder = Path(model).expanduser()
    return escaped(folder.resolve().name or "folder") if folder.exists() or folder.is_absolute() else escaped(model)


def limits(predictions: SlidePredictions) -> list[str]:
    """What the map does not say."""
    lattice = predictions.lattice
    knows = predictions.unfamiliar_share is not None
    return [
        "The model names every patch with one of its classes, also tissue, stains and scanners it has never seen. "
        + ("What it finds unfamiliar is marked; it does not find all of that. " if knows else "")
        + "Look at the probabilities, and validate on slides of your own.",
        f"A prediction is for a patch of {lattice.patch_size} px at the model's um/px; what is smaller is not "
        "resolved. A finer stride moves the patch, it does not make it smaller.",
        "Areas are those of the tissue in the cells of the map, found at 8 um/px; prediction.geojson outlines whole "
        "cells. The edge of a class is exact to one cell.",
        "Pen, bubbles, folds and blur are found by simple measures that rather miss some than take tissue for them: "
        "look at tissue.png.",
        "Less than one patch at the right and lower edge of the slide is left out. Context beyond the slide's edge, "
        "also where a patch lies only partly beyond it, is masked.",
        "Percentages are of the tissue that was classified, not of the slide; what the tissue mask misses is in none.",
    ]


def _origin(prepared: PreparedSlide) -> dict[str, str]:
    """Where QuPath's coordinates begin, if that is not the slide's corner."""
    x, y, width, height = prepared.slide.bounds
    if (x, y) == (0, 0):
        return {}
    return {
        "Scanned": f"{width} x {height} px from x {x}, y {y}",
        "Coordinates": f"from the corner of level 0; in prediction.geojson from x {x}, y {y}, as in QuPath",
    }
