"""One slide from the file to the map."""

import hashlib
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from filelock import FileLock, Timeout

from .. import __version__
from ..files import Writer, bytes_writer, replacing, text_writer
from . import outputs, pictures
from .classification import SlidePredictions, classify_positions
from .composition import composition_csv, make_composition
from .embedding import embed_slide, table_rows
from .finding import SlideTask
from .html_report import make_report
from .lattice import Lattice
from .model import SlideModel
from .polygons import write_geojson
from .reader import Slide, SlideError, open_slide
from .results import SlideResult
from .saved_embeddings import EMBEDDINGS_NAME, SavedEmbeddings
from .settings import SlideSettings
from .tissue import TissueMask, drawing_for, find_tissue
from .view import RESAMPLING, SlideView, model_scale

logger = logging.getLogger(__name__)

_RESULT_VERSION = 2  # of what is written; another one makes slides be written again


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A slide that can be classified, and how."""

    task: SlideTask
    settings: SlideSettings
    slide: Slide
    view: SlideView
    lattice: Lattice
    request: dict[str, Any]
    drawing: Optional[Path]


def map_slide(task: SlideTask, model: SlideModel, settings: SlideSettings) -> SlideResult:
    """Classify the tissue of one slide and write its folder.

    | file | content |
    |---|---|
    | prediction.geojson | areas of the classes for QuPath, level-0 px |
    | predictions.parquet | one row per prediction, with all probabilities |
    | embeddings.safetensors | one row per embedded patch, with its place |
    | overview.png, heatmaps.png, tissue.png | class map, probabilities, tissue that was found |
    | composition.csv, composition.json | area and share of every class, its most certain places |
    | report.html | all of this to read, in one file |
    | slide.json | settings and counts; written last, as the sign that the folder is whole |

    A slide that is done with the same model and settings is skipped. One that was killed goes on where it was.

    Raises:
        SlideError: The slide cannot be used.
        OSError: The results cannot be written.
        FloatingPointError: The backbone makes NaN.
    """
    started = time.monotonic()
    prepared = _prepare(task, model, settings)
    folder = settings.output_dir / task.name
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            if outputs.is_done(folder, prepared.request):
                return SlideResult(task.name, "skipped")
            return _segment(prepared, model, started)
    except Timeout as error:
        raise OSError(f"{folder} is being written by another run.") from error


def _prepare(task: SlideTask, model: SlideModel, settings: SlideSettings) -> _Prepared:
    config = model.config
    slide = open_slide(task.path, task.mpp if task.mpp is not None else settings.mpp)
    view = SlideView(slide, model_scale(slide, config.mpp, settings.mpp_tolerance))
    lattice = Lattice.on(view, config, settings.checked_stride(config.patch_size))
    drawing = task.mask or drawing_for(settings.mask, task.name)
    if drawing is not None and not drawing.is_file():
        raise SlideError(f"There is no mask {drawing}.")
    request = {
        "version": _RESULT_VERSION,
        "slide": slide.identity,
        "mpp": slide.mpp,
        "scale": view.scale,
        "model": model.content,
        "head_sha256": model.head_sha256,
        "class_names": config.class_names,
        "context_size": config.context_size,
        "stride": lattice.stride,
        "min_tissue": settings.min_tissue,
        "mask_sha256": None if drawing is None else hashlib.sha256(drawing.read_bytes()).hexdigest(),
        "tiles": settings.tiles,
    }
    return _Prepared(task, settings, slide, view, lattice, json.loads(json.dumps(request)), drawing)


def _segment(prepared: _Prepared, model: SlideModel, started: float) -> SlideResult:
    task, settings, lattice = prepared.task, prepared.settings, prepared.lattice
    folder = settings.output_dir / task.name
    clock = _Clock(started)
    thumbnail = pictures.make_thumbnail(prepared.slide)
    mask = find_tissue(prepared.slide, lattice, prepared.drawing)
    preview = _save_preview(prepared, thumbnail, mask)
    cells = mask.cells(lattice, settings.min_tissue)
    clock.stop("tissue")

    needed = lattice.with_context(cells)
    corners = lattice.corners(np.argwhere(needed))
    saved = SavedEmbeddings(folder, _embedding_content(prepared, model))
    missing = len(saved.missing(corners))
    outputs.check_space(folder, len(corners) + missing, model.bytes_per_patch)
    logger.info("%s: %d patches to classify, %d to embed", task.name, cells.sum(), missing)
    embedded = embed_slide(prepared.view, corners, model, saved, settings)
    table = saved.finish(prepared.view.scale)
    clock.stop("embedding")

    logits = classify_positions(model, lattice, cells, table_rows(lattice, needed, table), table.embeddings)
    predictions = SlidePredictions(
        lattice=lattice,
        mpp=prepared.slide.mpp,
        positions=np.argwhere(cells),
        probabilities=torch.from_numpy(logits).softmax(dim=-1).numpy(),
        class_names=tuple(model.config.class_names),
    )
    clock.stop("classification")

    facts = {**_facts(prepared, mask, predictions), "Patches embedded, context included": len(corners)}
    writers = _writers(prepared, thumbnail, predictions, facts, preview)
    clock.stop("pictures and tables")
    marker = {
        "spider_tools": __version__,
        "request": prepared.request,
        "facts": facts,
        "seconds": clock.seconds,
        "embedded_now": embedded,
    }
    outputs.write_outputs(folder, writers, marker, others=(EMBEDDINGS_NAME,))
    return SlideResult(task.name, "done", len(predictions.positions), embedded, time.monotonic() - started)


def _save_preview(prepared: _Prepared, thumbnail: pictures.Thumbnail, mask: TissueMask) -> bytes:
    """The picture of the tissue, which is there to look at before the long work, unless an earlier result is."""
    settings = prepared.settings
    cells = mask.share(prepared.lattice) >= settings.min_tissue
    preview = outputs.as_png(pictures.draw_tissue(thumbnail, mask, cells, prepared.lattice, prepared.slide.mpp))
    folder = settings.output_dir / prepared.task.name
    if not (folder / outputs.MARKER_NAME).exists():
        with replacing(folder / outputs.TISSUE_NAME) as unfinished:
            unfinished.write_bytes(preview)
    return preview


class _Clock:
    """Seconds of every part of the work."""

    def __init__(self, started: float) -> None:
        self.seconds: dict[str, float] = {}
        self._last = started

    def stop(self, part: str) -> None:
        now = time.monotonic()
        self.seconds[part] = now - self._last
        self._last = now


def _embedding_content(prepared: _Prepared, model: SlideModel) -> dict[str, Any]:
    """Stride and tissue are no part of it: another map of the same slide shares the embeddings."""
    source = {key: prepared.request[key] for key in ("slide", "scale")}
    if prepared.view.is_resampled:
        source["resampling"] = RESAMPLING
    return {**model.content, "source": source}


def _facts(prepared: _Prepared, mask: TissueMask, predictions: SlidePredictions) -> dict[str, Any]:
    """What was done, for the reader of the report."""
    lattice, slide, task, settings = prepared.lattice, prepared.slide, prepared.task, prepared.settings
    um = lattice.stride * prepared.view.mpp[0]
    return {
        "Slide": task.path.name,
        "Size at level 0": f"{slide.size[0]} x {slide.size[1]} px",
        "um/px at level 0": f"{slide.mpp[0]:g} x {slide.mpp[1]:g}"
        + (" (given, not read from the file)" if settings.mpp is not None or task.mpp is not None else ""),
        "um/px for the model": f"{prepared.view.mpp[0]:g} x {prepared.view.mpp[1]:g}",
        "Read from": f"level {prepared.view.level}" + (", resampled" if prepared.view.is_resampled else ", as it is"),
        "Model": settings.model + (f" at {settings.revision}" if settings.revision else ""),
        "Backbone in": settings.dtype,
        "Tissue": f"{mask.origin}; at least {settings.min_tissue:.0%} of a cell",
        "Patch": f"{lattice.patch_size} px, with {lattice.context_size} x {lattice.context_size} patches of context",
        "Distance of predictions": f"{lattice.stride} px, {um:.1f} um",
        "Predictions": len(predictions.positions),
    }


def _limits(predictions: SlidePredictions) -> list[str]:
    lattice = predictions.lattice
    return [
        "The model names every patch with one of its classes, also tissue, stains and scanners it has never seen. "
        "Look at the probabilities, and validate on slides of your own.",
        f"A prediction is for a patch of {lattice.patch_size} px at the model's um/px; what is smaller is not "
        "resolved. A finer stride moves the patch, it does not make it smaller.",
        "Areas are counted in cells of the map. The edge of the tissue and of a class is exact to one cell.",
        "Less than one patch at the right and lower edge of the slide is left out. Context beyond the slide's edge, "
        "also where a patch lies only partly beyond it, is masked.",
        "Percentages are of the tissue that was classified, not of the slide; what the tissue mask misses is in none.",
    ]


def _writers(
    prepared: _Prepared,
    thumbnail: pictures.Thumbnail,
    predictions: SlidePredictions,
    facts: dict[str, Any],
    preview: bytes,
) -> dict[str, Writer]:
    name, tiles = prepared.task.name, prepared.settings.tiles
    composition = make_composition(predictions)
    images = {
        "overview.png": outputs.as_png(pictures.draw_overview(thumbnail, predictions, name)),
        "heatmaps.png": outputs.as_png(pictures.draw_heatmaps(thumbnail, predictions, name)),
        outputs.TISSUE_NAME: preview,
    }
    report = make_report(name, composition, facts, _limits(predictions), images)
    return {
        "prediction.geojson": lambda path: write_geojson(path, predictions, name, tiles),
        "predictions.parquet": outputs.table_writer(predictions),
        "composition.csv": text_writer(composition_csv(composition)),
        "composition.json": text_writer(json.dumps(composition, indent=1, ensure_ascii=False) + "\n"),
        "report.html": text_writer(report),
        **{file: bytes_writer(content) for file, content in images.items()},
    }
