"""A slide that is opened and can be classified, and all that decides its result."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional

from ..flags import as_json
from ..slide_files.content import older_identity
from ..slide_files.file_check import check_is_file
from ..slide_files.lattice import Lattice
from ..slide_files.probe import check_survives
from ..slide_files.reader import open_slide
from ..slide_files.slide import Slide
from ..slide_files.view import RESAMPLING, SlideView, model_scale
from ..slide_sources.task import SlideTask
from ..tissue.drawings import drawing_for
from ..tissue.learned_masks import learned_mask_for
from .model import SlideModel
from .settings import OUTPUTS, USUAL_OUTPUTS, SlideSettings

_RESULT_VERSION = 3  # of what is written; another one makes slides be written again
_DRAWING_VERSION = 2  # of how drawings are read; another one makes slides with a drawing be written again


@dataclass(frozen=True, eq=False)
class PreparedSlide:
    """A slide that can be classified, and how.

    Attributes:
        task: Which slide it is.
        settings: Of the run.
        slide: The opened file.
        view: It at the model's um/px.
        lattice: Where its patches lie.
        request: What decides the result, in the form of JSON.
        drawing: Of its tissue, if there is one.
        learned: Mask of its tissue that a segmenter wrote, if there is one.
        imported: What is known of the model's import, see `import_record.import_facts`; None if it was not imported.
        outputs: What is to be written, see `SlideSettings.outputs`.
    """

    task: SlideTask
    settings: SlideSettings
    slide: Slide
    view: SlideView
    lattice: Lattice
    request: dict[str, Any]
    drawing: Optional[Path]
    learned: Optional[Path] = None
    imported: Optional[Mapping[str, Any]] = None
    outputs: tuple[str, ...] = USUAL_OUTPUTS

    def also_writing(self, outputs: Sequence[str]) -> "PreparedSlide":
        """The same with more outputs."""
        wanted = tuple(output for output in OUTPUTS if output in (*self.outputs, *outputs))
        request = {key: value for key, value in self.request.items() if key != "outputs"}
        # Only where they matter, so that what earlier versions wrote stays.
        named = {} if wanted == USUAL_OUTPUTS else {"outputs": list(wanted)}
        return replace(self, outputs=wanted, request={**request, **named})

    @property
    def older_request(self) -> Optional[dict[str, Any]]:
        """What a version without the content of slides would have written as the request; None if it was not enough."""
        identity = older_identity(self.request["slide"])
        return None if identity is None else {**self.request, "slide": identity}

    @property
    def folder(self) -> Path:
        """Of the slide's results."""
        return self.settings.output_dir / self.task.name

    @property
    def mpp_source(self) -> str:
        """Where the um/px come from, if not from OpenSlide: in words, or ""."""
        if self.settings.mpp is not None or self.task.mpp is not None:
            return "given, not read from the file"
        return f"a guess, from {self.slide.mpp_source}" if self.slide.mpp_is_guess else ""


def prepare(task: SlideTask, model: SlideModel, settings: SlideSettings) -> PreparedSlide:
    """Open a slide, after another process has survived that.

    Raises:
        SlideError: The slide, or the drawing of its tissue, cannot be used.
        ValueError: The stride does not fit the model.
    """
    config = model.config
    check_is_file(task.path)
    check_survives(task.path)
    slide = open_slide(task.path, task.mpp if task.mpp is not None else settings.mpp, settings.mpp_from_objective)
    view = SlideView(slide, model_scale(slide, config.mpp, settings.mpp_tolerance))
    lattice = Lattice.on(view, config, settings.checked_stride(config.patch_size))
    drawing = task.mask or drawing_for(settings.mask, task.name)
    if drawing is not None:
        check_is_file(drawing, "mask")
    learned = None if settings.tissue_model is None else learned_mask_for(settings.tissue_model, task)
    if learned is not None:
        check_is_file(learned, "mask")
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
        **({"abstain": True} if settings.abstain else {}),
        **({} if drawing is not None else as_json(settings.tissue_search)),
        # Only where they matter, so that what earlier versions wrote of other slides stays.
        **({} if drawing is None else {"drawing_version": _DRAWING_VERSION}),
        **({} if learned is None else {"tissue_model_sha256": hashlib.sha256(learned.read_bytes()).hexdigest()}),
        **({} if slide.bounds[:2] == (0, 0) else {"geojson_origin_level0": slide.bounds[:2]}),
        **({"mpp_guessed_from": slide.mpp_source} if slide.mpp_is_guess else {}),
        **({"read_by": slide.read_by} if slide.read_by else {}),
        **({} if model.imported is None else {"import_is_verified": model.imported["verified"]}),
    }
    request = json.loads(json.dumps(request))
    prepared = PreparedSlide(task, settings, slide, view, lattice, request, drawing, learned, model.imported, ())
    return prepared.also_writing(settings.outputs)


def embedding_content(request: dict[str, Any], prepared: PreparedSlide, model: SlideModel) -> dict[str, Any]:
    """What decides the embeddings of a slide.

    Stride and tissue are no part of it: another map of the same slide shares the embeddings.

    Args:
        request: Of the slide, or its older one.
        prepared: The slide.
        model: Embeds it.
    """
    source = {key: request[key] for key in ("slide", "scale")}
    if "read_by" in request:
        source["read_by"] = request["read_by"]
    if prepared.view.is_resampled:
        source["resampling"] = RESAMPLING
    return {**model.content, "source": source}
