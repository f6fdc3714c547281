"""Packing of a data set into parts of one tar archive, as the published ones lie on the Hub."""

import tarfile
from pathlib import Path
from typing import IO

from tqdm import tqdm

PART_BYTES = 4 << 30


def write_parts(folder: Path, target: Path, name: str, part_bytes: int = PART_BYTES) -> list[Path]:
    """Pack images/ and metadata.json into parts of one tar archive; the same files give the same bytes.

    Args:
        folder: Of the data set.
        target: Gets `NAME.tar.000` and so on.
        name: Of the archive.
        part_bytes: Most bytes of a part.
    """
    files = [folder / "metadata.json", *sorted(p for p in (folder / "images").iterdir() if not p.name.startswith("."))]
    parts = _Parts(target, name, part_bytes)
    with parts, tarfile.open(fileobj=parts, mode="w|", format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
        for path in tqdm(files, desc="packing", unit="file"):
            member = tarfile.TarInfo(str(path.relative_to(folder)))
            member.size = path.stat().st_size
            with open(path, "rb") as file:
                tar.addfile(member, file)
    return parts.paths


class _Parts:
    """A file to write to that becomes several, none longer than so many bytes."""

    def __init__(self, target: Path, name: str, part_bytes: int) -> None:
        self.paths: list[Path] = []
        self._target, self._name, self._most = target, name, part_bytes
        self._file: IO[bytes] | None = None
        self._left = 0

    def __enter__(self) -> "_Parts":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, content: bytes) -> int:
        """Write bytes, on into new parts as the last ones are full."""
        rest = memoryview(content)
        while len(rest):
            if self._file is None or self._left == 0:
                self.__exit__()
                self.paths.append(self._target / f"{self._name}.tar.{len(self.paths):03d}")
                self._file, self._left = open(self.paths[-1], "wb"), self._most
            written = self._file.write(rest[: self._left])
            self._left, rest = self._left - written, rest[written:]
        return len(content)
