"""Ids of the Hub, and its errors in words: one sentence for one cause, in every room."""

import re
from pathlib import Path

REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_id(source: str) -> bool:
    """Whether a source has the form `org/name` and is no path on this machine."""
    return bool(REPO_ID.fullmatch(source)) and not Path(source).exists()
