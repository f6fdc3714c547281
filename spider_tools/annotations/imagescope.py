"""XML of Aperio ImageScope: layers of regions, of which some are holes."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from .classes import clean_class_name
from .drawn import DrawnObject, Tally
from .shapes import ellipse, rectangle
from .xml_text import points_of

_POLYGON, _RECTANGLE, _ELLIPSE = "0", "1", "2"
_NO_AREAS = {"3": "arrows", "4": "rulers"}
_DEFAULT_ATTRIBUTE = "Description"


def read_imagescope(root: Any, tally: Tally) -> Iterator[DrawnObject]:
    """The regions with areas, and the holes; their coordinates are level-0 px.

    Raises:
        ValueError: A coordinate is no number.
    """
    number = -1
    for layer_number, layer in enumerate(root.iterfind("Annotation")):
        layer_class = clean_class_name(layer.get("Name", "")) or _class_of_attributes(layer)
        for region in layer.iterfind("Regions/Region"):
            number += 1
            kind = region.get("Type", _POLYGON).strip()
            is_hole = region.get("NegativeROA", "0").strip() == "1"
            class_name = layer_class or clean_class_name(region.get("Text", "")) or _class_of_attributes(region)
            if kind not in (_POLYGON, _RECTANGLE, _ELLIPSE):
                tally.left_out[_NO_AREAS.get(kind, "of an unknown type")] += 1
                continue
            points = points_of(region.iterfind("Vertices/Vertex"), f"region {number}")
            yield DrawnObject(number, class_name, ((_ring(kind, points),),), layer_number, is_hole)


def _class_of_attributes(element: Any) -> str:
    """What a layer or a region is described as: the value of its description, or the name of another attribute."""
    for attribute in element.iterfind("Attributes/Attribute"):
        name, value = (clean_class_name(attribute.get(key, "")) for key in ("Name", "Value"))
        found = value if name in ("", _DEFAULT_ATTRIBUTE) else name
        if found:
            return found
    return ""


def _ring(kind: str, points: np.ndarray) -> np.ndarray:
    if kind == _ELLIPSE:
        return ellipse(points)
    return rectangle(points) if kind == _RECTANGLE else points
