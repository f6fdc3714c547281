"""Shapes are held against the slide that they are said to lie on."""

from collections import Counter
from typing import Any, Optional

import shapely

from ..plain_text import escaped
from .drawn import Tally
from .frame import Frame
from .shapes import areas_of

Window = tuple[int, int, int, int]
"""`(x, y, width, height)` in level-0 px."""


def clip_to_slide(shapes: dict[int, Any], frame: Frame, tally: Tally) -> dict[int, Any]:
    """Cut off what lies outside of the slide.

    Args:
        shapes: In level-0 px, by the numbers of their objects.
        frame: Of the slide.
        tally: Counts what was cut, and what is outside as a whole and left out.

    Raises:
        ValueError: More than half of the shapes are outside as a whole.
    """
    slide = shapely.box(0, 0, *frame.size)
    inside = {}
    clipped: Counter[bool] = Counter()
    for number, shape in shapes.items():
        if slide.covers(shape):
            inside[number] = shape
        else:
            rest = areas_of(shapely.intersection(shape, slide))
            clipped[not rest.is_empty] += 1
            if not rest.is_empty:
                inside[number] = rest
    if clipped[False] * 2 > len(shapes):
        raise ValueError(
            f"{clipped[False]} of {len(shapes)} annotations lie outside of the slide {escaped(frame.name)}, which has "
            f"{frame.size[0]} x {frame.size[1]} px (width x height); are they of another slide"
        )
    tally.changed["partly outside of the slide (clipped)"] += clipped[True]
    tally.left_out["outside of the slide"] += clipped[False]
    return inside


def doubt_about_scale(shapes: dict[int, Any], window: Window) -> Optional[str]:
    """A sentence where all shapes lie so near to the first corner that they may be those of a smaller level.

    Args:
        shapes: In level-0 px of the slide.
        window: The part of the slide in which the file counts.
    """
    x, y, width, height = window
    _, _, right, bottom = shapely.total_bounds(list(shapes.values())) if shapes else (0, 0, x + width, y + height)
    if right - x >= width / 4 or bottom - y >= height / 4:
        return None
    return (
        f"all annotations lie in the upper left corner, within {right - x:.0f} x {bottom - y:.0f} of {width} x "
        f"{height} px; if they were drawn elsewhere, they are in px of a smaller level, and have to be multiplied by "
        "its downsample, as 4 or 16."
    )
