"""How tissue is to be found, as users say it."""

from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True)
class TissueSearch:
    """How tissue is found.

    Attributes:
        threshold: Saturation that tissue exceeds, in [0, 1]; found by Otsu's method if None.
        keep_artifacts: Whether pen, bubbles, folds and blur count as what they look like.
    """

    threshold: Optional[float] = None
    keep_artifacts: bool = False
