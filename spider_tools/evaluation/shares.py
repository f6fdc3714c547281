"""Means over some of the regions, with intervals: of what share of these does something hold?"""

from collections.abc import Mapping
from typing import Any, Optional

import numpy as np

from . import bootstrap
from .predictions import Predictions
from .results import ReportContext, with_interval


def means_with_intervals(
    means: Mapping[str, tuple[np.ndarray, np.ndarray]], predictions: Predictions, context: ReportContext
) -> dict[str, Optional[dict[str, Any]]]:
    """Means of values over chosen regions, with 95% intervals as in `bootstrap`.

    Args:
        means: By name, values, number or bool `(regions,)`, and which regions count, bool `(regions,)`.
        predictions: For these regions.
        context: Says how intervals are made.

    Returns:
        `value` and `ci95`, and a `reason` where that is None, by name; None where no region counts. Sets of slides
        without a region that counts are left out of an interval.
    """
    sums = {name: (np.where(chosen, values, 0), chosen) for name, (values, chosen) in means.items() if chosen.any()}

    def resampled(drawn: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
        samples = {}
        for name, (values, chosen) in sums.items():
            total, number = (counts @ np.bincount(drawn, part) for part in (values, chosen))
            some = number > 0 if (number > 0).any() else slice(None)
            samples[name] = total[some] / np.maximum(number[some], 1)
        return samples

    intervals = bootstrap.intervals_over_draws(
        resampled, predictions.drawn_by, context.resamples, context.seed, predictions.drawn_kind
    )
    found: dict[str, Optional[dict[str, Any]]] = dict.fromkeys(means)
    for name, (values, chosen) in sums.items():
        found[name] = with_interval(float(values.sum() / chosen.sum()), name, intervals)
    return found
