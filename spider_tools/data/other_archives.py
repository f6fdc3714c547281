"""Archives of kinds that are not read here: which they are, and the command that unpacks them."""

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

logger = logging.getLogger(__name__)

_PART = r"(?:\.(?:part[-_.]?)?[0-9a-z]+)?"
# Programs that decompress a tar file, by the ending behind `.tar`.
_PROGRAMS = {
    "zst": "zstd",
    "zstd": "zstd",
    "lz4": "lz4",
    "lz": "lzip",
    "lzma": "xz",
    "lzo": "lzop",
    "br": "brotli",
    "Z": "uncompress",
    "sz": "snzip",
}
_NO_PARTS = ("md5", "txt", "bz2")  # endings as long as those, of other files
_SHORT = {"tzst": "zstd", "tlz": "lzip", "taz": "uncompress"}
_COMPRESSED_TAR = re.compile(rf"(?P<archive>.+\.tar\.(?P<kind>{'|'.join(_PROGRAMS)})){_PART}")
_CONTAINERS = {"zip": "unzip", "z01": "unzip", "7z": "7z x", "rar": "unrar x", "r00": "unrar x"}
_CONTAINER = re.compile(rf"(?P<archive>.+\.(?P<kind>{'|'.join(_CONTAINERS)}))(?:\.\d+)?", re.IGNORECASE)
_DOCUMENTS = ("", ".md", ".txt", ".json", ".yaml", ".yml", ".pdf", ".csv", ".xlsx", ".html", ".py")


def refuse_compressed_tars(folder: Path, names: Sequence[str]) -> None:
    """Refuse tar files, whole or in parts, of a compression that cannot be read.

    Args:
        folder: That they lie in.
        names: Of its files.

    Raises:
        ValueError: There is one; the message says how to unpack it.
    """
    for name in names:
        match = _COMPRESSED_TAR.fullmatch(name)
        program = _PROGRAMS[match["kind"]] if match else _SHORT.get(name.rpartition(".")[2])
        if program is None or (match and _is_part(name, match["kind"], names)):
            continue
        whole = match is None or match["archive"] == name
        source = f"{program} -dc {name}" if whole else f"cat {match['archive'] if match else name}.* | {program} -dc"
        raise ValueError(
            f"{folder / name}: tar files compressed by {program} cannot be read here. Unpack it with "
            f"`{source} | tar -x` into a folder, and name that. Tar files are read plain, or as .gz, .bz2 and .xz."
        )


def _is_part(name: str, kind: str, names: Sequence[str]) -> bool:
    """Whether NAME.tar.zst is one of the parts that `split` writes, between NAME.tar.zss and NAME.tar.zsu."""
    part = re.compile(re.escape(name.removesuffix(kind)) + rf"[a-z0-9]{{{len(kind)}}}")
    others = (other for other in names if part.fullmatch(other))
    return name.endswith(kind) and any(other.rpartition(".")[2] not in (*_PROGRAMS, *_NO_PARTS) for other in others)


def refuse_containers(folder: Path, files: Iterable[Path], tars: bool) -> None:
    """Refuse ZIP, 7z and RAR files where there is nothing else to read; warn of them beside tar files.

    Args:
        folder: That they lie in.
        files: What it holds.
        tars: Whether there are tar files among that.

    Raises:
        ValueError: There is one, and nothing else but documents.
    """
    files = list(files)
    found = [(path, match) for path in files if (match := _CONTAINER.fullmatch(path.name))]
    if not found:
        return
    path, match = found[0]
    if tars:
        logger.warning("%s is no tar file and is not read, the tar files beside it are.", path)
        return
    others = {path for path, _ in found}
    if all(path in others or (path.is_file() and path.suffix in _DOCUMENTS) for path in files):
        raise ValueError(
            f"{path} cannot be read here: expected a folder, or tar files. Unpack it with "
            f"`{_CONTAINERS[match['kind'].lower()]} {path.name}` into a folder, and name that."
        )
