"""Which patches may still be chosen: none twice, none over another one, not too many of one slide."""

from collections import Counter
from typing import Optional

import numpy as np

from .patches import Patches

_ROUNDING = 1e-6  # of a patch; neighbours that touch do not overlap


class Chooser:
    """Takes patches one after the other.

    Patches overlap if they are of one slide and closer than a patch side along x and along y. Those of a data set have
    no places: of them only the same is not chosen again, and each slide has its limit.

    Args:
        patches: To choose from.
        top: Most to take.
        per_slide: Most of one slide, None for any number.

    Attributes:
        chosen: Rows in the order in which they were taken.
        allowed: Bool `(n,)`, False for what can no longer be taken.
    """

    def __init__(self, patches: Patches, top: int, per_slide: Optional[int] = None) -> None:
        self._patches = patches
        self._top = top
        self._per_slide = per_slide
        self._of_slide: Counter[int] = Counter()
        self.chosen: list[int] = []
        self.allowed = np.ones(len(patches), dtype=bool)

    @property
    def missing(self) -> int:
        """How many are still wanted."""
        return self._top - len(self.chosen)

    @property
    def is_done(self) -> bool:
        """Whether as many as wanted are taken, or no other one can be."""
        return self.missing <= 0 or not self.allowed.any()

    def exclude(self, rows: np.ndarray) -> None:
        """Take no patch that is one of these, int64 `(m,)`, or overlaps one."""
        self.allowed[rows] = False
        for row in rows.tolist():
            self._exclude_around(row)

    def forbid(self, rows: np.ndarray) -> None:
        """Take none of these, int64 `(m,)`; what overlaps them may be taken."""
        self.allowed[rows] = False

    def take(self, row: int) -> bool:
        """Choose a patch if it may be chosen; whether it was."""
        if not self.allowed[row] or self.missing <= 0:
            return False
        self.chosen.append(row)
        self.allowed[row] = False
        self._exclude_around(row)
        slide = int(self._patches.slide_numbers[row])
        self._of_slide[slide] += 1
        if self._of_slide[slide] == self._per_slide:
            self.allowed[self._patches.of_slide(slide)] = False
        return True

    def shortfall(self) -> list[str]:
        """A sentence for the reader if fewer were taken than were wanted."""
        if self.missing <= 0:
            return []
        return [
            f"{len(self.chosen)} of {self._top} wanted patches were found: no other one is left that overlaps none of "
            "them, is none of the examples and keeps to --per_slide and the like."
        ]

    def _exclude_around(self, row: int) -> None:
        x, y, width, height = self._patches.boxes[row]
        if np.isnan(x):
            return
        near = self._patches.near(row)
        left, top = np.abs(self._patches.boxes[near, :2] - (x, y)).T  # NaN is near to nothing
        overlapping = (left < width * (1 - _ROUNDING)) & (top < height * (1 - _ROUNDING))
        self.allowed[near[overlapping]] = False
