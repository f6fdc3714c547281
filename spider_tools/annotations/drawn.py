"""An object as a file gives it, before anything is repaired or clipped, and what is counted on the way."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Optional

import numpy as np

Rings = tuple[np.ndarray, ...]
"""Of a polygon, the outer one first, each float64 `(points, 2)`, x and y."""


@dataclass(frozen=True)
class DrawnObject:
    """One object with an area.

    Attributes:
        number: Of the object among all of its file, from 0 on.
        class_name: "" without one.
        polygons: In level-0 px from OpenSlide's corner.
        layer: Number of the layer in which holes are cut; None where the format knows no such holes.
        is_hole: It is no area of its own, but is cut out of those of its layer that it lies in.
    """

    number: int
    class_name: str
    polygons: tuple[Rings, ...]
    layer: Optional[int] = None
    is_hole: bool = False


@dataclass(frozen=True)
class Tally:
    """How many objects were left out, and how many are not as they were drawn, by the reason."""

    left_out: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
