"""One number that calibrates a model: what its logits are divided by.

Temperature scaling is Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017). It changes how sure a model
says it is, and never which class it names.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Optional

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from .metrics import checked_regions

logger = logging.getLogger(__name__)

LEAST_REGIONS = 30
LEAST_SLIDES = 2
_FEW_SLIDES = 5  # a temperature that rests on fewer is told
_RANGE = (0.05, 20.0)


@dataclass(frozen=True)
class TemperatureFit:
    """A temperature, and what it rests on.

    Attributes:
        temperature: What to divide the logits by beside what they are divided by already; 1 where none was fitted.
        regions: That it was fitted on.
        slides: Patients or slides that these are of.
        reason: Why none was fitted, or what makes the one that was uncertain; None if there is nothing to say.
    """

    temperature: float
    regions: int
    slides: int
    reason: Optional[str] = None

    @property
    def is_fitted(self) -> bool:
        """Whether there was enough to fit a temperature to."""
        return self.regions >= LEAST_REGIONS and self.slides >= LEAST_SLIDES

    def as_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


def with_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """What the softmax of the logits that gave probabilities gives once they are divided by a temperature.

    Args:
        probabilities: Float `(regions, classes)`; rows sum to 1.
        temperature: Above 0.

    Returns:
        Float64 of the same shape.
    """
    return np.asarray(softmax(_log(probabilities) / temperature, axis=1))


def fit_temperature(probabilities: ArrayLike, labels: ArrayLike, drawn_by: Sequence[str]) -> TemperatureFit:
    """The temperature that makes the true classes of some regions most likely.

    Where a model is right on all of few regions, the most likely temperature is 0, and the model would claim to be
    infallible. So the targets are smoothed as Platt did ("Probabilistic outputs for support vector machines", 1999): of
    `n` regions the true class counts `(n + 1) / (n + 2)`, and the others share the rest. With many regions that is
    nothing; with few it bounds the confidence by what they can prove.

    Args:
        probabilities: Float `(regions, classes)`, of regions that the model has not learnt from.
        labels: Integer `(regions,)`.
        drawn_by: The patient or slide of every region.

    Returns:
        The fit; its temperature is 1, with a reason, below `LEAST_REGIONS` regions or `LEAST_SLIDES` patients or
        slides.

    Raises:
        ValueError: The arrays do not fit each other.
    """
    probabilities, labels = checked_regions(probabilities, labels)
    regions, classes = probabilities.shape
    slides = len(set(drawn_by))
    if regions < LEAST_REGIONS or slides < LEAST_SLIDES:
        few = (
            f"not calibrated: {regions} regions of {slides} patients or slides are too few to fit a temperature to, "
            f"expected at least {LEAST_REGIONS} of {LEAST_SLIDES}"
        )
        return TemperatureFit(1.0, regions, slides, few)
    targets = np.full((regions, classes), 1 / ((regions + 2) * (classes - 1)))
    targets[np.arange(regions), labels] = (regions + 1) / (regions + 2)
    logits = _log(probabilities)

    def loss(log_temperature: float) -> float:
        return float(-(targets * log_softmax(logits / np.exp(log_temperature), axis=1)).sum() / regions)

    found = minimize_scalar(loss, bounds=tuple(np.log(_RANGE)), method="bounded", options={"xatol": 1e-6})
    temperature = float(np.exp(found.x))
    reason: Optional[str] = None
    if min(temperature / _RANGE[0], _RANGE[1] / temperature) < 1.01:
        reason = f"the temperature is at the end of {_RANGE[0]:g} to {_RANGE[1]:g}: look at the reliability diagram"
    elif slides < _FEW_SLIDES:
        reason = f"the temperature rests on {slides} patients or slides: others may need another one"
    return TemperatureFit(temperature, regions, slides, reason)


def _log(probabilities: np.ndarray) -> np.ndarray:
    exact = np.asarray(probabilities, dtype=np.float64)
    return np.log(np.maximum(exact, np.finfo(np.float32).tiny))
