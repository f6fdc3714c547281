"""95% intervals of the headline figures, by resampling patients, or slides where nobody names patients."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np
from numpy.typing import ArrayLike

from .metrics import (
    CALIBRATION_BINS,
    HEADLINE_FIGURES,
    calibration_gaps,
    check_comparable,
    check_slides,
    checked_regions,
    hits_among_top,
)

# Percentiles over few slides are too narrow to be called 95%. Simulated for a mean of normal values, they miss the true
# one in 15% of the cases with 5 slides, in 10% with 10, in 7% with 20.
MIN_FOR_INTERVAL = 10
RESAMPLES = 1000
_RESAMPLES_AT_ONCE = 128  # bounds the memory at 128 confusion matrices


@dataclass(frozen=True)
class Intervals:
    """95% intervals of the headline figures.

    Attributes:
        ci95: Lower and upper end by name of the figure, or `None` where no interval can be given.
        reason: Why there is none, or `None`.
    """

    ci95: Optional[dict[str, tuple[float, float]]]
    reason: Optional[str] = None


def resample_counts(count: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each slide or patient is drawn when as many as there are are drawn with replacement.

    Returns:
        int64 `(resamples, count)`; each row adds up to `count`.
    """
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)


def resampled_figures(
    probabilities: np.ndarray, labels: np.ndarray, slides: np.ndarray, counts: np.ndarray
) -> dict[str, np.ndarray]:
    """The headline figures of resampled sets of slides.

    The sums that the figures are made of are taken once per slide and then weighted, so that the work does not grow
    with regions times resamples.

    Args:
        probabilities: Float `(regions, classes)`.
        labels: Integer `(regions,)`.
        slides: Integer `(regions,)`, the column of `counts` that a region's slide has.
        counts: `(resamples, slides)`, how often each slide is in each resample.

    Returns:
        float64 `(resamples,)` for each of `HEADLINE_FIGURES`.
    """
    classes = probabilities.shape[1]
    num_slides = counts.shape[1]
    # The numbers of cells below go beyond what small integers hold.
    labels, slides = labels.astype(np.int64), slides.astype(np.int64)

    def sum_by_slide(column: np.ndarray, width: int, values: Optional[np.ndarray] = None) -> np.ndarray:
        return np.bincount(slides * width + column, values, num_slides * width).reshape(num_slides, width)

    cell = labels * classes + probabilities.argmax(axis=1)
    # Cells that no region is in would only cost time: most are empty where there are many classes.
    cells, cell_column = np.unique(cell, return_inverse=True)
    bins, gaps = calibration_gaps(probabilities, labels)
    hits = hits_among_top(probabilities, labels, 3)
    sums = np.concatenate(
        [
            sum_by_slide(cell_column, len(cells)),
            sum_by_slide(bins, CALIBRATION_BINS, gaps),
            sum_by_slide(np.zeros_like(bins), 1, hits),
        ],
        axis=1,
    )
    parts = [_figures_of_sums(part, cells, classes) for part in _weighted(counts, sums)]
    return {name: np.concatenate([part[name] for part in parts]) for name in HEADLINE_FIGURES}


def _weighted(counts: np.ndarray, sums: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(counts), _RESAMPLES_AT_ONCE):
        yield counts[start : start + _RESAMPLES_AT_ONCE].astype(np.float64) @ sums


def _figures_of_sums(sums: np.ndarray, cells: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """Headline figures `(resamples,)` from `(resamples, cells + bins + 1)` sums, by the module's conventions."""
    flat = np.zeros((len(sums), classes * classes))
    flat[:, cells] = sums[:, : len(cells)]
    confusion = flat.reshape(-1, classes, classes)
    true = np.diagonal(confusion, axis1=1, axis2=2)
    support, predicted = confusion.sum(axis=2), confusion.sum(axis=1)
    recall = _ratio(true, support)
    present = (support + predicted > 0).sum(axis=1)
    regions = support.sum(axis=1)
    return {
        "accuracy": true.sum(axis=1) / regions,
        "macro_precision": _ratio(true, predicted).sum(axis=1) / present,
        "macro_recall": recall.sum(axis=1) / present,
        "macro_f1": _ratio(2 * true, support + predicted).sum(axis=1) / present,
        "balanced_accuracy": recall.sum(axis=1) / (support > 0).sum(axis=1),
        "top3_accuracy": sums[:, -1] / regions,
        "expected_calibration_error": np.abs(sums[:, len(cells) : -1]).sum(axis=1) / regions,
    }


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def bootstrap_intervals(
    probabilities: ArrayLike,
    labels: ArrayLike,
    drawn_by: Sequence[str],
    resamples: int = RESAMPLES,
    seed: int = 0,
    kind: str = "slide",
) -> Intervals:
    """95% intervals of the headline figures: percentiles over sets of patients or slides drawn with replacement.

    These and not regions are drawn, because regions of one patient or slide resemble each other. The calibration error
    of a resample is a little above that of the whole, so its interval lies a little high.

    Args:
        probabilities: Float `(regions, classes)`; see `checked_regions`.
        labels: Integer `(regions,)`.
        drawn_by: The patient or slide of every region.
        resamples: Number of sets that are drawn.
        seed: The same seed draws the same sets, given the same number to draw from.
        kind: `"patient"` or `"slide"`: what `drawn_by` names, for the reason.

    Returns:
        The intervals, or the reason why there are none: fewer than `MIN_FOR_INTERVAL` patients or slides.

    Raises:
        ValueError: The arrays do not fit, there is no region, all are of one class, or `resamples` is below 1.
    """
    probabilities, labels = checked_regions(probabilities, labels)
    check_comparable(labels)
    check_slides(drawn_by, len(labels))
    if resamples < 1:
        raise ValueError(f"`resamples` must be at least 1, got {resamples}.")
    return intervals_over_draws(
        lambda slides, counts: resampled_figures(probabilities, labels, slides, counts), drawn_by, resamples, seed, kind
    )


def intervals_over_draws(
    figures: Callable[[np.ndarray, np.ndarray], Mapping[str, np.ndarray]],
    drawn_by: Sequence[str],
    resamples: int,
    seed: int,
    kind: str,
) -> Intervals:
    """95% intervals of any figures over sets of patients or slides drawn with replacement.

    Args:
        figures: Of the columns of the regions, int64 `(regions,)`, and the counts of `resample_counts`, gives the
            figures of every set, float64 `(resamples,)`, by name.
        drawn_by: See `bootstrap_intervals`, as the others.
        resamples: Number of sets that are drawn.
        seed: Chooses them.
        kind: What `drawn_by` names.
    """
    names, columns = np.unique(np.asarray(drawn_by, dtype=str), return_inverse=True)
    if len(names) < MIN_FOR_INTERVAL:
        return Intervals(None, no_interval_reason(len(names), kind))
    samples = figures(columns, resample_counts(len(names), resamples, seed))
    return Intervals({name: percentile_interval(values) for name, values in samples.items()})


def percentile_interval(samples: np.ndarray) -> tuple[float, float]:
    """The 2.5% and 97.5% percentiles of float `(resamples,)`."""
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(low), float(high)


def no_interval_reason(count: int, kind: str = "slide") -> str:
    """Why so few patients or slides give no interval."""
    return (
        f"No 95% interval can be given: the regions come from {count} {kind}{'s' if count != 1 else ''}, "
        f"and resampling {kind}s needs at least {MIN_FOR_INTERVAL}."
    )
