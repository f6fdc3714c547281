"""Tar archives in parts: read one after the other as one stream, unpacked safely, and gone on with after a kill."""

import gzip
import itertools
import json
import logging
import lzma
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any

from tqdm.auto import tqdm

from ..files import write_text
from .caches import digest, only_one_process
from .other_archives import refuse_compressed_tars, refuse_containers
from .room_on_disk import full_disk_in_words, refuse_bomb, refuse_without_room
from .tables import BadRecord, refuse
from .tar_streams import JoinedParts, LastRead, decompressed, refuse_missing_end

logger = logging.getLogger(__name__)

_PART = re.compile(r"(?P<archive>.+\.tar(?:\.gz|\.bz2|\.xz)?)\.(?:part[-_.]?)?(?P<number>[0-9a-z]+)")
_COMPRESSIONS = {"gz", "bz2", "xz"}
_WHOLE = (".tar", ".tgz", ".tbz2", ".tbz", ".txz")
_NO_PARTS = {"md5", "sha1", "sha256", "sha512", "json", "txt"}  # what else lies beside archives under their names
_ALPHABETS = ("0123456789", "abcdefghijklmnopqrstuvwxyz", "0123456789abcdef")
_COMPLETE = ".complete.json"  # written last, lists what was left out
_UNFINISHED = ".unfinished"  # the file that is being written; one name, so that a killed run leaves one at most
_STREAM_ERRORS = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


def find_archives(folder: Path) -> dict[str, list[Path]]:
    """The archives of a folder, each with its parts in order.

    Args:
        folder: Looked through without its sub-folders, for `NAME.tar.*`, `NAME.tar`, `NAME.tgz`; not hidden ones.

    Returns:
        Archive name -> parts, in order of the names; empty if there is none.

    Raises:
        ValueError: A part is missing, or an archive is of a kind that cannot be read.
    """
    archives: dict[str, dict[str, Path]] = {}
    visible = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    refuse_compressed_tars(folder, [path.name for path in visible])
    for path in visible:
        match = _PART.fullmatch(path.name)
        if path.suffix in _WHOLE:
            archives[path.name] = {"": path}
        elif match and match["number"] not in _NO_PARTS:
            archives.setdefault(match["archive"], {})[match["number"]] = path
    for name, parts in list(archives.items()):
        # Beside other parts NAME.tar.gz is one of them, the 182nd that `split` writes.
        if set(parts) <= _COMPRESSIONS:
            del archives[name]
            archives.update({path.name: {"": path} for path in parts.values()})
    for name, parts in archives.items():
        _refuse_gaps(name, parts)
    refuse_containers(folder, visible, tars=bool(archives))
    # `split` lengthens its suffixes when they run out, so that shorter ones come first.
    return {
        name: [parts[number] for number in sorted(parts, key=lambda n: (len(n), n))] for name, parts in archives.items()
    }


def _refuse_gaps(name: str, parts: dict[str, Path]) -> None:
    numbers = sorted(parts, key=lambda n: (len(n), n))
    if numbers == [""]:
        return
    alphabet = next((a for a in _ALPHABETS if all(set(number) <= set(a) for number in numbers)), None)
    if alphabet is None:
        return  # an unknown way of numbering: a gap then shows as a damaged archive
    first = alphabet[0] * len(numbers[0])
    if numbers[0] not in (first, first[:-1] + "1"):
        raise ValueError(f"{name}: the first part is missing, the parts begin with {parts[numbers[0]].name}.")
    for number, following in itertools.pairwise(numbers):
        expected = _successors(number, alphabet)
        if following not in expected:
            missing = parts[number].name.removesuffix(number) + expected[0]
            raise ValueError(
                f"{name}: the part {missing} is missing between {parts[number].name} and {parts[following].name}. "
                "Download it again."
            )


def _successors(number: str, alphabet: str) -> list[str]:
    """The numbers that may follow: of the same width, one digit wider (9, 10), or as `split` widens (89, 9000)."""
    last = alphabet[-1]
    rest = number.rstrip(last)
    successors = []
    if rest:
        up = alphabet[alphabet.index(rest[-1]) + 1]
        successors.append(rest[:-1] + up + alphabet[0] * (len(number) - len(rest)))
        if up == last or number[0] == last:
            widened = successors[0].rstrip(alphabet[0])
            successors.append(widened + alphabet[0] * (len(number) + 2 - len(widened)))
    else:
        successors.append("1" + "0" * len(number) if alphabet[0] == "0" else alphabet[0] * (len(number) + 1))
    return successors


