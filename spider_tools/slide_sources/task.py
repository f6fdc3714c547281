"""One slide of a run, before it is opened."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from ..plain_text import escaped
from .addresses import public_address

COHORT_TABLE, COHORT_PAGE = "cohort.csv", "cohort.html"
"""What the output folder holds beside the folders of slides."""

_MOST_BYTES = 200  # file systems take 255
_SHOWN = 60
# With any extension; the little digits count too.
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3]) *(\..*)?", re.IGNORECASE)


@dataclass(frozen=True)
class SlideTask:
    """One slide of a run.

    Attributes:
        path: The file. Of a slide by URL what the file is called, until it has been downloaded.
        name: Of its folder below the output folder.
        mpp: um per px of level 0, instead of what the file says.
        mask: A drawing of its tissue.
        problem: Why it cannot be classified, where that is known before it is opened; its name is then no folder's.
        more: Other cells of its row of a manifest, by column.
        manifest_folder: What paths among these are relative to.
        url: Where it is to be downloaded from, if it is no file here. It may hold passwords: show `address`.
    """

    path: Path
    name: str
    mpp: Optional[float] = None
    mask: Optional[Path] = None
    problem: str = ""
    more: Mapping[str, str] = field(default_factory=dict, compare=False)
    manifest_folder: Optional[Path] = None
    url: str = field(default="", repr=False)

    @property
    def address(self) -> str:
        """Where the slide is, as anybody may know it."""
        return public_address(self.url) if self.url else escaped(str(self.path))


def checked_name(name: str, source: Any) -> str:
    """A name that is one folder below the output folder, whatever a file or a manifest is called.

    Args:
        name: Of the folder.
        source: What gives it, for the message.

    Raises:
        ValueError: It would leave the output folder, or not all file systems and no program could use it.
    """
    problem = _problem_of(name)
    if problem:
        shown = repr(name if len(name) <= _SHOWN else f"{name[:_SHOWN]}...")
        raise ValueError(
            f"{source} gives the name {shown} for its folder of results, which {problem}. Give another one in a "
            "manifest."
        )
    return name


def _problem_of(name: str) -> str:
    if name in ("", ".", "..") or name != Path(name).name or "\\" in name:
        return "is no folder below another one"
    if not name.isprintable():
        return "holds characters that cannot be printed"
    if name.startswith("."):
        return "is hidden, as what runs keep for themselves"
    if name.endswith((".", " ")) or _RESERVED.fullmatch(name):
        return "Windows cannot have"
    if name.casefold() in (COHORT_TABLE, COHORT_PAGE):
        return "is that of the table of all slides"
    if len(name.encode()) > _MOST_BYTES:
        return f"has {len(name.encode())} bytes, expected {_MOST_BYTES} at most"
    return ""
