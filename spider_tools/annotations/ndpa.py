"""NDPA of Hamamatsu's NDP.view: objects in nm from the centre of the glass slide."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..plain_text import escaped
from .classes import clean_class_name
from .drawn import DrawnObject, Tally
from .frame import Frame
from .shapes import ellipse, rectangle
from .xml_text import number_of

_NO_AREAS = {"pin": "pins", "linearmeasure": "rulers", "pointer": "arrows"}


def read_ndpa(root: Any, frame: Frame, tally: Tally) -> Iterator[DrawnObject]:
    """The objects with areas, their titles as classes.

    Raises:
        ValueError: The slide does not say where its scan lies on the glass, coordinates are in another unit than nm,
            or are no numbers.
    """
    if frame.center_offset_nm is None:
        raise ValueError(
            f"its coordinates count from the centre of the glass slide, and {escaped(frame.name)} does not say where "
            "its scan lies on the glass, expected the NDPI or VMS file of Hamamatsu on which they were drawn"
        )
    for number, state in enumerate(root.iterfind("ndpviewstate")):
        unit = (state.findtext("coordformat") or "nanometers").strip()
        if unit != "nanometers":
            raise ValueError(f"object {number} has coordinates in {unit[:40]!r}, expected nanometers")
        annotation = state.find("annotation")
        kind = "" if annotation is None else annotation.get("type", "").strip().casefold()
        is_open = kind == "freehand" and (annotation.findtext("closed") or "").strip() != "1"
        class_name = clean_class_name(state.findtext("title") or "")
        if is_open or kind not in ("freehand", "rectangle", "circle"):
            tally.left_out["open lines" if is_open else _NO_AREAS.get(kind, "of an unknown type")] += 1
        else:
            yield DrawnObject(number, class_name, ((_ring(annotation, kind, frame, f"object {number}"),),))


def _ring(annotation: Any, kind: str, frame: Frame, where: str) -> np.ndarray:
    if kind == "circle":
        center = _numbers([annotation], where)
        radius = number_of(annotation.findtext("radius"), f"radius of {where}")
        return ellipse(_to_px(np.concatenate([center - radius, center + radius]), frame))
    points = _to_px(_numbers(annotation.iterfind("pointlist/point"), where), frame)
    return rectangle(points) if kind == "rectangle" else points


def _numbers(elements: Any, where: str) -> np.ndarray:
    """The children x and y of elements, float64 `(points, 2)`."""
    found = [[number_of(element.findtext(name), f"{name} of {where}") for name in ("x", "y")] for element in elements]
    return np.array(found, dtype=np.float64).reshape(-1, 2)


def _to_px(nm: np.ndarray, frame: Frame) -> np.ndarray:
    from_center = (nm - np.array(frame.center_offset_nm)) / (1000 * np.array(frame.own_mpp or frame.mpp))
    return from_center + np.array(frame.size) / 2
