"""Where a slide lies."""

from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True)
class Frame:
    """What the coordinates of annotations are relative to.

    Attributes:
        name: Of the slide, for messages.
        size: `(width, height)` in level-0 px.
        mpp: `(x, y)`, um per level-0 px.
        bounds: `(x, y, width, height)` in level-0 px of what was scanned, as `Slide.bounds`: QuPath counts from there.
        center_offset_nm: `(x, y)` of the scan's centre from the slide's centre, from which Hamamatsu counts.
        own_mpp: What the slide's file says of its um/px, where `mpp` is what a user said instead: Hamamatsu's nm are px
            by the file's own measure.
    """

    name: str
    size: tuple[int, int]
    mpp: tuple[float, float]
    bounds: tuple[int, int, int, int]
    center_offset_nm: Optional[tuple[float, float]] = None
    own_mpp: Optional[tuple[float, float]] = None
