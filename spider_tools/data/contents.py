"""What a folder holds as one digest, whatever the times of its files: two copies are equal, a file overwritten is not.

Reading everything is done once. The result is remembered for as long as names, sizes and times of all files stay as
they are: the time of the last change counts beside that of the last modification, since no program can set it back.
"""

import hashlib
import itertools
import logging
import os
import stat
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from ..files import write_text
from .caches import digest, file_digest

logger = logging.getLogger(__name__)

_READERS = min(32, 4 * (os.cpu_count() or 1))  # threads: reading and hashing both leave the interpreter to the others
_AT_ONCE = 2000
_SETTLED_SECONDS = 2.0  # times of some file systems are as coarse as that


@dataclass(frozen=True)
class _File:
    """A file by its name below the folder, and what the system tells of it without reading it."""

    name: str
    path: str
    blob: str  # name by content, of a Hub snapshot's link
    status: os.stat_result | None  # None where a link leads nowhere


def content_digest(folder: Path, cache_dir: Path) -> str:
    """32 hexadecimal digits of the names and contents of all files below a folder.

    Links of a Hub snapshot are named by their content, and not read.

    Args:
        folder: Looked through with its sub-folders, but not those that are links.
        cache_dir: Gets `contents/`, where it can be written.
    """
    state, count, newest = _state(folder)
    memory = cache_dir / "contents" / f"{state}.txt"
    if memory.is_file():
        return memory.read_text(encoding="utf-8")
    now = time.time()
    content = _read_all(folder, count)
    if newest < now - _SETTLED_SECONDS:
        _remember(memory, content)
    return content


def _state(folder: Path) -> tuple[str, int, float]:
    """Digest of names, sizes and times; number of files; time of the last change in seconds."""
    newest = 0.0

    def lines() -> Iterator[bytes]:
        nonlocal newest
        for file in _files(folder):
            facts = file.blob
            if not facts and file.status is not None:
                newest = max(newest, file.status.st_ctime)
                facts = f"{file.status.st_size}\0{file.status.st_mtime_ns}\0{file.status.st_ctime_ns}"
            yield os.fsencode(f"{file.name}\0{facts}")

    state, count = _digest_of_lines(lines())
    return state, count, newest


def _read_all(folder: Path, count: int) -> str:
    def lines() -> Iterator[bytes]:
        files = _files(folder)
        with (
            ThreadPoolExecutor(_READERS) as pool,
            tqdm(total=count, desc="reading files", unit="file", disable=None if count > _AT_ONCE else True) as bar,
        ):
            while some := list(itertools.islice(files, _AT_ONCE)):
                yield from pool.map(_name_and_content, some)
                bar.update(len(some))

    return _digest_of_lines(lines())[0]


def _name_and_content(file: _File) -> bytes:
    content = file.blob
    if not content and file.status is not None and stat.S_ISREG(file.status.st_mode):
        try:
            content = file_digest(Path(file.path))
        except PermissionError:
            content = "unreadable"  # told by whoever needs it
    return os.fsencode(f"{file.name}\0{content}")


def _files(folder: Path) -> Iterator[_File]:
    pending = [("", os.fspath(folder))]
    while pending:
        prefix, place = pending.pop()
        with os.scandir(place) as entries:
            for entry in entries:
                name = f"{prefix}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    pending.append((f"{name}/", entry.path))
                else:
                    blob = _blob_of(entry)
                    yield _File(name, entry.path, blob, None if blob else _status(entry))


def _blob_of(entry: os.DirEntry) -> str:
    if not entry.is_symlink():
        return ""
    place, name = os.path.split(os.readlink(entry.path))
    return name if os.path.basename(place) == "blobs" else ""


def _status(entry: os.DirEntry) -> os.stat_result | None:
    try:
        return entry.stat()
    except OSError:
        return None


def _digest_of_lines(lines: Iterable[bytes]) -> tuple[str, int]:
    """Digest of lines in any order, and their number."""
    # A sum of digests needs neither sorting nor memory for millions of names.
    total, count = 0, 0
    for line in lines:
        total += int.from_bytes(hashlib.blake2b(line, digest_size=16).digest(), "little")
        count += 1
    return digest(total % (1 << 128), count), count


def _remember(memory: Path, content: str) -> None:
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{memory}.lock", timeout=0):
            write_text(memory, content)
    except (OSError, Timeout) as error:
        logger.warning("%s cannot be written, so all files will be read again next time: %s", memory, error)
