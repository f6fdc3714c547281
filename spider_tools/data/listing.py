"""Which files a data set's folder holds, and which of their names say a split."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from .image_files import IMAGE_FORMATS

_LITTER = {"thumbs.db", "desktop.ini"}
_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
_FILLERS = {"set", "data", "dataset", "split", "image", "images", "imgs"}
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_JOINED = re.compile(rf"({'|'.join(_SPLIT_WORDS)})({'|'.join(_FILLERS)})")


def visible_files(folder: Path) -> list[str]:
    """The files below a folder, relative to it and with `/`, in alphabetical order; hidden ones are left out.

    Raises:
        ValueError: A folder in it is a symbolic link, which is not followed.
    """
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            if os.path.islink(os.path.join(place, name)):
                raise ValueError(
                    f"{os.path.join(place, name)} is a symbolic link to a folder, which is not followed: what changes "
                    "behind it would go unseen. Put the folder itself there."
                )
        prefix = os.path.relpath(place, folder).replace(os.sep, "/") + "/"
        prefix = "" if prefix == "./" else prefix
        found += [f"{prefix}{name}" for name in names if not name.startswith(".") and name.lower() not in _LITTER]
    return sorted(found)


def images_among(files: Iterable[str]) -> list[str]:
    """Those with an ending of `IMAGE_FORMATS`, in the same order."""
    known = Image.registered_extensions()
    endings = tuple(ending for ending, kind in known.items() if kind in (*IMAGE_FORMATS, "MPO"))
    return [file for file in files if file.lower().endswith(endings)]


def split_of_folder(name: str) -> str | None:
    """The split that a folder is named for, in any case: `"Train"`, `"val"`, `"TEST_SET"`; None for other names."""
    words = [word for word in _words(name) if word not in _FILLERS]
    return _SPLIT_WORDS.get(words[0]) if len(words) == 1 else None


def split_in_name(name: str) -> str | None:
    """The one split that the words of a file's or folder's name mention; None where they mention none or several."""
    mentioned = {_SPLIT_WORDS[word] for word in _words(name) if word in _SPLIT_WORDS}
    return mentioned.pop() if len(mentioned) == 1 else None


def mentions_split(name: str) -> bool:
    """Whether a word of a name is one for a split."""
    return any(word in _SPLIT_WORDS for word in _words(name))


def _words(name: str) -> list[str]:
    """The words of a name in lower case: three of `"TrainSet-2"`, and two of `"testset"`."""
    words: list[str] = []
    for word in map(str.lower, _WORD.findall(name)):
        joined = _JOINED.fullmatch(word)
        words += joined.groups() if joined else (word,)
    return words
