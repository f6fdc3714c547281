"""Rings that people drew become valid polygons."""

from typing import Any

import numpy as np
import shapely

from .drawn import DrawnObject, Rings, Tally

NO_AREA = "without an area"
_HUGE = 1e9  # px: what lies beyond is on no slide, and sums of it overflow
_NOWHERE = shapely.box(-2, -2, -1, -1)  # outside of every slide


def shape_of(drawn: DrawnObject, tally: Tally) -> Any:
    """What an object covers: a valid Polygon or MultiPolygon, or None where it has no area, which is counted.

    An object with coordinates beyond those of any slide becomes a square outside of every slide.
    """
    rings = [ring for polygon in drawn.polygons for ring in polygon]
    if not all(np.isfinite(ring).all() for ring in rings):
        tally.left_out["with coordinates that are not finite"] += 1
        return None
    if any((np.abs(ring) > _HUGE).any() for ring in rings):
        return _NOWHERE
    repaired = [_polygon(polygon) for polygon in drawn.polygons]
    shape = areas_of(shapely.union_all([shape for shape, _ in repaired]) if len(repaired) != 1 else repaired[0][0])
    if shape.is_empty:
        tally.left_out[NO_AREA] += 1
        return None
    tally.changed["crossing themselves (all that they enclose is taken)"] += any(crosses for _, crosses in repaired)
    return shape


def areas_of(shape: Any) -> Any:
    """What of a geometry has an area: lines and points, as cutting leaves them, are dropped."""
    if shape.geom_type in ("Polygon", "MultiPolygon"):
        return shape
    return shapely.union_all([part for part in shapely.get_parts(shape) if part.geom_type.endswith("Polygon")])


def ellipse(points: np.ndarray) -> np.ndarray:
    """The ring of the upright ellipse that fills the box around points, float64 `(128, 2)`; 0.04% too small."""
    if len(points) < 2:
        return points
    low, high = points.min(axis=0), points.max(axis=0)
    angles = np.linspace(0, 2 * np.pi, 128, endpoint=False)
    with np.errstate(all="ignore"):  # of coordinates that are not finite, which are found later
        return (low + high) / 2 + (high - low) / 2 * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def rectangle(points: np.ndarray) -> np.ndarray:
    """The ring of a rectangle: its corners, in their order, or an upright one from two opposite corners."""
    if len(points) != 2:
        return points
    (left, top), (right, bottom) = points
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def _polygon(rings: Rings) -> tuple[Any, bool]:
    """A valid shape, and whether the rings cross themselves or each other."""
    outer, *holes = [ring if len(ring) >= 3 else None for ring in rings] or [None]
    if outer is None:
        return shapely.Polygon(), False
    polygon = shapely.Polygon(outer, [hole for hole in holes if hole is not None])
    if polygon.is_valid:
        return polygon, False
    # The default method and buffer(0) take the inside of a line that runs round twice for a hole, or lose a bow-tie's
    # wing; the default also takes minutes for some hundred crossings.
    return shapely.make_valid(polygon, method="structure", keep_collapsed=False), True
