"""An export from a model to a folder of graphs that were held against it."""

import json
import logging
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..files import readable_as_umask_says, require_writable, sync, write_text
from ..hugging_face_home import require_hugging_face_home
from ..model_folder import weight_files
from ..output_folder import LOCK_NAME, only_run_in
from ..weights.loading import load_image_processor, load_spider
from ..weights.reading import locate
from . import onnx_files, torch_files
from .about import Exported, about
from .drift import LEAST_SAME, check, largest_allowed, measure, table
from .graphs import Half, Runner, halves
from .quiet import quiet
from .readme import readme
from .settings import ExportSettings

logger = logging.getLogger(__name__)

SIGN = "export.json"  # takes its place last


def export_model(settings: ExportSettings) -> dict[str, Any]:
    """Write a model as two graphs, patch encoder and head, for onnxruntime or for PyTorch alone.

    The graphs take any number of patches and regions. They are held against the model on drawn tissue, see
    `drift.measure`, and kept only if they agree: to 0.001 of the spread of the logits over regions in float32, to 0.25
    in lower precisions, with 95% of equal classes.

    Args:
        settings: See there.

    Returns:
        The content of export.json; `drift` has a row for each batch. In addition `table`, the drift as text.

    Raises:
        ValueError: The model has no weights or is none of this project, packages are missing, no graph can be made of
            it, or they drift too far: then a `drift.DriftError`, whose `table` tells the drift.
        FileExistsError: The output folder is not empty.
        OSError: There is no such model, or a folder cannot be written.
    """
    _require_empty(settings.out)
    require_writable(settings.out, "OUT")
    require_hugging_face_home()
    if settings.format == "onnx":
        onnx_files.check_packages()
    exported = _load(settings)
    facts = about(exported, settings)
    if facts["import"] is not None and not facts["import"]["verified"]:
        logger.warning("%s is exported all the same, and marked. %s", facts["model"], facts["import"]["sentence"])
    place = settings.out.resolve()
    is_new = not place.exists()
    try:
        with only_run_in(place):
            try:
                _require_empty(place)
                with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=place) as unfinished:
                    made = _fill(Path(unfinished), exported, facts, settings)
                    _move_in(Path(unfinished), place)
            finally:
                (place / LOCK_NAME).unlink(missing_ok=True)
    finally:
        if is_new:
            with suppress(OSError):
                place.rmdir()  # of an export that failed nothing is left
    return made


def _load(settings: ExportSettings) -> Exported:
    if settings.revision is not None and Path(settings.model).exists():
        raise ValueError(f"{settings.model} lies on this machine, where there are no revisions: leave --revision out.")
    folder = locate(settings.model, settings.revision)
    if folder.is_dir():
        absent = [name for name in weight_files(folder) if not (folder / name).is_file()]
        if absent and (folder / "config.json").is_file():
            raise ValueError(f"{settings.model} has no weights to export: it lacks {', '.join(absent)}.")
    model = load_spider(settings.model, settings.revision)
    image_processor = load_image_processor(settings.model, settings.revision)
    ours, theirs = ((x.context_size, x.patch_size) for x in (model.config, image_processor))
    if ours != theirs:
        raise ValueError(
            f"Model and image processor of {settings.model} do not fit each other: context and patch size are "
            f"{ours} in config.json, {theirs} in preprocessor_config.json."
        )
    return Exported(model, image_processor, folder)


def _fill(folder: Path, exported: Exported, facts: Mapping[str, Any], settings: ExportSettings) -> dict[str, Any]:
    """Write all files of an export, and return what export.json says."""
    files: Any = onnx_files if settings.format == "onnx" else torch_files
    dtype = torch.float32 if settings.dtype == "int8" else getattr(torch, settings.dtype)
    runners: dict[str, Runner] = {}
    for half in halves(exported.model, exported.image_processor, dtype):
        path = folder / f"{half.name}{files.SUFFIX}"
        logger.info("making a graph of the %s", half.name.replace("_", " "))
        _write(files, half, path, facts)
        if settings.dtype == "int8" and half.name == "patch_encoder":
            with quiet():
                onnx_files.quantize(path)
        runners[half.name] = files.open_graph(path)
    logger.info("holding the graphs against the model")
    rows = measure(runners["patch_encoder"], runners["head"], exported.model, exported.image_processor)
    shown = table(rows, settings.dtype)
    check(rows, settings.dtype)
    bound = {"logits": largest_allowed(settings.dtype), "same_class": LEAST_SAME}
    made = {**facts, "drift_allowed": bound, "drift": [asdict(row) for row in rows]}
    weights = sorted(path.name for path in folder.iterdir() if path.suffix == ".data")
    write_text(folder / "README.md", readme(made, files.SUFFIX, weights))
    write_text(folder / SIGN, json.dumps(made, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return {**made, "table": shown}


def _write(files: Any, half: Half, path: Path, facts: Mapping[str, Any]) -> None:
    try:
        with quiet():
            files.write_graph(half, path, facts)
    except Exception as error:  # exporters fail in many ways and with errors of many classes
        reason = next(iter(str(error).strip().splitlines()), "")
        raise ValueError(
            f"No {facts['format']} graph can be made of the {half.name.replace('_', ' ')}. "
            f"{type(error).__name__}: {reason}"
        ) from error


def _move_in(unfinished: Path, place: Path) -> None:
    readable_as_umask_says(unfinished)
    sync(unfinished)
    for path in sorted(unfinished.iterdir(), key=lambda path: path.name == SIGN):
        path.replace(place / path.name)


def _require_empty(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and all(path.name == LOCK_NAME for path in folder.iterdir())):
        raise FileExistsError(f"{folder} must be a new or empty folder.")
