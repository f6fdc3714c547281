"""One slide from the file to the map."""

import logging
import time

import numpy as np
import torch

from ..output_folder import only_run_in
from ..slide_files.slide_error import SlideError
from ..slide_sources.task import SlideTask
from ..tissue.tissue_mask import find_tissue
from . import outputs, pictures
from .classification import classify_positions, unfamiliarity_of_positions
from .embedding import Embedded, embed_slide, table_rows
from .facts import unfamiliar_warning
from .mapped_slide import MappedSlide, save_preview
from .model import SlideModel
from .output_files import check_shared_folders
from .patch_features import PatchFeatures
from .predictions import SlidePredictions
from .preparing import PreparedSlide, embedding_content, prepare
from .results import BACKBONE, SlideResult
from .saved_embeddings import EMBEDDINGS_NAME, EmbeddingTable, SavedEmbeddings
from .settings import SlideSettings
from .tool_outputs import bytes_for, check_writable, writers_for

logger = logging.getLogger(__name__)


def map_slide(task: SlideTask, model: SlideModel, settings: SlideSettings) -> SlideResult:
    """Classify the tissue of one slide and write its folder.

    | file | content |
    |---|---|
    | embeddings.safetensors | one row per embedded patch, with its place |
    | overview.png, heatmaps.png, tissue.png | class map, probabilities, tissue that was found |
    | composition.csv, composition.json | area and share of every class, its most certain places |
    | report.html | all of this to read, in one file |
    | slide.json | settings and counts; written last, as the sign that the folder is whole |

    And of `settings.outputs`:

    | output | file | content |
    |---|---|---|
    | geojson | prediction.geojson | areas of the classes for QuPath, level-0 px from where QuPath begins to count |
    | parquet | predictions.parquet | one row per prediction, with all probabilities |
    | h5 | ../h5_files/<slide>.h5, ../patches/<slide>.h5 | see `feature_files` |
    | h5ad, zarr | predictions.h5ad, predictions.zarr | see `anndata_files` |

    A slide that is done with the same model and settings is skipped. What an earlier run with them left of other
    outputs stays; what one with others left is removed. A run that was killed goes on where it was. Patches that cannot
    be read are left out and counted, and tried again by the next run.

    Raises:
        SlideError: The slide, or its name, cannot be used.
        ValueError: A package is missing, or a class has a name that cannot be written.
        OSError: The results cannot be written.
        FloatingPointError: The backbone or the head makes NaN.
    """
    started = time.monotonic()
    prepared = prepare(task, model, settings)
    if "h5" in prepared.outputs:
        check_shared_folders(settings.output_dir, task.name, outputs.MARKER_NAME)
    with only_run_in(prepared.folder):
        left = outputs.outputs_left(prepared.folder, prepared.request, prepared.older_request)
        prepared = prepared.also_writing(left)
        if outputs.is_done(prepared.folder, prepared.request, prepared.older_request):
            return SlideResult(task.name, "skipped")
        check_writable(prepared)
        return _segment(prepared, model, started)


def _segment(prepared: PreparedSlide, model: SlideModel, started: float) -> SlideResult:
    lattice = prepared.lattice
    clock = _Clock(started)
    thumbnail = pictures.make_thumbnail(prepared.slide)
    search = prepared.settings.tissue_search
    mask = find_tissue(prepared.slide, lattice, prepared.drawing, search, prepared.learned)
    preview = save_preview(prepared, thumbnail, mask)
    cells = mask.cells(lattice, prepared.settings.min_tissue)
    clock.stop("tissue")

    needed = lattice.with_context(cells)
    embedded, table = _embed(prepared, model, cells, needed)
    for positions in (needed, cells):
        positions[tuple(lattice.positions(embedded.unreadable).T)] = False
    if not cells.any():
        raise SlideError(f"{prepared.slide.path}: no patch with tissue can be read.")
    clock.stop("embedding")

    rows = table_rows(lattice, needed, table)
    logits = classify_positions(model, lattice, cells, rows, table.embeddings)
    predictions = SlidePredictions(
        lattice=lattice,
        mpp=prepared.slide.mpp,
        positions=np.argwhere(cells),
        probabilities=torch.from_numpy(logits).softmax(dim=-1).numpy(),
        class_names=tuple(model.config.class_names),
        unfamiliarity=unfamiliarity_of_positions(model, lattice, cells, rows, table.embeddings),
        unfamiliarity_threshold=model.config.unfamiliarity_threshold,
        tissue_share=mask.share(lattice)[cells],
        found_mm2=mask.area_mm2(prepared.slide.mpp),
        abstain=prepared.settings.abstain,
    )
    clock.stop("classification")

    mapped = MappedSlide(prepared, thumbnail, mask, preview, predictions, int(needed.sum()), _left_out(embedded))
    for warning in unfamiliar_warning(predictions):
        logger.warning("%s: %s", prepared.task.name, warning)
    features = PatchFeatures.of(prepared, predictions, table.embeddings, rows[cells])
    writers = {**mapped.writers(), **writers_for(prepared.outputs, features)}
    clock.stop("pictures and tables")
    clock.seconds[BACKBONE] = embedded.backbone_seconds  # a part of the embedding
    done = {"seconds": clock.seconds, "embedded_now": embedded.patches, "unreadable_patches": len(embedded.unreadable)}
    outputs.write_outputs(prepared.folder, writers, {**mapped.marker(), **done}, others=(EMBEDDINGS_NAME,))
    return SlideResult(
        prepared.task.name,
        "done",
        len(predictions.positions),
        embedded.patches,
        time.monotonic() - started,
        mapped.damage,
        clock.seconds["embedding"],
        embedded.backbone_seconds,
    )


def _embed(
    prepared: PreparedSlide, model: SlideModel, cells: np.ndarray, needed: np.ndarray
) -> tuple[Embedded, EmbeddingTable]:
    """Embed the patches that are needed and can be read."""
    folder, name = prepared.folder, prepared.task.name
    older = prepared.older_request
    saved = SavedEmbeddings(
        folder,
        embedding_content(prepared.request, prepared, model),
        older and embedding_content(older, prepared, model),
    )
    corners = prepared.lattice.corners(np.argwhere(needed))
    missing = len(saved.missing(corners))
    more = bytes_for(prepared.outputs, int(cells.sum()), model.config.backbone_config.hidden_size)
    outputs.check_space(folder, len(corners) + missing, model.bytes_per_patch, more)
    logger.info("%s: %d patches to classify, %d to embed", name, cells.sum(), missing)
    embedded = embed_slide(prepared.view, corners, model, saved, prepared.settings)
    if len(embedded.unreadable):
        logger.warning("%s: %s", name, _left_out(embedded))
    return embedded, saved.finish(prepared.view.scale)


def _left_out(embedded: Embedded) -> str:
    count = len(embedded.unreadable)
    what = "1 patch cannot be read and is" if count == 1 else f"{count:,} patches cannot be read and are"
    return f"The file is damaged: {what} left out, also of the context of others." if count else ""


class _Clock:
    """Seconds of every part of the work."""

    def __init__(self, started: float) -> None:
        self.seconds: dict[str, float] = {}
        self._last = started

    def stop(self, part: str) -> None:
        now = time.monotonic()
        self.seconds[part] = now - self._last
        self._last = now
