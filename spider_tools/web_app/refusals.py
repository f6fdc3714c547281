"""What is said of an upload that cannot be used: one sentence, without folders of this machine."""

import logging
import re
from pathlib import Path
from typing import Optional

from ..plain_text import escaped
from ..scripts import FORESEEN

logger = logging.getLogger(__name__)

UPLOAD = "upload"
"""Name of the folder that holds a visitor's file while an answer is made of it."""
_OWN_FAULT = "Something broke here that is no fault of the file. The log of this app says what; please try again."


def checked_upload(path: Optional[str], most_bytes: int, what: str) -> Path:
    """The file that was uploaded.

    Args:
        path: Of gradio; None if nothing was uploaded.
        most_bytes: Largest size.
        what: Is expected, for the message.

    Raises:
        ValueError: There is none, it is empty, or too large.
    """
    if path is None:
        raise ValueError(f"No file has come: upload {what} first.")
    found = Path(path)
    size = found.stat().st_size
    if size == 0:
        raise ValueError(f"{found.name} is empty: expected {what}.")
    if size > most_bytes:
        raise ValueError(f"{found.name} has {size / 1e6:,.1f} MB, expected {most_bytes / 1e6:,g} MB at most.")
    return found


def sentence_of(error: BaseException, path: Optional[str], work: Optional[Path] = None) -> str:
    """What a visitor is told of an error; one that nobody foresaw goes to the log, with where it came from.

    Args:
        error: Whatever a file led to.
        path: Of the file, which the visitor knows by its name alone.
        work: Folder of folders in which answers are made, and the upload is held under `UPLOAD`.
    """
    if not isinstance(error, FORESEEN):
        logger.error("An upload broke this app", exc_info=error)
        return _OWN_FAULT
    logger.debug("An upload was refused", exc_info=error)
    text = str(error)
    if work is not None:
        text = re.sub(rf"{re.escape(str(work.resolve()))}(/[^/\s]+/({UPLOAD}/)?)?", "", text)
    if path is not None:
        text = text.replace(str(Path(path).resolve()), Path(path).name).replace(path, Path(path).name)
    text = re.sub(r"\bas --mpp\b", "in the field um/px", text)
    return escaped(" ".join(text.replace("--mpp", "the field um/px").split()))
