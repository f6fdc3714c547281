"""Files and folders are written whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write a file or a folder to, which takes its place when the block ends well.

    What was written is on disk before it takes the name, so that a power cut leaves the old content or the new one.
    What a killed process left under that name is removed by the next one, so writers must exclude each other.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    remove(unfinished)
    try:
        yield unfinished
        sync(unfinished)
        if unfinished.is_dir():
            remove(path)  # a folder cannot replace one that holds something
        os.replace(unfinished, path)
    finally:
        remove(unfinished)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole or not at all."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def remove(path: Path) -> None:
    """Remove a file or a folder with all that it holds, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have a file, or all files of a folder, on disk."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
