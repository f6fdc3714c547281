"""What a TIFF itself says of the size of its px: resolution tags, OME-XML, and the description as it stands."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from tifffile import TiffFile, TiffPage

from ..plain_text import escaped
from .file_check import TIFF_ERRORS, is_tiff
from .ome import OmeImage, positive, read_ome, um_of_unit

logger = logging.getLogger(__name__)

# By the number in ResolutionUnit; 1 stands for no unit. The last two are no standard, but unmistakable.
_UM_OF_UNIT = {2: 25400.0, 3: 10000.0, 4: 1000.0, 5: 1.0}
_INCH = 2  # which the standard takes where nothing is said


@dataclass(frozen=True)
class TiffText:
    """What a TIFF says of one of its images.

    Attributes:
        resolution: `(x, y)`, um per px by its resolution tags, plausible or not; None where they say nothing.
        resolution_source: What those are, in words.
        ome: The image in its OME-XML.
        description: Of the directory.
    """

    resolution: Optional[tuple[float, float]] = None
    resolution_source: str = ""
    ome: Optional[OmeImage] = None
    description: str = ""


def read_tiff_text(path: Path, size: tuple[int, int], directory: Optional[int] = None) -> TiffText:
    """What a TIFF says of the px of an image; nothing of a file of another kind.

    Args:
        path: The file.
        size: `(width, height)` of the image in px. What is said of an image of another size is not of this one.
        directory: Which one holds the image; the first one of this size if None.
    """
    if not is_tiff(path):
        return TiffText()
    try:
        with open_tiff(path) as tiff:
            pages = pages_of(tiff)
            if directory is None:
                fitting = (number for number, page in enumerate(pages) if size_of(page) == size)
                directory = next(fitting, None)
            if directory is None:
                return TiffText()
            page = pages[directory]
            images = ome_images(path, pages[0])
            named = [image for image in images if image.size == size and image.directory == directory]
            return TiffText(*_resolution(page), named[0] if named else None, page.description)
    except TIFF_ERRORS:  # what is wrong with it is told by who reads its px
        return TiffText()


def open_tiff(path: Path) -> TiffFile:
    """A TIFF alone: OME-XML may name other files, which may be any."""
    return TiffFile(path, _multifile=False, _useframes=False)


def pages_of(within: Any) -> list[TiffPage]:
    """The directories of a file, or the SubIFDs of a directory."""
    return list(within.pages or ())


def ome_images(path: Path, first: TiffPage) -> list[OmeImage]:
    """The images of which an OME-TIFF tells; none of another TIFF, or where its XML is broken, which is logged."""
    try:
        return read_ome(first.description)
    except ValueError as error:
        logger.warning("%s: its OME-XML is not read: %s.", escaped(path.name), error)
        return []


def size_of(page: TiffPage) -> tuple[int, int]:
    """`(width, height)` in px of a directory's image."""
    return (int(page.imagewidth), int(page.imagelength))


def image_j_fields(description: str) -> dict[str, str]:
    """What ImageJ notes of an image, by name; nothing where another program wrote the description."""
    if not description.startswith("ImageJ="):
        return {}
    pairs = (line.partition("=") for line in description.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _resolution(page: TiffPage) -> tuple[Optional[tuple[float, float]], str]:
    """um per px by the resolution tags, and what to call them."""
    per_unit = [_ratio(page.tags.valueof(name)) for name in ("XResolution", "YResolution")]
    unit = image_j_fields(page.description).get("unit")
    if unit is not None:  # in which ImageJ counts, whatever the tag says
        um = um_of_unit(_unescaped(unit))
        source = "the TIFF's resolution tags in ImageJ's unit"
    else:
        um = _UM_OF_UNIT.get(int(page.tags.valueof("ResolutionUnit", default=_INCH) or 0))
        source = "the TIFF's resolution tags"
    if um is None or None in per_unit:
        return (None, "")
    return ((um / per_unit[0], um / per_unit[1]), source)  # type: ignore[operator]


def _unescaped(unit: str) -> str:
    """ImageJ writes the micro sign as it does in Java."""
    return unit.replace("\\u00B5", "\u00b5").replace("\\u00b5", "\u00b5")


def _ratio(value: Any) -> Optional[float]:
    """The number of a tag that is a fraction, None if it is not above 0."""
    try:
        numerator, denominator = value if isinstance(value, tuple) else (value, 1)
        return positive(str(numerator / denominator))
    except (TypeError, ValueError, ZeroDivisionError):
        return None
