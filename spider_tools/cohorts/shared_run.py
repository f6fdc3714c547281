"""A run that several processes share: which of them takes which slide, and what becomes of a slide whose process dies.

No process waits for another one in a collective call: those end in a time-out, and slides may take hours. When one
dies, `accelerate launch` ends those beside it on the machine; on other machines, and with other launchers, the rest go
on.
"""

import json
import logging
import shutil
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Optional

from ..files import write_text
from ..sharing import Claims, is_claimed
from ..slide_sources.task import SlideTask
from ..slides.results import SlideResult

logger = logging.getLogger(__name__)

_FOLDER_PREFIX = ".run-"
_PROCESS_PREFIX = "process-"  # every process of a run holds a claim of its own as long as it takes part
_POLL_SECONDS = 0.5
_LOST = (
    "the process that had this slide ended before it was done, most often for lack of memory. What it had embedded is "
    "saved: start again to go on from there, with a lower --num_workers and --batch_size if it happens again."
)


def new_run_folder(output_dir: Path) -> Path:
    """A folder that no other run shares; it is not made."""
    return output_dir / f"{_FOLDER_PREFIX}{uuid.uuid4().hex}"


def remove_dead_runs(output_dir: Path) -> None:
    """Remove the folders of runs that were killed: those in which some process took part, and none does now."""
    for folder in output_dir.glob(f"{_FOLDER_PREFIX}*"):
        if any(folder.glob(f"{_PROCESS_PREFIX}*")) and not is_claimed(folder, _PROCESS_PREFIX):
            shutil.rmtree(folder, ignore_errors=True)


class SharedRun:
    """One process's part in a run.

    Args:
        folder: Of this run only, the same in all processes; made if it is absent.
        tasks: The same in all processes.
    """

    def __init__(self, folder: Path, tasks: Sequence[SlideTask]) -> None:
        self._folder = folder
        self._tasks = tasks
        self._untried = iter(range(len(tasks)))
        self._claims = Claims(folder)
        self._claims.claim(f"{_PROCESS_PREFIX}{uuid.uuid4().hex}")

    def take(self) -> Optional[int]:
        """The number of a slide that no process has begun, or None."""
        for number in self._untried:
            if self._claims.claim(str(number)):
                try:
                    # Tells a slide that is lost, or done, from one that is free.
                    (self._folder / f"{number}.begun").touch(exist_ok=False)
                    return number
                except FileExistsError:
                    self._claims.release(str(number))
        return None

    def report(self, number: int, result: SlideResult) -> None:
        """Tell the main process what became of a slide that this process has taken."""
        write_text(self._result_file(number), json.dumps(asdict(result)))
        self._claims.release(str(number))

    def leave(self) -> None:
        """Take no further part: there is no slide left for this process."""
        self._claims.release_all()

    def wait_for_all(self) -> list[SlideResult]:
        """The results of all slides, for one process that has no slide left; it leaves, and removes the folder.

        A slide whose process ended without a result has failed. It is not tried again: what killed one process may
        kill the next one.
        """
        while unfinished := [n for n in range(len(self._tasks)) if not self._result_file(n).exists()]:
            for number in unfinished:
                self._report_if_lost(number)
            time.sleep(_POLL_SECONDS)
        results = [self._result(number) for number in range(len(self._tasks))]
        self.leave()
        while is_claimed(self._folder, _PROCESS_PREFIX):  # others still look whether a slide is left
            time.sleep(_POLL_SECONDS)
        shutil.rmtree(self._folder, ignore_errors=True)
        return results

    def _report_if_lost(self, number: int) -> None:
        """This process was offered every slide: one that nobody holds now was held by a process that is no more."""
        if not self._claims.claim(str(number)):
            return
        if self._result_file(number).exists():  # its process has finished it and let it go meanwhile
            self._claims.release(str(number))
        else:
            name = self._tasks[number].name
            logger.error("%s failed: %s", name, _LOST)
            self.report(number, SlideResult(name, "failed", message=_LOST))

    def _result(self, number: int) -> SlideResult:
        return SlideResult(**json.loads(self._result_file(number).read_text(encoding="utf-8")))

    def _result_file(self, number: int) -> Path:
        return self._folder / f"{number}.json"
