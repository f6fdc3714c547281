"""XML of ASAP: annotations whose groups are their classes."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from .classes import clean_class_name
from .drawn import DrawnObject, Tally
from .shapes import rectangle
from .xml_text import number_of, points_of

_AREAS = ("polygon", "spline", "rectangle")
_NO_AREAS = {"dot": "points", "pointset": "points", "measurement": "rulers"}
_NO_GROUP = "none"


def read_asap(root: Any, tally: Tally) -> Iterator[DrawnObject]:
    """The objects with areas, their groups as classes; coordinates are level-0 px.

    Raises:
        ValueError: A coordinate is no number.
    """
    for number, annotation in enumerate(root.iterfind("Annotations/Annotation")):
        kind = annotation.get("Type", "").strip().casefold()
        group = clean_class_name(annotation.get("PartOfGroup", ""))
        if kind not in _AREAS:
            tally.left_out[_NO_AREAS.get(kind, "of an unknown type")] += 1
            continue
        tally.changed["splines (taken as polygons through their points)"] += kind == "spline"
        points = _points(annotation, f"annotation {number}")
        ring = rectangle(points) if kind == "rectangle" else points
        yield DrawnObject(number, "" if group.casefold() == _NO_GROUP else group, ((ring,),))


def _points(annotation: Any, where: str) -> np.ndarray:
    coordinates = annotation.findall("Coordinates/Coordinate")
    if all(coordinate.get("Order") is not None for coordinate in coordinates):
        coordinates.sort(key=lambda coordinate: number_of(coordinate.get("Order"), f"Order of {where}"))
    return points_of(coordinates, where)
