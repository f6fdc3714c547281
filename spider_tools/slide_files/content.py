"""What tells the content of a slide from that of another one of the same size."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from .dicom import files_of_series

# A slide of gigabytes is not read as a whole to see whether it is another one: 4 MB of it, spread over all of it.
_SAMPLES = 64
_SAMPLE_BYTES = 1 << 16


def files_of_slide(path: Path, vendor: str, properties: Mapping[str, str]) -> list[Path]:
    """The files that a slide is made of.

    Args:
        path: The one by which it is opened.
        vendor: What OpenSlide calls its format.
        properties: OpenSlide's.
    """
    if vendor == "dicom":
        return files_of_series(path)
    if vendor == "mirax":
        return [path, *(file for file in sorted(path.with_suffix("").iterdir()) if file.is_file())]
    if vendor == "hamamatsu":  # .vms and .vmu name the files beside them that hold the pixels
        named = {path.parent / Path(value).name for value in properties.values() if value and len(value) < 256}
        return sorted({path, *(file for file in named if file.is_file())})
    return [path]


def content_sha256(files: Sequence[Path]) -> str:
    """A digest of files, whatever they are called: of all of them if they are small, else of samples of them.

    Samples lie at the head, at the tail and evenly between, 64 of 64 KiB over all files, but at least two of each. A
    slide that was scanned, stained or compressed anew differs in all of them; a change of a few bytes in the middle of
    gigabytes may lie between them.
    """
    samples = max(2, _SAMPLES // len(files))
    digests = sorted(_file_sha256(file, samples) for file in files)
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def older_identity(identity: Mapping[str, Any]) -> Optional[dict[str, Any]]:
    """The identity that versions up to 0.2 gave a slide, which had no content; None if it did not tell slides apart.

    OpenSlide's hash is of the pixels of the lowest level, but that of a DICOM slide is of its series' name, and where
    that level is large there is none.
    """
    if not identity.get("quickhash") or identity["format"] == "dicom":
        return None
    return {key: value for key, value in identity.items() if key != "content"}


def _file_sha256(path: Path, samples: int) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= samples * _SAMPLE_BYTES:
            digest.update(file.read())
        else:
            for number in range(samples):
                file.seek((size - _SAMPLE_BYTES) * number // (samples - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()
