"""Many slides: found, shared between processes, and done one after the other whatever becomes of each."""

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Optional, Union

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from ..files import require_writable
from ..launching import make_accelerator
from ..plain_text import escaped
from .finding import find_slides
from .model import SlideModel
from .one import map_slide
from .results import SlideResult
from .settings import SlideSettings
from .shared_run import SharedRun, new_run_folder, remove_dead_runs
from .slide_error import SlideError
from .task import SlideTask

logger = logging.getLogger(__name__)


def segment_slide(slide: Union[str, Path], settings: SlideSettings) -> SlideResult:
    """Classify the tissue of one slide, in this process, and write its folder.

    Args:
        slide: A file, or a folder or manifest that names one slide.
        settings: Model, output folder and the rest.

    Returns:
        What became of it; `output_dir / result.name` holds what `map_slide` lists.

    Raises:
        ValueError: The slide or the model cannot be used, or there is not exactly one slide.
        OSError: The model cannot be loaded, or the output folder cannot be written.
        FloatingPointError: The backbone or the head makes NaN.
    """
    tasks = find_slides([str(slide)])
    if len(tasks) != 1:
        raise ValueError(f"{slide} names {len(tasks)} slides: expected one; `segment_slides` takes many.")
    require_writable(settings.output_dir, "--output_dir")
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    if tasks[0].problem:
        raise SlideError(tasks[0].problem)
    model = SlideModel.load(settings, make_accelerator().device)
    return map_slide(tasks[0], model, settings)


def segment_slides(slides: Sequence[Union[str, Path]], settings: SlideSettings) -> list[SlideResult]:
    """Classify slides; the processes of `accelerate launch` take one after the other.

    A slide that fails is reported and the others go on. Slides that are done are skipped.

    Args:
        slides: Files, folders of slides, and manifests (see `find_slides`).
        settings: For all of them.

    Returns:
        What became of every slide, in their order, in the main process; an empty list in the others.

    Raises:
        ValueError: There are no slides, a manifest or a setting is wrong, two slides have one name, or several one
            drawing.
        OSError: The model cannot be loaded, or the output folder cannot be written.
    """
    tasks = find_slides([str(slide) for slide in slides])
    _check_drawings(tasks, settings.mask)
    require_writable(settings.output_dir, "--output_dir")
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    accelerator = make_accelerator()
    if accelerator.is_main_process:
        remove_dead_runs(settings.output_dir)
    model = SlideModel.load(settings, accelerator.device)
    settings.checked_stride(model.config.patch_size)
    if accelerator.num_processes == 1:
        return [_attempt(task, model, settings) for task in tasks]
    run = _join_run(settings.output_dir, tasks, accelerator)
    while (number := run.take()) is not None:
        run.report(number, _attempt(tasks[number], model, settings))
    results = run.wait_for_all() if accelerator.is_main_process else []
    run.leave()
    accelerator.end_training()
    return results


def _check_drawings(tasks: Sequence[SlideTask], mask: Optional[Path]) -> None:
    """Refuse one drawing for several slides: what is tissue on one of them is anything on the others."""
    without = [task.name for task in tasks if task.mask is None and not task.problem]
    if mask is not None and mask.is_file() and len(without) > 1:
        raise ValueError(
            f"--mask {mask} is one drawing, for {len(without)} slides: {', '.join(without[:5])} ... Give a folder with "
            "a drawing named like each slide, or the column `mask` of a manifest."
        )
    of_slides: dict[str, set[str]] = {}
    for task in tasks:
        if task.mask is not None:
            # A Path that leads in a circle cannot be resolved.
            of_slides.setdefault(os.path.realpath(task.mask), set()).add(os.path.realpath(task.path))
    shared = [drawing for drawing, paths in of_slides.items() if len(paths) > 1]
    if shared:
        logger.warning("The manifest gives one drawing to several slides: %s.", ", ".join(shared))


def _join_run(output_dir: Path, tasks: Sequence[SlideTask], accelerator: Accelerator) -> SharedRun:
    run = SharedRun(broadcast_object_list([new_run_folder(output_dir)])[0], tasks)
    # Whoever came late would find the folder of a short run removed, and make it anew.
    accelerator.wait_for_everyone()
    return run


def _attempt(task: SlideTask, model: SlideModel, settings: SlideSettings) -> SlideResult:
    started = time.monotonic()
    name, message = escaped(task.name), task.problem
    try:
        if not task.problem:
            return map_slide(task, model, settings)
        logger.error("%s failed: %s", name, escaped(task.problem))
    except (ValueError, OSError, FloatingPointError) as error:  # foreseen: the message says it all
        message = str(error)
        logger.error("%s failed: %s", name, escaped(message))
    except Exception as error:  # the other slides must not suffer from it; the trace is for whoever mends it
        logger.exception("%s failed", name)
        message = f"{type(error).__name__}: {error}"
    return SlideResult(task.name, "failed", seconds=time.monotonic() - started, message=message)
