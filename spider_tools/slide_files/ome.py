"""What the OME-XML in the first description of a TIFF says of its images."""

import math
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import Optional

from ..annotations.xml_text import parse_xml

_OME = re.compile(r"<(\w+:)?OME[\s>]")
_UM = {
    "m": 1e6,
    "dm": 1e5,
    "cm": 1e4,
    "mm": 1e3,
    "\u00b5m": 1.0,  # the micro sign, and the Greek letter that looks like it
    "\u03bcm": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "micrometre": 1.0,
    "nm": 1e-3,
    "pm": 1e-6,
    "\u00c5": 1e-4,  # the letter, and the sign of the unit
    "\u212b": 1e-4,
    "in": 25400.0,
    "inch": 25400.0,
    "thou": 25.4,
    "pt": 25400 / 72,
    "ft": 304800.0,
}


@dataclass(frozen=True)
class OmeImage:
    """One image of an OME-TIFF.

    Attributes:
        name: Such as "label", often "".
        size: `(width, height)` in px.
        planes: How many focal planes, times and channels beside the colours of a px it has.
        directory: Which directory of the file holds its first plane.
        is_elsewhere: Whether its px lie in another file.
        mpp: `(x, y)`, um per px, if both are said in a unit of length.
        power: Magnification of the objective, if it is said.
    """

    name: str
    size: tuple[int, int]
    planes: tuple[int, int, int]
    directory: int
    is_elsewhere: bool
    mpp: Optional[tuple[float, float]]
    power: Optional[float]


def um_of_unit(unit: str) -> Optional[float]:
    """How many um a unit has; None for pixels and whatever else is no length."""
    return _UM.get(unit.strip())


def positive(text: Optional[str]) -> Optional[float]:
    """A finite number above 0, which may have a comma for its point; None for any other text."""
    try:
        value = float((text or "").replace(",", "."))
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def read_ome(description: str) -> list[OmeImage]:
    """The images that a description lists; none if it is no OME-XML.

    Raises:
        ValueError: It begins as OME-XML and is no XML.
    """
    if _OME.search(description[:4096]) is None:
        return []
    root = parse_xml(re.sub(r"^\s*<\?xml.*?\?>", "", description, count=1, flags=re.DOTALL).encode())
    return [_image(root, element) for element in root.iter() if _name(element) == "Image"]


def _image(root: ET.Element, image: ET.Element) -> OmeImage:
    pixels = next(iter(_all(image, "Pixels")), ET.Element("Pixels"))
    samples = [_count(channel.get("SamplesPerPixel")) for channel in _all(pixels, "Channel")]
    channels = len(samples) if samples else 1
    if sum(samples) != _count(pixels.get("SizeC")) and max(samples, default=1) == 1:
        channels = _count(pixels.get("SizeC"))  # of channels that are not described
    data = _all(pixels, "TiffData")
    uuids = {(inner.text or "").strip() for element in data for inner in _all(element, "UUID")}
    own = root.get("UUID")
    return OmeImage(
        image.get("Name") or "",
        (_count(pixels.get("SizeX"), 0), _count(pixels.get("SizeY"), 0)),
        (_count(pixels.get("SizeZ")), _count(pixels.get("SizeT")), channels),
        min((_count(element.get("IFD"), 0) for element in data), default=0),
        bool(uuids) and own is not None and own not in uuids,
        _mpp(pixels),
        _power(root, image),
    )


def _mpp(pixels: ET.Element) -> Optional[tuple[float, float]]:
    found = []
    for axis in "XY":
        um = um_of_unit(pixels.get(f"PhysicalSize{axis}Unit", "um"))
        value = positive(pixels.get(f"PhysicalSize{axis}"))
        if um is None or value is None:
            return None
        found.append(value * um)
    return (found[0], found[1])


def _power(root: ET.Element, image: ET.Element) -> Optional[float]:
    """Of the objective that the image names, or of the only one."""
    objectives = _all(root, "Objective")
    named = {element.get("ID") for element in _all(image, "ObjectiveSettings")}
    chosen = [objective for objective in objectives if objective.get("ID") in named] if named else objectives
    return positive(chosen[0].get("NominalMagnification")) if len(chosen) == 1 else None


def _name(element: ET.Element) -> str:
    return str(element.tag).rsplit("}", 1)[-1]


def _all(element: ET.Element, name: str) -> list[ET.Element]:
    return [inner for inner in element.iter() if _name(inner) == name]


def _count(text: Optional[str], default: int = 1) -> int:
    try:
        return max(int(text or default), 0)
    except ValueError:
        return default
