"""Slides on a fast disk: each is copied from slow storage, or downloaded, while the one before is embedded."""

import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional

from tqdm.auto import tqdm

from ..plain_text import escaped
from ..sharing import Claims
from ..slide_files.companions import files_to_copy
from ..slide_files.file_check import check_is_file
from ..slide_files.slide_error import SlideError, StoppedError
from .task import SlideTask

logger = logging.getLogger(__name__)

_PREFIX = ".spider-stage-"
_LOCK = "in-use"
_RESERVE_BYTES = 1 << 28
_CHUNK_BYTES = 8 << 20


class NoRoomError(SlideError):
    """The disk has no room for the copy of a slide now."""


class Stage:
    """This process's part of a folder of copies; all of it is removed at the end, or by the next run after a kill.

    Args:
        folder: On the fast disk, shared with other processes and runs; made if absent.
        is_temporary: Whether the last one to leave removes the folder itself.

    Raises:
        OSError: It cannot be written.
    """

    def __init__(self, folder: Path, is_temporary: bool = False) -> None:
        self._is_temporary = is_temporary
        folder.mkdir(parents=True, exist_ok=True)
        _remove_dead(folder)
        self.shared_folder = folder
        self._own, self._claims = _new_folder(folder)
        self._stopped = threading.Event()
        # One thread: two copies at once would share what the storage gives.
        self._copying = ThreadPoolExecutor(1, thread_name_prefix="stage")

    def __enter__(self) -> "Stage":
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._copying.shutdown(cancel_futures=True)
        self._claims.release_all()
        shutil.rmtree(self._own, ignore_errors=True)
        if self._is_temporary:
            with suppress(OSError):  # others are still at work there
                self.shared_folder.rmdir()

    def begin(self, task: SlideTask) -> "StagedSlide":
        """Have a slide copied after those that were begun before."""
        place = self._own / uuid.uuid4().hex
        return StagedSlide(task, place, lambda: self._copying.submit(self._fetch, task, place))

    def _fetch(self, task: SlideTask, place: Path) -> Optional[str]:
        parts, version = _parts_at_url(task.url) if task.url else (_parts_here(task.path), None)
        size = sum(part.size for part in parts)
        free = shutil.disk_usage(self.shared_folder).free
        if size > free - _RESERVE_BYTES:
            raise NoRoomError(
                f"{task.address} has {_megabytes(size)}, and {self.shared_folder} has {_megabytes(free)} free, of "
                f"which {_megabytes(_RESERVE_BYTES)} are kept: make room, or choose another --stage_dir."
            )
        logger.info("%s: fetching %s to %s", task.address, _megabytes(size), self.shared_folder)
        started = time.monotonic()
        try:
            # Below the bar of the slide that is embedded meanwhile; a log is told when it is done.
            look = {"unit": "B", "unit_scale": True, "position": 1, "leave": False, "disable": None}
            with tqdm(total=size, desc=f"fetching {task.name}", **look) as bar:
                for part in parts:
                    target = place / part.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    part.write(target, lambda count: self._count(bar, count))
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
        seconds = time.monotonic() - started
        rate = _megabytes(int(size / max(seconds, 1e-3)))
        logger.info("%s: fetched %s in %.1f s, %s/s", escaped(task.name), _megabytes(size), seconds, rate)
        return version

    def _count(self, bar: Any, count: int) -> None:
        if self._stopped.is_set():
            raise StoppedError
        bar.update(count)


class StagedSlide:
    """A slide that is being copied, or has been.

    Attributes:
        version: What the server says of it, see `remote_slides.version_of`; None until it has come, and if it is no
            slide by URL.
    """

    def __init__(self, task: SlideTask, place: Path, start: Callable[[], "Future[Optional[str]]"]) -> None:
        self._task, self._place, self._start = task, place, start
        self.version: Optional[str] = None
        self._copy = start()

    def wait(self) -> SlideTask:
        """The slide as it lies on the fast disk.

        Raises:
            SlideError: It could not be copied, or not as it is.
        """
        try:
            try:
                self.version = self._copy.result()
            except NoRoomError:  # the slide before it was there then, and is not now
                self._copy = self._start()
                self.version = self._copy.result()
        except OSError as error:
            reason = error.strerror or error
            raise SlideError(f"{self._task.address} cannot be copied to {self._place.parent}: {reason}.") from error
        return replace(self._task, path=self._place / self._task.path.name, url="")

    def of_the_original(self, text: str) -> str:
        """A text that names the copy, with the original's name in its place."""
        address = self._task.address
        text = text.replace(str(self._place / self._task.path.name), address)
        return text.replace(f"{self._place}{os.sep}", address[: address.rindex("/") + 1] if "/" in address else "")

    def remove(self) -> None:
        """Remove the copy, if it is there."""
        self._copy.cancel()
        shutil.rmtree(self._place, ignore_errors=True)


@dataclass(frozen=True)
class _Part:
    """One file of a slide: where it belongs below the folder of the copy, its bytes, and what writes it."""

    name: str
    size: int
    write: Callable[[Path, Callable[[int], Any]], None]


def _parts_here(path: Path) -> list[_Part]:
    check_is_file(path)
    return [
        _Part(str(file.relative_to(path.parent)), file.stat().st_size, _copier(file)) for file in files_to_copy(path)
    ]


def _parts_at_url(url: str) -> tuple[list[_Part], Optional[str]]:
    from .remote_slides import RemoteFile, download, files_of_url, version_of

    def downloader(file: RemoteFile) -> Callable[[Path, Callable[[int], Any]], None]:
        return lambda target, came: download(file, target, came)

    files = files_of_url(url)
    return [_Part(file.name, file.size, downloader(file)) for file in files], version_of(files)


def _copier(source: Path) -> Callable[[Path, Callable[[int], Any]], None]:
    def copy(target: Path, came: Callable[[int], Any]) -> None:
        copied = 0
        with source.open("rb") as reader, target.open("wb") as writer:
            before = os.fstat(reader.fileno())
            while copied <= before.st_size and (block := reader.read(_CHUNK_BYTES)):  # one may grow without end
                writer.write(block)
                copied += len(block)
                came(len(block))
            after = os.fstat(reader.fileno())
        unchanged = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
        if not unchanged or copied != before.st_size:
            raise SlideError(
                f"{source} changed while it was copied: {copied:,} bytes came, expected {before.st_size:,} and no "
                "change. Start again once it is whole."
            )

    return copy


def _new_folder(shared: Path) -> tuple[Path, Claims]:
    """A folder of this process, and its claim on it; another process may take a fresh one for a dead one's."""
    while True:
        own = shared / f"{_PREFIX}{uuid.uuid4().hex}"
        claims = Claims(own)
        if claims.claim(_LOCK) and (own / f"{_LOCK}.lock").exists():
            return own, claims
        claims.release_all()


def _remove_dead(shared: Path) -> None:
    """Remove what processes left that were killed: the system has freed their claims."""
    for folder in shared.glob(f"{_PREFIX}*"):
        claims = Claims(folder)
        with suppress(OSError):  # that of another user
            if claims.claim(_LOCK):
                shutil.rmtree(folder, ignore_errors=True)
                claims.release_all()


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.1f} kB"