def unpack(archives: dict[str, list[Path]], cache_dir: Path, name: str, skip: bool) -> tuple[Path, list[BadRecord]]:
    """Unpack archives into a folder below `cache_dir`, once.

    The parts are read as one stream; beside them only the unpacked files take space. A run that is killed goes on
    where it was: files that are there already are passed over, those of a plain tar without being read.

    Args:
        archives: Of `find_archives`.
        cache_dir: Gets `unpacked/<name>-<digest>/`.
        name: What to call the folder.
        skip: Whether to leave out members that are links, devices or lie outside, rather than to raise.

    Returns:
        The folder, and the members that were left out.

    Raises:
        ValueError: An archive is damaged, truncated or a bomb, its next member has no room on the disk, or a member is
            unsafe and `skip` is false.
        OSError: The disk is full; the message names it and the setting.
    """
    parts = [part for group in archives.values() for part in group]
    key = digest([[os.path.realpath(part), part.stat().st_size, part.stat().st_mtime_ns] for part in parts])
    target = cache_dir / "unpacked" / f"{name}-{key[:16]}"
    complete = target / _COMPLETE
    if not complete.exists():
        with only_one_process(target):
            if not complete.exists():
                _unpack_all(archives, target, skip)
    bad = [BadRecord(**record) for record in json.loads(complete.read_text(encoding="utf-8"))]
    if not skip:
        refuse(bad)
    return target, bad


def _unpack_all(archives: dict[str, list[Path]], target: Path, skip: bool) -> None:
    logger.info("unpacking %d parts into %s", sum(map(len, archives.values())), target)
    bad: list[BadRecord] = []
    with full_disk_in_words(target):
        target.mkdir(parents=True, exist_ok=True)
        for archive, group in archives.items():
            _Unpacking(archive, target, skip, bad).run(group)
        write_text(target / _COMPLETE, json.dumps([vars(record) for record in bad]))


class _Unpacking:
    """One archive on its way to a folder."""

    def __init__(self, archive: str, target: Path, skip: bool, bad: list[BadRecord]) -> None:
        self._archive, self._target, self._skip, self._bad = archive, target, skip, bad

    def run(self, parts: Sequence[Path]) -> None:
        joined = JoinedParts(parts)
        with joined, tqdm(total=joined.size, desc=self._archive, unit="B", unit_scale=True, disable=None) as bar:
            try:
                stream: Any = LastRead(decompressed(joined))
                with tarfile.open(fileobj=stream, mode="r:") as tar:
                    while (member := tar.next()) is not None:
                        # The size of a sparse member is not that of what the archive holds; `_problem_of` refuses it.
                        content = 0 if member.issparse() else member.size
                        refuse_bomb(self._archive, member.offset_data + content, joined.size)
                        self._take(tar, member)
                        tar.members.clear()  # type: ignore[attr-defined] # else millions of members would stay in memory
                        bar.update(joined.tell() - bar.n)
                refuse_missing_end(stream)
            except _STREAM_ERRORS as error:
                raise ValueError(
                    f"{self._archive} is damaged or truncated in or before {joined.part.name} ({error}). Expected "
                    f"{len(parts)} whole parts, {parts[0].name} to {parts[-1].name}; download them again."
                ) from error

    def _take(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        problem = _problem_of(member)
        if problem:
            bad = BadRecord(f"member {member.name!r} of {self._archive}", "name", problem)
            if not self._skip:
                refuse([bad])
            self._bad.append(bad)
        elif member.isreg():
            path = self._target / member.name
            if not (path.is_file() and path.stat().st_size == member.size):
                refuse_without_room(f"The member {member.name!r} of {self._archive}", member.size, self._target)
                path.parent.mkdir(parents=True, exist_ok=True)
                self._write(tar.extractfile(member), path)

    def _write(self, content: IO[bytes] | None, path: Path) -> None:
        assert content is not None  # of a regular file
        unfinished = self._target / _UNFINISHED
        with content, open(unfinished, "wb") as file:
            shutil.copyfileobj(content, file, 1 << 20)
        os.replace(unfinished, path)


def _problem_of(member: tarfile.TarInfo) -> str | None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or "\0" in member.name:
        return "the path leaves the folder; expected a relative path without '..'."
    if path.parts[:1] in ((_COMPLETE,), (_UNFINISHED,)):
        return "the name is one that unpacking itself uses."
    if member.issparse():
        return "expected a file as it is, got a sparse one, which may be far longer than its archive. Pack without -S."
    if not (member.isreg() or member.isdir()):
        return "expected a file or a folder, got a link or device, which may lead out of the folder."
    return None
