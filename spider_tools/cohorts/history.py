"""What is known of a slide before work on it begins: whether it was done, or failed, by whom and with what."""

import hashlib
import json
import logging
import time
from typing import Optional

from .. import __version__
from ..files import file_sha256
from ..flags import as_json
from ..plain_text import escaped
from ..slide_files.file_check import check_is_file
from ..slide_sources.task import SlideTask
from ..slides import outputs
from ..slides.model import SlideModel
from ..slides.preparing import prepare
from ..slides.results import SlideResult
from ..slides.settings import SlideSettings
from ..tissue.drawings import drawing_for
from .records import Record, Records

logger = logging.getLogger(__name__)

# What decides where and how fast, and not what comes out; model and drawings are known by their content.
_NO_MATTER = frozenset(
    "model revision mask output_dir batch_size num_workers save_every stage_dir retry_failed".split()
)


class History:
    """The past of slides, for one process of a run.

    Args:
        model: Classifies the slides.
        settings: For all of them.
        records: Of the output folder.
        started: When this process began, in seconds since 1970: what others have done since then is of its own time.
    """

    def __init__(self, model: SlideModel, settings: SlideSettings, records: Records, started: float) -> None:
        self._model, self._settings, self._records, self._started = model, settings, records, started

    def of_others(self, task: SlideTask) -> Optional[SlideResult]:
        """What became of a slide by the same run, or one beside it that asked for the same; None if nothing did."""
        record = self._records.read(task)
        if record is None or not (record.run == self._records.run or record.finished >= self._started):
            return None
        if record.asked != self._asked(task):
            return None
        if record.status == "failed":
            return SlideResult(task.name, "failed", seconds=record.seconds, message=record.message)
        is_there = (self._settings.output_dir / task.name / outputs.MARKER_NAME).exists()
        return SlideResult(task.name, "skipped") if is_there else None

    def is_done(self, task: SlideTask) -> bool:
        """Whether a slide needs no copy, because it was done before with the same model and settings."""
        folder = self._settings.output_dir / task.name
        if not (folder / outputs.MARKER_NAME).exists():
            return False
        try:
            if task.url:
                return self._is_vouched_for(task)
            prepared = prepare(task, self._model, self._settings)
            return outputs.is_done(folder, prepared.request, prepared.older_request)
        except (ValueError, OSError):  # which the copy will meet too, and tell
            return False

    def note(self, task: SlideTask, result: SlideResult, version: Optional[str]) -> None:
        """Write down what became of a slide.

        Args:
            task: The slide, which this process has claimed.
            result: What became of it.
            version: Of a slide by URL, what its server said of it.
        """
        before = self._records.read(task)
        failed = result.status == "failed"
        try:
            # Of a slide that was skipped the record of the work on it stays.
            if result.status != "skipped" or version is not None or before is None or before.status == "failed":
                marker = self._settings.output_dir / task.name / outputs.MARKER_NAME
                record = Record(
                    name=task.name,
                    status="failed" if failed else "done",
                    source=task.address,
                    message=result.message,
                    seconds=result.seconds,
                    finished=time.time(),
                    run=self._records.run,
                    asked=self._asked(task),
                    version=version,
                    marker_sha256=None if failed or version is None else file_sha256(marker),
                    is_named=not task.problem,
                )
                self._records.write(task, record)
            self._records.end(task)
        except OSError as error:  # the slide is what it is all the same
            logger.warning("%s: no record can be written: %s.", escaped(task.name), error.strerror or error)

    def _is_vouched_for(self, task: SlideTask) -> bool:
        """Whether a server says of a slide what it said when the results were made."""
        from ..slide_sources.remote_slides import files_of_url, version_of

        marker = self._settings.output_dir / task.name / outputs.MARKER_NAME
        record = self._records.read(task)
        if record is None or record.marker_sha256 is None or record.asked != self._asked(task):
            return False
        request = json.loads(marker.read_text(encoding="utf-8"))["request"]
        return (
            record.marker_sha256 == file_sha256(marker)
            and outputs.is_done(marker.parent, request)
            and record.version == version_of(files_of_url(task.url))
        )

    def _asked(self, task: SlideTask) -> str:
        """A digest of all that decides a result beside the pixels."""
        try:
            drawing = task.mask or drawing_for(self._settings.mask, task.name)
            if drawing is not None:
                check_is_file(drawing, "mask")  # reading from a pipe comes to no end
            mask = None if drawing is None else file_sha256(drawing)
        except (ValueError, OSError):
            mask = "none that can be read"
        asked = {
            **{name: value for name, value in as_json(self._settings).items() if name not in _NO_MATTER},
            **{"by": __version__, "content": self._model.content, "head": self._model.head_sha256},
            **{"source": task.address, "slide_mpp": task.mpp, "mask": mask},
        }
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()
