"""GeoJSON as QuPath and others write it: its objects, their classes and their geometries."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from .classes import IGNORED, clean_class_name, is_ignored
from .drawn import DrawnObject, Rings
from .frame import Frame

_SKIPPED = ("Point", "MultiPoint", "LineString", "MultiLineString")


def geometries(content: Any, left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    """The geometries that may have areas: of a FeatureCollection, a Feature, a list as QuPath writes it, or of itself.

    Args:
        content: What `json.loads` gives.
        left_out: Counts, by kind, what has no area, and what is of a class that QuPath ignores.

    Raises:
        KeyError, TypeError, AttributeError: It is no GeoJSON.
        RecursionError: It is nested too deeply.
    """
    for class_name, geometry in _objects(content):
        if is_ignored(class_name):
            left_out[IGNORED] += 1
        else:
            yield from _areas(geometry, left_out)


def read_geojson(content: Any, frame: Frame, left_out: Counter[str]) -> Iterator[DrawnObject]:
    """The objects with areas, whatever their classes.

    Raises:
        ValueError: A geometry is no polygon, or its coordinates are no rings of numbers.
        KeyError, TypeError, AttributeError, RecursionError: As of `geometries`.
    """
    origin = np.array(frame.bounds[:2], dtype=np.float64)
    for number, (class_name, geometry) in enumerate(_objects(content)):
        areas = list(_areas(geometry, left_out))
        if areas:
            polygons = tuple(polygon for area in areas for polygon in _polygons(area, number, origin))
            yield DrawnObject(number, class_name, polygons)


def _objects(content: Any) -> Iterator[tuple[str, Any]]:
    """Class and geometry of each."""
    if isinstance(content, list):
        for part in content:
            yield from _objects(part)
    elif content is None:
        yield "", None
    elif content["type"] == "FeatureCollection":
        yield from _objects(content["features"])
    elif content["type"] == "Feature":
        yield _class_of(content), content["geometry"]
    else:
        yield "", content


def _areas(geometry: Any, left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    if geometry is None:
        left_out["without a geometry"] += 1
    elif geometry["type"] == "GeometryCollection":
        for part in geometry["geometries"]:
            yield from _areas(part, left_out)
    elif geometry["type"] in _SKIPPED:
        left_out[geometry["type"]] += 1
    else:
        yield geometry


def _class_of(feature: dict[str, Any]) -> str:
    """The name of a feature's class, "" without one; QuPath has written it as a name, and as a list of names."""
    found = (feature.get("properties") or {}).get("classification") or ""
    if isinstance(found, dict):
        names = found.get("names") or [found.get("name") or ""]
        found = ": ".join(str(name) for name in names)  # as QuPath shows a class that is derived from another
    return clean_class_name(str(found))


def _polygons(area: dict[str, Any], number: int, origin: np.ndarray) -> list[Rings]:
    kind, coordinates = area["type"], area["coordinates"]
    if kind not in ("Polygon", "MultiPolygon"):
        raise ValueError(f"object {number} is a {str(kind)[:40]!r}, expected a Polygon or a MultiPolygon")
    polygons = [coordinates] if kind == "Polygon" else coordinates
    return [tuple(_ring(points, number) + origin for points in rings) for rings in polygons]


def _ring(points: Any, number: int) -> np.ndarray:
    if points == []:
        return np.empty((0, 2))
    try:
        ring = np.array(points)
    except ValueError:  # lists of different lengths
        ring = np.array(None)
    if ring.ndim != 2 or ring.shape[1] < 2 or ring.dtype.kind not in "iuf":
        raise ValueError(f"the coordinates of object {number} are no rings of points, each of two numbers")
    return ring[:, :2].astype(np.float64)
