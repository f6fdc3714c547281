"""The table of all slides of an output folder, written anew as slides come to their ends."""

import logging
import time
from pathlib import Path
from typing import Optional

from filelock import FileLock, Timeout

from ..files import write_text
from ..slide_sources.task import COHORT_PAGE, COHORT_TABLE, SlideTask
from ..slides.outputs import MARKER_NAME
from .cohort_page import keep_picture, make_page, picture_of
from .cohort_rows import SIGN, CohortRow, cohort_csv, row_of_folder, row_of_record
from .records import Record, Records

logger = logging.getLogger(__name__)

_LEAST_SECONDS = 5.0  # between two tables
_LARGEST_SHARE = 0.05  # of the time that goes into tables
_PATIENCE = 600.0  # seconds, while another process writes one, before this one's last


def require_own_table(output_dir: Path) -> None:
    """Refuse an output folder in which other files have the names of the tables.

    Raises:
        ValueError: There is one.
    """
    for name, begins in ((COHORT_TABLE, SIGN), (COHORT_PAGE, "<!DOCTYPE html>")):
        path = output_dir / name
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                own = file.read(len(begins)) == begins
        except FileNotFoundError:
            continue
        except OSError:
            own = False
        if not own:
            raise ValueError(f"{path} is to hold the table of all slides, and holds something else: move it away.")


class Cohort:
    """Writes cohort.csv and cohort.html.

    Args:
        output_dir: It exists.
        records: Its own.
    """

    def __init__(self, output_dir: Path, records: Records) -> None:
        self._output_dir, self._records = output_dir, records
        self._next = 0.0  # when the next table may be written
        self._read: dict[Path, tuple[object, CohortRow]] = {}

    def slide_ended(self, task: SlideTask) -> None:
        """Keep a slide's picture, and write the table unless one was written just now or is being written."""
        if not task.problem:
            keep_picture(self._output_dir / task.name, self._records.folder)
        if time.monotonic() >= self._next:
            self._write(patience=0)

    def write(self) -> None:
        """Write the table, after another process that is about it; what ended before this call is in it."""
        self._write(_PATIENCE)

    def rows(self) -> list[CohortRow]:
        """All slides by their names: those whose results are in the folder, and those that failed."""
        records = self._records.all()
        failed = [record for record in records if record.status == "failed"]
        by_name = {record.name.casefold(): record for record in records if record.is_named}
        markers = [path for path in self._output_dir.glob(f"*/{MARKER_NAME}") if not path.parent.name.startswith(".")]
        found = [(path, by_name.get(path.parent.name.casefold())) for path in markers]
        done = [self._done(path, record) for path, record in found if record is None or record.status != "failed"]
        rows = [*filter(None, done), *map(row_of_record, failed)]
        return sorted(rows, key=lambda row: (row.name.casefold(), row.name, row.message))

    def _done(self, marker: Path, record: Optional[Record]) -> Optional[CohortRow]:
        """A slide's row, read once as long as it stays the same; None if it is being replaced just now."""
        try:
            status = marker.stat()
            state = (status.st_mtime_ns, status.st_size, record)
            if self._read.get(marker, (None, None))[0] != state:
                self._read[marker] = (state, row_of_folder(marker.parent, record))
            return self._read[marker][1]
        except OSError:
            return None

    def _write(self, patience: float) -> None:
        folder = self._records.folder
        try:
            folder.mkdir(exist_ok=True)
            with FileLock(folder / "table.lock", timeout=patience):
                started = time.monotonic()
                rows = self.rows()
                for row in rows:  # those of an earlier version have none
                    is_time = patience or time.monotonic() - started < _LEAST_SECONDS
                    if is_time and row.status == "done" and not picture_of(row.name, folder).exists():
                        keep_picture(self._output_dir / row.name, folder)
                write_text(self._output_dir / COHORT_TABLE, cohort_csv(rows))
                write_text(self._output_dir / COHORT_PAGE, make_page(rows, folder))
                took = time.monotonic() - started
                self._next = time.monotonic() + max(_LEAST_SECONDS, took / _LARGEST_SHARE)
        except Timeout:
            if patience:
                logger.warning(
                    "Another process has been writing %s for %.0f s: it is left to it.", COHORT_TABLE, patience
                )
        except OSError as error:  # the slides are what they are all the same
            logger.warning("%s cannot be written: %s.", self._output_dir / COHORT_TABLE, error.strerror or error)
