"""How much of each patch the polygons of a class cover."""

from collections.abc import Mapping, Sequence

import numpy as np
import shapely


def patch_boxes(corners: np.ndarray, size: tuple[float, float]) -> np.ndarray:
    """Rectangles of patches as shapely geometries `(n,)`, from their corners `(n, 2)` as x, y and one size."""
    return shapely.box(corners[:, 0], corners[:, 1], corners[:, 0] + size[0], corners[:, 1] + size[1])


def shares(boxes: np.ndarray, polygons: Sequence[shapely.Polygon]) -> np.ndarray:
    """The share of each box that any of the polygons covers, float64 `(n,)`, 0 to 1; overlaps count once."""
    covered = np.zeros(len(boxes))
    if not len(polygons) or not len(boxes):
        return covered
    tree = shapely.STRtree(boxes)
    for part in shapely.get_parts(shapely.unary_union(list(polygons))):
        shapely.prepare(part)
        near = tree.query(part, predicate="intersects")
        whole = shapely.covers(part, boxes[near])
        covered[near[whole]] = 1.0
        edge = near[~whole]
        covered[edge] += shapely.area(shapely.intersection(boxes[edge], part)) / shapely.area(boxes[edge])
    return covered.clip(0, 1)


def nearest_objects(boxes: np.ndarray, polygons: Sequence[shapely.Polygon], numbers: Sequence[int]) -> np.ndarray:
    """The number of the drawn object that covers most of each box, int64 `(n,)`, -1 where none does."""
    best, found = np.zeros(len(boxes)), np.full(len(boxes), -1, dtype=np.int64)
    tree = shapely.STRtree(boxes)
    areas: dict[int, np.ndarray] = {}
    for polygon, number in zip(polygons, numbers):
        near = tree.query(polygon, predicate="intersects")
        area = areas.setdefault(number, np.zeros(len(boxes)))  # an object may have several parts
        area[near] += shapely.area(shapely.intersection(boxes[near], polygon))
        closer = near[area[near] > best[near]]
        best[closer], found[closer] = area[closer], number
    return found


def overlaps(polygons: Mapping[str, Sequence[shapely.Polygon]]) -> dict[tuple[str, str], float]:
    """Areas that polygons of two classes share, in px, by the pair of classes in alphabetical order."""
    unions = {name: shapely.unary_union(list(shapes)) for name, shapes in sorted(polygons.items())}
    names = list(unions)
    pairs = [(one, other) for i, one in enumerate(names) for other in names[i + 1 :]]
    areas = {pair: float(shapely.area(shapely.intersection(unions[pair[0]], unions[pair[1]]))) for pair in pairs}
    return {pair: area for pair, area in areas.items() if area > 1}
