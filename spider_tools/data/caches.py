"""What the caches of data sets are keyed by and made with: digests, a lock, and work spread over processes."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub.constants
from filelock import FileLock
from tqdm.auto import tqdm

from ..processes import process_pool
from ..sharing import refusal_in_words
from .regular_files import open_regular

_RANGE = 2000  # items that one process takes at once; fewer in all are not worth starting processes for


def default_cache_dir() -> Path:
    """Where tables and unpacked archives are kept: `spider/` below the Hugging Face home."""
    return Path(huggingface_hub.constants.HF_HOME) / "spider"


@contextmanager
def only_one_process(path: Path) -> Iterator[None]:
    """Hold `<path>.lock`, so that of several processes one makes `path` and the others wait and find it.

    Look for `path` before: a cache that has it may be read-only, or another user's.

    Raises:
        PermissionError: The cache may not be written; the message names it and the setting.
    """
    lock = FileLock(f"{path}.lock")
    with refusal_in_words(path.parent, "Choose a cache of your own with --cache_dir."):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def digest(*parts: Any) -> str:
    """32 hexadecimal digits that change with any of the parts, which must be JSON values."""
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def file_digest(path: str | os.PathLike[str]) -> str:
    """32 hexadecimal digits of a file's content; what is no regular file is refused."""
    result = hashlib.blake2b(digest_size=16)
    file, size = open_regular(path)
    try:
        while chunk := os.read(file, min(size + 1, 1 << 20)):
            result.update(chunk)
    finally:
        os.close(file)
    return result.hexdigest()


def map_ranges(function: Callable[[int, int], list], count: int, label: str) -> list:
    """Call `function(start, stop)` for ranges that cover `range(count)`, with a progress bar.

    Args:
        function: Returns a list. Picklable, for it runs in other processes if there is enough to do.
        count: Number of items.
        label: What the progress bar says.

    Returns:
        The concatenated lists, in order of the ranges.

    Raises:
        WorkerError: One of the processes died.
    """
    starts = range(0, count, _RANGE)
    stops = [min(start + _RANGE, count) for start in starts]
    found: list = []
    with tqdm(total=count, desc=label, unit="image", disable=None if count > _RANGE else True) as bar:

        def collect(results: Iterator[list]) -> None:
            for start, stop, result in zip(starts, stops, results):
                found.extend(result)
                bar.update(stop - start)

        workers = min(os.cpu_count() or 1, len(starts))
        if workers > 1:
            with process_pool(workers) as pool:
                collect(pool.map(function, starts, stops))
        else:
            collect(map(function, starts, stops))
    return found
