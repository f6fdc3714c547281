"""What a folder holds as one digest, whatever the times of its files: two copies are equal, a file overwritten is not.

Reading everything is done once. The result is remembered for as long as names, sizes and times of all files stay as
they are, and the order in which the folder lists them: the time of the last change counts beside that of the last
modification, since no program can set it back.
"""

import functools
import hashlib
import itertools
import logging
import multiprocessing
import os
import stat
import sys
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from ..files import write_text
from ..processes import process_pool
from .caches import digest, file_digest

logger = logging.getLogger(__name__)

# Threads of a process: reading and hashing leave the interpreter to the others. Beside other processes many would wait
# for it in turn, and take twice the time.
_READERS_ALONE, _READERS = min(32, 4 * (os.cpu_count() or 1)), 2
_LOOKED_AT_ONCE, _READ_AT_ONCE = 4000, 1000  # files that a process takes at once
_ALONE = 20_000  # fewer files are not worth starting processes for
_WITH_BAR = 2000  # fewer are read in a moment
_SETTLED_SECONDS = 2.0  # times of some file systems are as coarse as that
_64_BITS = 2**64 - 1  # times before 1970 are negative, and after 2262 longer
_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()  # as os.fsencode, in half the time


@dataclass(frozen=True)
class _Sum:
    """Of digests, of each file or of some files: it needs neither sorting nor memory for millions of names.

    Attributes:
        digests: Their sum.
        count: Number of files.
        newest: Time of the last change in seconds, where it was looked at.
    """

    digests: int = 0
    count: int = 0
    newest: float = 0.0

    def __add__(self, other: "_Sum") -> "_Sum":
        return _Sum(self.digests + other.digests, self.count + other.count, max(self.newest, other.newest))

    def __str__(self) -> str:
        return digest(self.digests % (1 << 128), self.count)


def content_digest(folder: Path, cache_dir: Path) -> str:
    """32 hexadecimal digits of the names and contents of all files below a folder.

    Links of a Hub snapshot are named by their content, and not read.

    Args:
        folder: Looked through with its sub-folders, but not those that are links.
        cache_dir: Gets `contents/`, where it can be written.
    """
    state = _over_all_files(folder, _states, _LOOKED_AT_ONCE)
    memory = cache_dir / "contents" / f"{state}.txt"
    if memory.is_file():
        return memory.read_text(encoding="utf-8")
    now = time.time()
    shown = state.count > _WITH_BAR
    with tqdm(total=state.count, desc="reading files", unit="file", disable=None if shown else True) as bar:
        content = str(_over_all_files(folder, _contents, _READ_AT_ONCE, bar.update))
    if state.newest < now - _SETTLED_SECONDS:
        _remember(memory, content)
    return content


def _over_all_files(
    folder: Path,
    work: Callable[[str, list[str]], _Sum],
    at_once: int,
    tell: Callable[[int], object] = lambda count: None,
) -> _Sum:
    """The sum of what `work` gives of the folder and names of files below it; `tell` hears how many are done."""
    names = _names(folder)
    first = list(itertools.islice(names, _ALONE))
    lists = _in_lists(itertools.chain(first, names), at_once)
    some = functools.partial(work, os.fspath(folder))
    whole = _Sum()
    for part in map(some, lists) if len(first) < _ALONE or _processes() == 1 else _in_processes(some, lists):
        whole += part
        tell(part.count)
    return whole


def _processes() -> int:
    """How many this one may start: the processes of a run on a machine all look at once."""
    return max(1, (os.cpu_count() or 1) // max(1, int(os.environ.get("LOCAL_WORLD_SIZE") or 1)))


def _in_processes(work: Callable[[list[str]], _Sum], lists: Iterable[list[str]]) -> Iterator[_Sum]:
    """What `work` gives of lists, of which only a few wait at a time."""
    workers = _processes()
    waiting: deque[Future[_Sum]] = deque()
    with process_pool(workers) as pool:
        for names in lists:
            waiting.append(pool.submit(work, names))
            if len(waiting) > 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _in_lists(names: Iterator[str], at_once: int) -> Iterator[list[str]]:
    while some := list(itertools.islice(names, at_once)):
        yield some


def _names(folder: Path) -> Iterator[str]:
    """Paths below a folder of all that is no folder."""
    pending = [("", os.fspath(folder))]
    while pending:
        prefix, place = pending.pop()
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append((f"{prefix}{entry.name}/", entry.path))
                else:
                    yield f"{prefix}{entry.name}"


def _states(folder: str, names: list[str]) -> _Sum:
    """Of names, sizes and times, in this order and all in one digest: there is no time for one of each file."""
    others: list[str] = []  # links that are named by their content, or lead nowhere
    facts = array("Q")
    newest = 0
    for name in names:
        path = f"{folder}/{name}"
        try:
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                blob = _blob_of(path)
                if blob:
                    others.append(f"{name}\0{blob}")
                    continue
                status = os.stat(path)
        except OSError:
            others.append(name)
            continue
        changed = status.st_ctime_ns
        facts.extend((status.st_size, status.st_mtime_ns & _64_BITS, changed & _64_BITS))
        if changed > newest:
            newest = changed
    lines = "\0".join((*names, "", *others)).encode(_ENCODING, _ERRORS)
    return _Sum(_number(lines + b"\0" + facts.tobytes()), len(names), newest / 1e9)


def _contents(folder: str, names: list[str]) -> _Sum:
    """Of names and contents."""

    def some(start: int) -> int:
        lines = (f"{name}\0{_content(f'{folder}/{name}')}" for name in names[start : start + step])
        return sum(_number(line.encode(_ENCODING, _ERRORS)) for line in lines)

    threads = _READERS_ALONE if multiprocessing.parent_process() is None else _READERS
    step = max(1, len(names) // (4 * threads))
    with ThreadPoolExecutor(threads) as pool:
        return _Sum(sum(pool.map(some, range(0, len(names), step))), len(names))


def _content(path: str) -> str:
    try:
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            blob = _blob_of(path)
            if blob:
                return blob
            status = os.stat(path)
    except OSError:
        return ""  # a link that leads nowhere
    try:
        return file_digest(path) if stat.S_ISREG(status.st_mode) else ""
    except PermissionError:
        return "unreadable"  # told by whoever needs it


def _blob_of(link: str) -> str:
    """The name by content of a Hub snapshot's link; "" of all others."""
    place, name = os.path.split(os.readlink(link))
    return name if os.path.basename(place) == "blobs" else ""


def _number(line: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(line, digest_size=16).digest(), "little")


def _remember(memory: Path, content: str) -> None:
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{memory}.lock", timeout=0):
            write_text(memory, content)
    except (OSError, Timeout) as error:
        logger.warning("%s cannot be written, so all files will be read again next time: %s", memory, error)
