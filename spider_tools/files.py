"""Files and folders are written whole or not at all, alone or several together; JSON is read with its name."""

import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

Writer = Callable[[Path], Any]
"""Writes one file to the path that it is given."""


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
        readable_as_umask_says(unfinished)
        sync(unfinished)
        if unfinished.is_dir():
            remove(path)  # a folder cannot replace one that holds something
        os.replace(unfinished, path)
    finally:
        remove(unfinished)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole or not at all."""
    with replacing(path) as unfinished:
        text_writer(text)(unfinished)


def write_together(folder: Path, writers: Mapping[str, Writer], sign: str, obsolete: Sequence[str] = ()) -> None:
    """Write several files or folders; none takes its place before all of them are written and on disk.

    One of them is the sign that the files belong together. It is written after the others and takes its name last.
    While old and new files lie side by side there is no sign, so that a process killed then leaves no mixture that
    looks whole.

    Args:
        folder: Made if it is absent.
        writers: By name of the file, what writes it.
        sign: Name of the sign, one of them.
        obsolete: Names of files and folders that belong to the old ones alone. They are removed before the old sign is,
            so that a process killed then leaves a sign that still tells of them.

    Raises:
        KeyError: No writer has the name of the sign.
        Exception: What a writer raises; all files that were there before then stay as they were.
    """
    others = {name: write for name, write in writers.items() if name != sign}
    with ExitStack() as stack:
        # The stack unwinds from its end: what is entered first takes its name last.
        unfinished = {name: stack.enter_context(replacing(folder / name)) for name in (sign, *others)}
        for name, write in {**others, sign: writers[sign]}.items():
            write(unfinished[name])
            sync(unfinished[name])  # a disk may say only now that it is full
        for name in obsolete:
            remove(folder / name)
        (folder / sign).unlink(missing_ok=True)


def require_writable(folder: Path, setting: str) -> None:
    """Refuse a folder that cannot be made or written, before the work whose results it is for; nothing is left there.

    Args:
        folder: May be absent, with any number of its parents.
        setting: What the user chose it with, as "--output_dir".

    Raises:
        OSError: There is a file in the way, a right is missing, the file system is read-only or the disk is full.
    """
    place = folder
    try:
        while not _is_there(place):
            place = place.parent
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "Not a folder")
        # A file without a name, where the system has such: processes that look at the same time do not meet.
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"x")
    except OSError as error:
        reason = f"{place}: {error.strerror}"
        raise OSError(f"{setting} {folder} cannot be written ({reason}). Choose another folder.") from error


def _is_there(path: Path) -> bool:
    """Whether something has this name, be it a link to nowhere; an error where that cannot be known."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def text_writer(text: str) -> Writer:
    """Writes a UTF-8 file, its line ends as they are."""
    return bytes_writer(text.encode("utf-8"))


def bytes_writer(content: bytes) -> Writer:
    """Writes bytes as they are."""
    return lambda path: path.write_bytes(content)


def read_json_object(path: Path, what: str = "") -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: The file.
        what: How messages call it, as "The class mapping"; by default by its path alone.

    Raises:
        ValueError: There is no such file, it cannot be read, or it holds no JSON object.
    """
    name = f"{what} {path}".strip()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ValueError(f"{name} is not valid JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{name} must hold an object, got {type(content).__name__}.")
    return content


def file_sha256(path: Path) -> str:
    """sha256 of a file's content, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def readable_as_umask_says(path: Path) -> None:
    """Give a file, or all files of a folder, the rights that new files get: safetensors writes for the owner alone.

    A new file is made to see which these are. What a killed process left of it is removed by the next one.
    """
    probe = path.with_name(f".{path.name.lstrip('.')}.rights")
    probe.unlink(missing_ok=True)
    handle = os.open(probe, os.O_CREAT | os.O_EXCL, 0o666)
    mode = stat.S_IMODE(os.fstat(handle).st_mode)
    os.close(handle)
    probe.unlink()
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file() and not file.is_symlink():
            file.chmod(stat.S_IMODE(file.stat().st_mode) | mode)


def remove(path: Path) -> None:
    """Remove a file or a folder with all that it holds, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def bytes_of(path: Path) -> int:
    """Size of a file, or of all files of a folder.

    Raises:
        FileNotFoundError: There is nothing of this name.
    """
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size


def sync(path: Path) -> None:
    """Have a file, or all files of a folder, on disk."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
