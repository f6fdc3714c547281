"""One process's work on the slides of a run: what others hold or have done is left to them, and failures stay alone."""

import logging
import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Protocol

from ..output_folder import FolderInUseError
from ..plain_text import escaped
from ..slide_files.slide_error import SlideError
from ..slide_sources.staging import Stage, StagedSlide
from ..slide_sources.task import SlideTask
from ..slides.model import SlideModel
from ..slides.one import map_slide
from ..slides.results import SlideResult
from ..slides.settings import SlideSettings
from .cohort import Cohort
from .history import History
from .records import Record, Records

logger = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_TELL_SECONDS = 600.0  # between two words about slides that are waited for
_DEADLY = (
    "several processes ended while they had this slide, for lack of memory or of time. What they had embedded is "
    "saved: start again to go on from there, with a lower --num_workers and --batch_size if it happens again."
)


class Run(Protocol):
    """Where a process gets its slides, and who learns what became of them."""

    def take(self) -> Optional[int]:
        """The number of a slide that this process is to do, or None."""

    def report(self, number: int, result: SlideResult) -> None:
        """Tell what became of a slide that was taken."""


class LoneRun:
    """All slides of a run for one process.

    Args:
        count: Of slides.
    """

    def __init__(self, count: int) -> None:
        self._untaken = iter(range(count))
        self._results: dict[int, SlideResult] = {}

    def take(self) -> Optional[int]:
        """The next number, or None."""
        return next(self._untaken, None)

    def report(self, number: int, result: SlideResult) -> None:
        """Keep a result."""
        self._results[number] = result

    def results(self) -> list[SlideResult]:
        """What became of every slide, in their order."""
        return [result for _, result in sorted(self._results.items())]


@dataclass(frozen=True)
class _Job:
    """A slide that this process has claimed, and its copy if it gets one."""

    number: int
    task: SlideTask
    staged: Optional[StagedSlide] = None


class Worker:
    """Does slides until none is left, neither free nor in the hands of others.

    Args:
        run: Gives the slides.
        tasks: All of them.
        model: Classifies them.
        settings: For all of them.
        records: Of the output folder.
        history: Of the slides.
    """

    def __init__(
        self,
        run: Run,
        tasks: Sequence[SlideTask],
        model: SlideModel,
        settings: SlideSettings,
        records: Records,
        history: History,
    ) -> None:
        self._run, self._tasks, self._model, self._settings = run, tasks, model, settings
        self._records, self._history = records, history
        self._cohort = Cohort(settings.output_dir, records)
        self._held: list[int] = []  # by others
        self._told: Optional[float] = None
        self._stage: Optional[Stage] = None

    def work(self) -> None:
        """Do what there is to do, and write the table of all slides at the end."""
        with stage_of(self._tasks, self._settings) or nullcontext() as self._stage:
            job = self._next(wait=True)
            while job is not None:
                # Only what is copied is claimed ahead; other slides are left for whoever is free.
                ahead = None if self._stage is None else self._next(wait=False)
                self._do(job)
                job = ahead or self._next(wait=True)
        self._cohort.write()

    def _next(self, wait: bool) -> Optional[_Job]:
        """A slide that this process has claimed; None if none is left, or it is not to wait for those of others."""
        while (number := self._run.take()) is not None:
            if (job := self._begin(number)) is not None:
                return job
        while self._held:
            for number in self._held.copy():
                self._held.remove(number)
                if (job := self._begin(number)) is not None:
                    return job
            if not wait:
                return None
            if self._held:
                self._wait_for_others()
        return None

    def _begin(self, number: int) -> Optional[_Job]:
        """Claim a slide and have its copy begun; None if it needs no work, or another process is at it."""
        task = self._tasks[number]
        known = self._history.of_others(task)
        if known is None and not self._records.claim(task):
            self._held.append(number)
            return None
        known = known or self._history.of_others(task)  # whoever had the claim may have finished meanwhile
        if known is not None:
            self._records.release(task)
            self._run.report(number, known)
            return None
        if not self._records.begin(task):
            self._settle(number, SlideResult(task.name, "failed", message=_DEADLY))
            return None
        if self._stage is None or task.problem or not (task.url or self._settings.stage_dir):
            return _Job(number, task)
        if self._history.is_done(task):
            self._settle(number, SlideResult(task.name, "skipped"))
            return None
        return _Job(number, task, self._stage.begin(task))

    def _do(self, job: _Job) -> None:
        try:
            result = self._attempt(job)
        except FolderInUseError:  # by a program that knows of no claims
            self._records.end(job.task)
            self._records.release(job.task)
            self._held.append(job.number)
            return
        finally:
            if job.staged is not None:
                job.staged.remove()
        self._settle(job.number, result, job.staged.version if job.staged else None)

    def _attempt(self, job: _Job) -> SlideResult:
        """What becomes of a slide, whatever that is."""
        task, started = job.task, time.monotonic()
        name = escaped(task.name)
        try:
            if task.problem:
                raise SlideError(task.problem)
            if job.staged is not None:
                task = job.staged.wait()
            return map_slide(task, self._model, self._settings)
        except FolderInUseError:
            raise
        except (ValueError, OSError, FloatingPointError) as error:  # foreseen: the message says it all
            message = str(error) if job.staged is None else job.staged.of_the_original(str(error))
            logger.error("%s failed: %s", name, escaped(message))
        except Exception as error:  # the other slides must not suffer from it; the trace is for whoever mends it
            logger.exception("%s failed", name)
            message = f"{type(error).__name__}: {error}"
        return SlideResult(task.name, "failed", seconds=time.monotonic() - started, message=message)

    def _settle(self, number: int, result: SlideResult, version: Optional[str] = None) -> None:
        """Note what became of a slide, let go of it, and tell."""
        task = self._tasks[number]
        self._history.note(task, result, version)
        self._records.release(task)
        self._run.report(number, result)
        self._cohort.slide_ended(task)

    def _wait_for_others(self) -> None:
        if self._told is None or time.monotonic() - self._told > _TELL_SECONDS:
            self._told = time.monotonic()
            for number in self._held:
                task = self._tasks[number]
                logger.info("waiting for %s, which %s has", escaped(task.name), self._records.who_holds(task))
        time.sleep(_POLL_SECONDS)


def stage_of(tasks: Sequence[SlideTask], settings: SlideSettings) -> Optional[Stage]:
    """Where slides are copied to before they are opened; None if none are."""
    if settings.stage_dir is not None:
        return Stage(settings.stage_dir)
    if any(task.url for task in tasks):
        folder = settings.output_dir / ".stage"
        logger.info("slides by URL are downloaded to %s, and removed again; --stage_dir names another folder", folder)
        return Stage(folder, is_temporary=True)
    return None


def run_name(folder: Path, settings: SlideSettings) -> str:
    """What the processes of a run call it: those of a SLURM array know nothing of each other but the array's number."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array is None:
        return folder.name
    return f"slurm-{array}-retry" if settings.retry_failed else f"slurm-{array}"


def note_lost(tasks: Sequence[SlideTask], results: Sequence[SlideResult], records: Records) -> bool:
    """Note the slides whose processes ended with them; whether there are any."""
    failed = [(task, result) for task, result in zip(tasks, results) if result.status == "failed"]
    lost = [(task, result) for task, result in failed if getattr(records.read(task), "run", None) != records.run]
    for task, result in lost:
        record = Record(task.name, "failed", task.address, result.message, 0.0, time.time(), records.run, "")
        records.write(task, record)
        records.end(task)
    return bool(lost)
