"""Which classes a model cannot rule out: the scores that it remembers for its prediction sets.

Conformal prediction, for each class by itself (Mondrian): Vovk, Gammerman and Shafer, "Algorithmic learning in a random
world" (2005). Regions of one slide resemble each other, and no promise holds for the next slide if each of them counts
as a find of its own. Where a class has enough slides, each slide counts once, and its regions share its weight (Lee,
Barber and Willett, "Distribution-free inference with hierarchical data", 2023).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from .. import remote_code
from .metrics import checked_regions

if TYPE_CHECKING:
    from ..remote_code import SpiderForImageClassification

ENOUGH_SLIDES = 9  # with so many, a class can be ruled out at alpha = 0.1
MOST_SCORES = 1000  # of a class; a p-value errs by no more than one in so many, to the safe side


@dataclass(frozen=True, eq=False)
class ClassScores:
    """How improbable a model found one class where it was the true one.

    Attributes:
        scores: Float `(n,)`, ascending.
        p_values: Float `(n + 1,)`: that of a region whose score exceeds so many of them.
        regions: That there were of the class.
        slides: Patients or slides that these are of.
        by_slide: Whether each slide counts alike, rather than each region.
    """

    scores: np.ndarray
    p_values: np.ndarray
    regions: int
    slides: int
    by_slide: bool

    @property
    def least_alpha(self) -> float:
        """The smallest `alpha` at which the class can be ruled out at all."""
        return 1 / (1 + (self.slides if self.by_slide else self.regions))

    def as_json(self) -> dict[str, Any]:
        """What config.json says of them."""
        return {"regions": self.regions, "slides": self.slides, "by": "slide" if self.by_slide else "region"}


def class_scores(probabilities: ArrayLike, labels: ArrayLike, drawn_by: Sequence[str]) -> list[ClassScores]:
    """What to remember of every class.

    Args:
        probabilities: Float `(regions, classes)`, as the model gives them, of regions that it has not learnt from.
        labels: Integer `(regions,)`.
        drawn_by: The patient or slide of every region.

    Raises:
        ValueError: The arrays do not fit each other.
    """
    probabilities, labels = checked_regions(probabilities, labels)
    groups = np.asarray(drawn_by, dtype=str)
    return [
        _scores_of(probabilities[labels == label, label], groups[labels == label])
        for label in range(probabilities.shape[1])
    ]


def _scores_of(probabilities: np.ndarray, groups: np.ndarray) -> ClassScores:
    scores = remote_code.improbability(torch.from_numpy(probabilities.astype(np.float32))).numpy()
    names, columns, counts = np.unique(groups, return_inverse=True, return_counts=True)
    by_slide = len(names) >= ENOUGH_SLIDES
    weights = 1 / counts[columns] if by_slide else np.ones(len(scores))
    order = np.argsort(scores, kind="stable")
    scores, weights = scores[order], weights[order]
    total = weights.sum()
    # The region that is asked about counts as one more, that is found no more probable than itself.
    p_values = (1 + total - np.concatenate([[0.0], np.cumsum(weights)])) / (1 + total)
    return ClassScores(*_thinned(scores, p_values), regions=len(scores), slides=len(names), by_slide=by_slide)


def _thinned(scores: np.ndarray, p_values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most `MOST_SCORES` of the scores; a p-value is that of the next score below that is kept, so never smaller."""
    if len(scores) <= MOST_SCORES:
        return scores, p_values
    kept = np.unique(np.linspace(0, len(scores) - 1, MOST_SCORES).round().astype(np.int64))
    return scores[kept], p_values[np.concatenate([[0], kept + 1])]


def remember_scores(model: "SpiderForImageClassification", found: Sequence[ClassScores]) -> None:
    """Fill a model's `class_sets`; None of it is left where no class has a score."""
    width = max(len(one.scores) for one in found)
    model.remember(conformal_scores=width)
    if width == 0:
        return
    scores = torch.full((len(found), width), math.inf)
    p_values = torch.ones(len(found), width + 1)
    for row, one in enumerate(found):
        scores[row, : len(one.scores)] = torch.from_numpy(one.scores)
        p_values[row, : len(one.p_values)] = torch.from_numpy(one.p_values)
        p_values[row, len(one.p_values) :] = float(one.p_values[-1])
    model.get_submodule("class_sets").load_state_dict({"scores": scores, "p_values": p_values})
