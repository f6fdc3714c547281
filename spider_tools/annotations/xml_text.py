"""XML of annotations: elements and their numbers, without anything that XML could do beyond holding them."""

import xml.etree.ElementTree as ET
from typing import Any, Optional

import numpy as np


class _NoDoctype(ET.TreeBuilder):
    def doctype(self, name: str, pubid: Optional[str], system: Optional[str]) -> None:
        raise ValueError("it has a DOCTYPE, in which entities may grow without end; expected plain elements")


def parse_xml(content: bytes) -> ET.Element:
    """The root.

    The parser tells of a DOCTYPE before it has read any entity from it, whatever the encoding of the text.

    Raises:
        ValueError: It is not well-formed, of an encoding that is unknown, or has a DOCTYPE.
    """
    parser = ET.XMLParser(target=_NoDoctype())
    try:
        parser.feed(content)
        return parser.close()
    except (ET.ParseError, LookupError) as error:
        raise ValueError(f"it is no XML: {error}") from error


def points_of(elements: Any, where: str) -> np.ndarray:
    """The attributes X and Y of elements, float64 `(points, 2)`; the numbers may have a comma for their point."""
    points = [[number_of(element.get(name), f"{name} of {where}") for name in ("X", "Y")] for element in elements]
    return np.array(points, dtype=np.float64).reshape(-1, 2)


def number_of(text: Optional[str], where: str) -> float:
    """A number that may be infinite or none.

    Raises:
        ValueError: It is missing, or is something else.
    """
    try:
        return float((text or "").replace(",", "."))
    except ValueError as error:
        raise ValueError(f"{where} is {(text or '')[:40]!r}, expected a number") from error
