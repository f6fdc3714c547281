"""The table of all slides as a page with small pictures, which needs no other file and sorts itself in a browser."""

import base64
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional
from urllib.parse import quote

import jinja2
from PIL import Image

from ..files import replacing
from ..html_pages import page_environment
from ..images import DECODING_ERRORS
from ..plain_text import escaped
from .cohort_rows import CohortRow, class_order
from .records import key_of_name

logger = logging.getLogger(__name__)

_TEMPLATE = "cohort.html.j2"
_OVERVIEW = "overview.png"
_PICTURE_PX = 200  # of its longer side
_MOST_BYTES = 8 << 10  # of a picture
_QUALITIES = (70, 45, 20)
_MOST_BYTES_OF_PICTURES = 16 << 20  # of all of them, as text: 1,000 take 11 MB at most


def picture_of(name: str, folder: Path) -> Path:
    """Where the small picture of a slide lies; `folder` is that of the records."""
    return folder / f"{key_of_name(name)}.webp"


def keep_picture(results: Path, folder: Path) -> None:
    """Make the small picture of a slide, if it has an overview that is newer.

    Args:
        results: Folder of the slide.
        folder: Of the records.
    """
    source, target = results / _OVERVIEW, picture_of(results.name, folder)
    try:
        if target.exists() and target.stat().st_mtime_ns >= source.stat().st_mtime_ns:
            return
        with Image.open(source, formats=["PNG"]) as image:
            small = image.convert("RGB")
        small.thumbnail((_PICTURE_PX, _PICTURE_PX), Image.Resampling.LANCZOS, reducing_gap=2.0)
        content = _small_webp(small)
        with replacing(target) as unfinished:
            unfinished.write_bytes(content)
    except FileNotFoundError:
        return  # a slide that failed
    except DECODING_ERRORS as error:
        logger.warning("%s has no small picture in the table of all slides: %s.", results.name, error)


def make_page(rows: Sequence[CohortRow], folder: Path) -> str:
    """The content of cohort.html.

    Pictures are at most 8 KiB each, and are left out from where all of them would take more than 16 MiB.

    Args:
        rows: In the order of the page.
        folder: Of the records, where the pictures are.
    """
    pictures: dict[str, str] = {}
    left = _MOST_BYTES_OF_PICTURES
    without = 0
    for row in rows:
        content = _base64_of(picture_of(row.name, folder)) if row.status == "done" else None
        if content is not None and len(content) <= left:
            pictures[row.name] = content
            left -= len(content)
        else:
            without += content is not None
    counts = {status: sum(row.status == status for row in rows) for status in ("done", "failed", "unreadable")}
    return _template().render(
        rows=rows,
        classes=class_order(rows),
        failed=[row.name for row in rows if row.status == "failed"],
        pictures=pictures,
        without_picture=without,
        counts={status: count for status, count in counts.items() if count or status != "unreadable"},
        link=lambda name: f"./{quote(name, safe='')}/report.html",
    )


def _small_webp(image: Image.Image) -> bytes:
    """A picture in as good a quality as the bytes allow; a smaller one where none does."""
    while True:
        for quality in _QUALITIES:
            content = io.BytesIO()
            image.save(content, "webp", quality=quality)
            if len(content.getvalue()) <= _MOST_BYTES:
                return content.getvalue()
        image = image.reduce(2)


def _base64_of(picture: Path) -> Optional[str]:
    try:
        return base64.b64encode(picture.read_bytes()).decode("ascii")
    except OSError:
        return None


def _template() -> jinja2.Template:
    # Messages, too, come from anywhere, bytes that are no UTF-8 among them.
    environment = page_environment(
        Path(__file__).parent, finalize=lambda value: escaped(value) if type(value) is str else value
    )
    environment.filters["number"] = _number
    return environment.get_template(_TEMPLATE)


def _number(value: Any, form: str) -> str:
    return "" if value is None else form.format(value)
