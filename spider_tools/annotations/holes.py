"""Holes that are objects of their own, as ImageScope's negative regions, are cut out of what they lie in."""

from collections.abc import Iterable
from typing import Any

import shapely

from .drawn import DrawnObject, Tally
from .shapes import NO_AREA, areas_of


def cut_holes(drawn: Iterable[DrawnObject], shapes: dict[int, Any], tally: Tally) -> dict[int, Any]:
    """The shapes of objects that are no holes, without the holes of their layers.

    A hole lies in a shape that is larger and holds more than half of it: an island in the hole stays whole, and a hole
    that was drawn a little over the edge is cut nevertheless.

    Args:
        drawn: The objects.
        shapes: What they cover, by their numbers.
        tally: Counts holes that lie nowhere, and objects of which nothing is left.
    """
    present = [one for one in drawn if one.number in shapes]
    whole = {one.number: shapes[one.number] for one in present if not one.is_hole}
    layer_of = {one.number: one.layer for one in present}
    cuts: dict[int, list[Any]] = {}
    numbers, tree = list(whole), shapely.STRtree(list(whole.values()))
    for hole in (one for one in present if one.is_hole):
        shape = shapes[hole.number]
        near = [numbers[place] for place in tree.query(shape, predicate="intersects")]
        around = [number for number in near if layer_of[number] == hole.layer and _lies_in(shape, whole[number])]
        tally.left_out["holes outside of all regions of their layer"] += not around
        for number in around:
            cuts.setdefault(number, []).append(shape)
    for number, holes in cuts.items():
        whole[number] = areas_of(shapely.difference(whole[number], shapely.union_all(holes)))
        if whole[number].is_empty:
            tally.left_out[NO_AREA] += 1
    return {number: shape for number, shape in whole.items() if not shape.is_empty}


def _lies_in(hole: Any, shape: Any) -> bool:
    return shape.area > hole.area and shapely.intersection(hole, shape).area * 2 > hole.area
