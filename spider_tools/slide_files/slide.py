"""What a slide is to all that reads it: levels of pixels with their um/px, whichever library decodes them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np

from ..annotations.frame import Frame


@dataclass(frozen=True)
class Level:
    """One magnification that a file holds.

    Attributes:
        size: `(width, height)` in px of this level.
        downsample: `(x, y)`, level-0 px per px of this level.
    """

    size: tuple[int, int]
    downsample: tuple[float, float]


class Slide:
    """An opened slide. It can be sent to other processes, which open the file anew.

    Attributes:
        path: The file.
        mpp: `(x, y)`, um per px of level 0.
        levels: From the finest on; level 0 is the full resolution.
        bounds: `(x, y, width, height)` in level-0 px of what was scanned, which is all that QuPath shows: its
            coordinates begin at this corner. The whole slide, unless its file says otherwise.
        identity: What tells this slide from others, in the form of JSON.
        center_offset_nm: `(x, y)` of the scan's centre from that of the glass slide, where Hamamatsu's file says it.
        own_mpp: What the file itself says where `mpp` was given instead, if it says it.
        mpp_source: Who says `mpp`, see `pixel_size.PixelSize`; "" if it was given.
        mpp_is_guess: Whether neither the user nor OpenSlide says it.
        warnings: What a reader of its results must know, in sentences.
        read_by: "tifffile" where it is not OpenSlide or Pillow alone that decodes the file, else "".
    """

    path: Path
    mpp: tuple[float, float]
    levels: tuple[Level, ...]
    bounds: tuple[int, int, int, int]
    identity: dict[str, Any]
    center_offset_nm: Optional[tuple[float, float]] = None
    own_mpp: Optional[tuple[float, float]] = None
    mpp_source: str = ""
    mpp_is_guess: bool = False
    warnings: tuple[str, ...] = ()
    read_by: str = ""

    @property
    def frame(self) -> Frame:
        """What the coordinates of annotations of this slide are relative to."""
        return Frame(self.path.name, self.size, self.mpp, self.bounds, self.center_offset_nm, self.own_mpp)

    @property
    def size(self) -> tuple[int, int]:
        """`(width, height)` in level-0 px."""
        return self.levels[0].size

    def read_level(self, level: int, corner: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        """Pixels of one level, uint8 `(height, width, 3)`; what was not scanned is white.

        Args:
            level: Index among `levels`.
            corner: `(x, y)` of the upper left px, in px of this level.
            size: `(width, height)` in px; the window lies inside the level.

        Raises:
            UnreadableError: The file is damaged there.
            SlideError: The file can no longer be opened.
        """
        raise NotImplementedError


def true_levels(sizes: Any) -> tuple[Level, ...]:
    """Levels from their sizes, `(width, height)` from level 0 on.

    Writers halve sizes and drop (or keep) the odd pixel, so that a ratio such as 3.9976 stands for exactly 4; to take
    the ratio would shift the far end of the slide by a pixel. Where no whole number explains both axes, the ratios
    are the truth.
    """
    (width, height), *_ = sizes
    levels = []
    for w, h in sizes:
        whole = round(max(width / w, height / h))
        explained = all(short in (full // whole, -(-full // whole)) for full, short in ((width, w), (height, h)))
        levels.append(Level((w, h), (float(whole),) * 2 if explained else (width / w, height / h)))
    return tuple(levels)
