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
from ..slide_files.slide_error import SlideError
from ..slide_sources.finding import find_slides
from ..slide_sources.task import COHORT_PAGE, COHORT_TABLE, SlideTask
from ..slides.model import SlideModel
from ..slides.one import map_slide
from ..slides.results import SlideResult
from ..slides.settings import SlideSettings
from .cohort import Cohort, require_own_table
from .history import History
from .records import Records
from .shared_run import SharedRun, new_run_folder, remove_dead_runs
from .working import LoneRun, Worker, note_lost, run_name, stage_of

logger = logging.getLogger(__name__)


def segment_slide(slide: Union[str, Path], settings: SlideSettings) -> SlideResult:
    """Classify the tissue of one slide, in this process, and write its folder.

    Args:
        slide: A file or URL, or a folder or manifest that names one slide.
        settings: Model, output folder and the rest.

    Returns:
        What became of it; `output_dir / result.name` holds what `map_slide` lists.

    Raises:
        ValueError: The slide or the model cannot be used, or there is not exactly one slide.
        OSError: The model cannot be loaded, or a folder cannot be written.
        FloatingPointError: The backbone or the head makes NaN.
    """
    tasks = find_slides([str(slide)], urls=True)
    if len(tasks) != 1:
        raise ValueError(f"{slide} names {len(tasks)} slides: expected one; `segment_slides` takes many.")
    _make_folders(settings)
    if tasks[0].problem:
        raise SlideError(tasks[0].problem)
    model = SlideModel.load(settings, make_accelerator().device)
    stage = stage_of(tasks, settings)
    if stage is None:
        return map_slide(tasks[0], model, settings)
    with stage:
        staged = stage.begin(tasks[0])
        try:
            return map_slide(staged.wait(), model, settings)
        except SlideError as error:
            raise type(error)(staged.of_the_original(str(error))) from error


def segment_slides(slides: Sequence[Union[str, Path]], settings: SlideSettings) -> list[SlideResult]:
    """Classify slides; the processes of `accelerate launch`, and runs side by side, take one after the other.

    A slide that fails is reported and the others go on. Slides that are done are skipped, and those that another run
    has begun are waited for at the end. `cohort.csv` and `cohort.html` list all slides of the output folder.

    Args:
        slides: Files, folders of slides, manifests and URLs (see `find_slides`).
        settings: For all of them.

    Returns:
        What became of every slide, in their order, in the main process; an empty list in the others.

    Raises:
        ValueError: There are no slides, a manifest or a setting is wrong, two slides have one name, or several one
            drawing.
        OSError: The model cannot be loaded, or a folder cannot be written.
    """
    started = time.time()
    _refuse_own_tables(slides, settings.output_dir)
    tasks = find_slides([str(slide) for slide in slides], urls=True)
    _check_drawings(tasks, settings.mask)
    _make_folders(settings)
    require_own_table(settings.output_dir)
    accelerator = make_accelerator()
    folder, tasks = _agree(tasks, settings, accelerator)
    if not tasks:
        logger.info("None of these slides has failed before: --retry_failed takes none.")
        return []
    model = SlideModel.load(settings, accelerator.device)
    settings.checked_stride(model.config.patch_size)
    records = Records(settings.output_dir, run_name(folder, settings))
    history = History(model, settings, records, started)
    if accelerator.num_processes == 1:
        alone = LoneRun(len(tasks))
        Worker(alone, tasks, model, settings, records, history).work()
        return alone.results()
    run = SharedRun(folder, tasks)
    # Whoever came late would find the folder of a short run removed, and make it anew.
    accelerator.wait_for_everyone()
    Worker(run, tasks, model, settings, records, history).work()
    results = run.wait_for_all() if accelerator.is_main_process else []
    run.leave()
    if accelerator.is_main_process and note_lost(tasks, results, records):
        Cohort(settings.output_dir, records).write()
    accelerator.end_training()
    return results


def _make_folders(settings: SlideSettings) -> None:
    require_writable(settings.output_dir, "--output_dir")
    if settings.stage_dir is not None:
        require_writable(settings.stage_dir, "--stage_dir")
    settings.output_dir.mkdir(parents=True, exist_ok=True)


def _agree(tasks: list[SlideTask], settings: SlideSettings, accelerator: Accelerator) -> tuple[Path, list[SlideTask]]:
    """The folder of the run and its slides, the same in all processes: files, and failures, may come and go."""
    if settings.retry_failed:
        records = Records(settings.output_dir, "")
        found = [(task, records.read(task)) for task in tasks]
        tasks = [task for task, record in found if record is not None and record.status == "failed"]
    if accelerator.is_main_process:
        remove_dead_runs(settings.output_dir)
    folder, tasks = broadcast_object_list([new_run_folder(settings.output_dir), tasks])
    return folder, tasks


def _refuse_own_tables(slides: Sequence[Union[str, Path]], output_dir: Path) -> None:
    own = {os.path.realpath(output_dir / name) for name in (COHORT_TABLE, COHORT_PAGE)}
    for slide in slides:
        if os.path.realpath(slide) in own:
            raise ValueError(f"{slide} is the table that this run writes: copy it, and name the copy.")


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
