"""The remote-code files themselves: whether they can be copied, and whether those of two folders get mixed up."""

import contextlib
import glob
import hashlib
import os
import stat
from typing import Any

from transformers.utils import logging

logger = logging.get_logger(__name__)

# Digests of the code of folders that models were loaded from; kept when Transformers 4 executes this module again.
_CODE_OF: dict[str, str] = globals().get("_CODE_OF", {})


def make_replaceable() -> None:
    """Let this process overwrite copies of these files: those of a read-only repository are read-only too."""
    for path in glob.glob(os.path.join(os.path.dirname(__file__), "*_spider.py")):
        mode = os.stat(path).st_mode
        if not mode & stat.S_IWUSR:
            with contextlib.suppress(OSError):  # somebody else's cache
                os.chmod(path, mode | stat.S_IWUSR)


def warn_of_other_code(folder: Any) -> None:
    """Tell of a folder whose code differs from that of another one of its name, which this process has loaded too.

    Transformers 4 keeps one module for both: whatever was loaded from the first then runs code of the second.
    """
    folder = os.path.abspath(os.fspath(folder)) if isinstance(folder, (str, os.PathLike)) else ""
    files = sorted(glob.glob(os.path.join(glob.escape(folder), "*_spider.py")))
    if not files or os.path.basename(folder) not in __name__.split("."):
        return
    digest = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            digest.update(file.read())
    _CODE_OF[folder] = digest.hexdigest()
    others = sorted(other for other, code in _CODE_OF.items() if code != _CODE_OF[folder])
    if others:
        logger.warning(
            f"{folder} and {others[0]} have one name and different code, and Transformers keeps one of the two: models "
            "of the other run it. Load them in processes of their own, or rename a folder."
        )
