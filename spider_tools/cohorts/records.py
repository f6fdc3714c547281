"""What became of every slide of an output folder, and who is at work on which: for the processes of all runs there.

They lie in `.cohort`, a few small files per slide whose names are digests of the slides'. Claims are locks of the
system, which frees them when a process ends, however it ends.
"""

import hashlib
import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Optional

from ..files import write_text
from ..sharing import Claims
from ..slide_sources.task import SlideTask

_FOLDER = ".cohort"
_RECORD, _HOLDER = ".json", ".holder"
_TRIES = 2  # processes of one array that a slide may end


@dataclass(frozen=True)
class Record:
    """What became of a slide when it was last tried.

    Attributes:
        name: Of the slide.
        status: "done" or "failed".
        source: Where the slide is, as anybody may know it.
        message: Why it failed, or what was left out.
        seconds: That it took.
        finished: When, in seconds since 1970.
        run: Which run it was, the same in all processes of one.
        asked: Digest of model and settings.
        version: What the server said of a slide by URL; None for others.
        marker_sha256: Of slide.json, where a `version` is to vouch for it.
        is_named: Whether the slide has a name that is that of a folder.
    """

    name: str
    status: str
    source: str
    message: str
    seconds: float
    finished: float
    run: str
    asked: str
    version: Optional[str] = None
    marker_sha256: Optional[str] = None
    is_named: bool = True


class Records:
    """The records of an output folder.

    Args:
        output_dir: It exists.
        run: Which run this process takes part in.
    """

    def __init__(self, output_dir: Path, run: str) -> None:
        self.folder = output_dir / _FOLDER
        self.run = run
        self._claims = Claims(self.folder, "Choose another --output_dir.")

    def read(self, task: SlideTask) -> Optional[Record]:
        """What became of a slide; None if it was never tried to the end."""
        return _read(self.folder / f"{key_of(task)}{_RECORD}")

    def write(self, task: SlideTask, record: Record) -> None:
        """Note what became of a slide that this process has claimed.

        Raises:
            OSError: It cannot be written.
        """
        self.folder.mkdir(exist_ok=True)
        write_text(self.folder / f"{key_of(task)}{_RECORD}", json.dumps(asdict(record), indent=1) + "\n")
        if not task.problem:  # what was wrong with its name or its link is no longer
            (self.folder / f"{_key(f'problem {task.address}')}{_RECORD}").unlink(missing_ok=True)

    def all(self) -> list[Record]:
        """All records."""
        return [record for path in sorted(self.folder.glob(f"*{_RECORD}")) if (record := _read(path)) is not None]

    def claim(self, task: SlideTask) -> bool:
        """Claim a slide, unless another process has it."""
        return self._claims.claim(key_of(task))

    def release(self, task: SlideTask) -> None:
        """Give up the claim on a slide."""
        self._claims.release(key_of(task))

    def begin(self, task: SlideTask) -> bool:
        """Say that this process works on a slide that it has claimed.

        Returns:
            False if that has ended several processes of this array already, which it may go on doing.
        """
        before = self._holder(task)
        deaths = before.get("deaths", 0) + 1 if before.get("run") == self.run else 0
        told = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time(), "run": self.run}
        with suppress(OSError):  # as on a full disk, of which the slide's own files will tell
            write_text(self.folder / f"{key_of(task)}{_HOLDER}", json.dumps({**told, "deaths": deaths}) + "\n")
        return deaths < _TRIES

    def end(self, task: SlideTask) -> None:
        """Say that the work on a slide has come to an end, good or bad."""
        (self.folder / f"{key_of(task)}{_HOLDER}").unlink(missing_ok=True)

    def who_holds(self, task: SlideTask) -> str:
        """Who is at work on a slide that this process could not claim, and what to do if that one is no more."""
        holder = self._holder(task)
        who = f"process {holder['pid']} on {holder['host']}" if {"pid", "host"} <= holder.keys() else "another process"
        return f"{who} (its claim is {self.folder / key_of(task)}.lock)"

    def _holder(self, task: SlideTask) -> dict:
        try:
            found = json.loads((self.folder / f"{key_of(task)}{_HOLDER}").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def key_of(task: SlideTask) -> str:
    """What the files of a slide are called; those that cannot be used have no name of their own."""
    return _key(f"problem {task.address}") if task.problem else key_of_name(task.name)


def key_of_name(name: str) -> str:
    """What the files of a slide are called by the name of its folder; file systems may not tell its case."""
    return _key(name.casefold())


def _key(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _read(path: Path) -> Optional[Record]:
    try:
        return Record(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
