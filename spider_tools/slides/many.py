"""Many slides: found, shared between processes, and done one after the other whatever becomes of each."""

import json
import logging
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Optional

from accelerate.utils import broadcast_object_list

from ..files import write_text
from ..launching import make_accelerator
from .finding import SlideTask, find_slides
from .model import SlideModel
from .one import SlideResult, segment_slide
from .settings import SlideSettings

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5


def segment_slides(slides: Sequence[str], settings: SlideSettings) -> list[SlideResult]:
    """Classify slides; the processes of `accelerate launch` take one after the other.

    A slide that fails is reported and the others go on. Slides that are done are skipped.

    Args:
        slides: Files, folders of slides, and manifests (see `find_slides`).
        settings: For all of them.

    Returns:
        What became of every slide, in their order, in the main process; an empty list in the others.

    Raises:
        ValueError: There are no slides, a manifest or a setting is wrong, or two slides have one name.
        OSError: The model cannot be loaded, or the output folder cannot be written.
    """
    tasks = find_slides(slides)
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=settings.output_dir):  # an error here, before the long work
        pass
    accelerator = make_accelerator()
    model = SlideModel.load(settings, accelerator.device)
    settings.checked_stride(model.config.patch_size)
    if accelerator.num_processes == 1:
        return [_attempt(task, model, settings) for task in tasks]
    run = _SharedRun(settings.output_dir / broadcast_object_list([f".run-{uuid.uuid4().hex}"])[0], tasks)
    while (number := run.take()) is not None:
        run.report(number, _attempt(tasks[number], model, settings))
    results = run.wait_for_all() if accelerator.is_main_process else []
    accelerator.end_training()
    return results


def results_table(results: Sequence[SlideResult]) -> str:
    """What became of every slide, as text in columns."""
    rows = [("slide", "status", "patches", "embedded now", "seconds", "")]
    rows += [
        (r.name, r.status, f"{r.predicted:,}", f"{r.embedded:,}", f"{r.seconds:.1f}", _short(r.message))
        for r in results
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), row[1].ljust(widths[1])]
        cells += [row[column].rjust(widths[column]) for column in (2, 3, 4)]
        lines.append("  ".join([*cells, row[5]]).rstrip())
    counts = {status: sum(r.status == status for r in results) for status in ("done", "skipped", "failed")}
    return "\n".join([*lines, ", ".join(f"{count} {status}" for status, count in counts.items())])


def _attempt(task: SlideTask, model: SlideModel, settings: SlideSettings) -> SlideResult:
    started = time.monotonic()
    try:
        return segment_slide(task, model, settings)
    except (ValueError, OSError, FloatingPointError) as error:  # foreseen: the message says it all
        logger.error("%s failed: %s", task.name, error)
        message = str(error)
    except Exception as error:  # the other slides must not suffer from it; the trace is for whoever mends it
        logger.exception("%s failed", task.name)
        message = f"{type(error).__name__}: {error}"
    return SlideResult(task.name, "failed", seconds=time.monotonic() - started, message=message)


@dataclass
class _SharedRun:
    """Which process takes which slide, by files that only one process can make.

    No process waits for another one in a collective call: those end in a time-out, slides may take hours.

    Attributes:
        folder: Of this run only, the same in all processes.
        tasks: The same in all processes.
    """

    folder: Path
    tasks: Sequence[SlideTask]

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)

    def take(self) -> Optional[int]:
        """The number of a slide that no process has taken, or None."""
        for number in range(len(self.tasks)):
            try:
                os.close(os.open(self.folder / f"{number}.taken", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            return number
        return None

    def report(self, number: int, result: SlideResult) -> None:
        """Tell the main process what became of a slide."""
        write_text(self._file(number), json.dumps(asdict(result)))

    def wait_for_all(self) -> list[SlideResult]:
        """The results of all slides, once they are there; removes the folder."""
        while not all(self._file(number).exists() for number in range(len(self.tasks))):
            time.sleep(_POLL_SECONDS)
        results = [SlideResult(**json.loads(self._file(n).read_text(encoding="utf-8"))) for n in range(len(self.tasks))]
        shutil.rmtree(self.folder, ignore_errors=True)
        return results

    def _file(self, number: int) -> Path:
        return self.folder / f"{number}.json"


def _short(message: str, most: int = 160) -> str:
    line = " ".join(message.split())
    return line if len(line) <= most else line[: most - 3] + "..."
