"""Accuracy against coverage: how right a model is where the regions that it is least sure of are left unanswered.

- **Coverage** is the share of the regions that are answered, the surest first, and **risk** the share of wrong answers
  among these (El-Yaniv and Wiener, "On the foundations of noise-free selective classification", 2010).
- **AURC**, the area under the curve of the two, is the mean risk over the coverages 1/n, 2/n ... 1 (Geifman and
  El-Yaniv, "Selective classification for deep neural networks", 2017). An order that knows nothing has the share of
  wrong answers among all regions; 0 is best.
- **E-AURC** is what AURC exceeds that of the best possible order by, which leaves all wrong answers to the end
  (Geifman, Uziel and El-Yaniv, "Bias-reduced uncertainty estimation for deep neural classifiers", 2019).

Regions of equal confidence have no order: where some of them are answered, every figure is the mean over all orders of
them, so that it does not depend on the order of the data.
"""

from collections.abc import Mapping
from typing import Any, Optional

import numpy as np
from matplotlib.figure import Figure

from . import bootstrap
from .predictions import Predictions
from .results import ReportContext, with_interval
from .tables import interval_text, markdown_table, reasons_text

COVERAGES = (100, 90, 80, 50)  # percent of the regions
HIGHEST_PROBABILITY = "highest probability"


def selective_risks(confidence: np.ndarray, wrong: np.ndarray, times: Optional[np.ndarray] = None) -> np.ndarray:
    """The risk of answering the surest 1, 2 ... n regions.

    Args:
        confidence: Float `(regions,)`, of any range: the higher, the sooner a region is answered.
        wrong: Bool `(regions,)`, whether the answer is wrong.
        times: Integer `(regions,)`, how often each region counts; once by default.

    Returns:
        float64 `(n,)`, where n is the sum of `times`.

    Raises:
        ValueError: Shapes differ, a confidence is NaN, or no region counts.
    """
    confidence, wrong = np.asarray(confidence), np.asarray(wrong)
    times = np.ones(len(wrong), dtype=np.int64) if times is None else np.asarray(times)
    if confidence.ndim != 1 or not confidence.shape == wrong.shape == times.shape:
        raise ValueError(
            f"Expected one confidence per region, float (regions,), got {confidence.shape} for {len(wrong)} regions."
        )
    if np.isnan(confidence).any():
        raise ValueError(f"Region {int(np.isnan(confidence).argmax())}: expected a confidence, got NaN.")
    if not times.any():
        raise ValueError("There is no region to answer.")
    return _risks(_surest_first(confidence), wrong, times)


def _surest_first(confidence: np.ndarray) -> tuple[np.ndarray, int]:
    """The group of equals that each region is in, int64 `(regions,)`, 0 for the surest, and how many there are."""
    values, groups = np.unique(confidence, return_inverse=True)
    return len(values) - 1 - groups, len(values)


def _risks(order: tuple[np.ndarray, int], wrong: np.ndarray, times: np.ndarray) -> np.ndarray:
    groups, count = order
    sizes = np.bincount(groups, times, count)
    # Among equals the next one is wrong as often as they are on average.
    rates = np.bincount(groups, times * wrong, count) / np.maximum(sizes, 1)
    errors = np.cumsum(np.repeat(rates, sizes.astype(np.int64)))
    return errors / np.arange(1, len(errors) + 1)


def least_possible_aurc(wrong: int, regions: int) -> float:
    """AURC of the order that answers `wrong` of `regions` regions, those that are wrong, last."""
    late = np.arange(1, wrong + 1)
    return float((late / (regions - wrong + late)).sum() / regions)


def risk_coverage_figures(risks: np.ndarray) -> dict[str, float]:
    """The figures of the module, each in [0, 1], of what `selective_risks` gives.

    Returns:
        `aurc`, `excess_aurc`, and for each of `COVERAGES` `accuracy_at_90` and so on: of so many percent of the
        regions, rounded up to whole ones.
    """
    regions = len(risks)
    aurc = float(risks.mean())
    answered = {percent: -(-regions * percent // 100) for percent in COVERAGES}
    return {
        "aurc": aurc,
        "excess_aurc": max(0.0, aurc - least_possible_aurc(round(float(risks[-1]) * regions), regions)),
        **{f"accuracy_at_{percent}": 1 - float(risks[number - 1]) for percent, number in answered.items()},
    }


def make_risk_coverage(
    predictions: Predictions, context: ReportContext, scores: Optional[Mapping[str, np.ndarray]] = None
) -> dict[str, dict[str, Any]]:
    """What results.json says of accuracy against coverage.

    Args:
        predictions: Of the split.
        context: Says how intervals are drawn.
        scores: Other confidences, float `(regions,)` by name, the highest the surest.

    Returns:
        By score, `HIGHEST_PROBABILITY` first: what `risk_coverage_figures` gives, with 95% intervals as in `metrics`.

    Raises:
        ValueError: A score has no confidence for each region.
    """
    wrong = predictions.predicted != predictions.labels
    return {
        name: _with_intervals(confidence, wrong, predictions, context)
        for name, confidence in _all_scores(predictions, scores).items()
    }


def other_scores(predictions: Predictions) -> dict[str, np.ndarray]:
    """Confidences beside the highest probability: familiarity, of a model that knows what is familiar."""
    unfamiliarity = predictions.limits.unfamiliarity
    return {} if unfamiliarity is None else {"familiarity": -np.nan_to_num(unfamiliarity, nan=np.inf)}


def _all_scores(predictions: Predictions, scores: Optional[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {HIGHEST_PROBABILITY: predictions.probabilities.max(axis=1), **(scores or {})}


def _with_intervals(
    confidence: np.ndarray, wrong: np.ndarray, predictions: Predictions, context: ReportContext
) -> dict[str, Any]:
    figures = risk_coverage_figures(selective_risks(confidence, wrong))
    order = _surest_first(confidence)

    def resampled(drawn: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
        samples = [risk_coverage_figures(_risks(order, wrong, row[drawn])) for row in counts]
        return {name: np.array([sample[name] for sample in samples]) for name in figures}

    intervals = bootstrap.intervals_over_draws(
        resampled, predictions.drawn_by, context.resamples, context.seed, predictions.drawn_kind
    )
    return {name: with_interval(value, name, intervals) for name, value in figures.items()}


def risk_coverage_page(made: Mapping[str, Mapping[str, Any]]) -> str:
    """The content of risk_coverage.md, of what `make_risk_coverage` gives."""
    header, rows = ["Figure"], []
    for name in made:
        header += [f"By {name}", "95% interval"]
    titles = {"aurc": "AURC", "excess_aurc": "E-AURC"}
    titles |= {f"accuracy_at_{percent}": f"Accuracy of the surest {percent}%" for percent in COVERAGES}
    for key, title in titles.items():
        sides = [figures[key] for figures in made.values()]
        rows.append([title, *(cell for side in sides for cell in (f"{side['value']:.3f}", interval_text(side)))])
    everything = made[HIGHEST_PROBABILITY]["accuracy_at_100"]["value"]
    return (
        "# Accuracy where the least certain regions are left unanswered\n\nRegions are answered from the surest on. "
        "AURC is the mean share of wrong answers over all coverages, the area under the curve in risk_coverage.png; "
        f"an order that knows nothing would have {1 - everything:.3f}. E-AURC is what it exceeds that of the best "
        "possible order by. For both, smaller is better. Regions of equal confidence count as their mean over all "
        "orders.\n\n"
        + markdown_table(header, rows)
        + reasons_text(figure for figures in made.values() for figure in figures.values())
    )


def draw_risk_coverage(predictions: Predictions, scores: Optional[Mapping[str, np.ndarray]] = None) -> Figure:
    """The share of wrong answers by coverage, for each score, between the best possible order and none."""
    figure = Figure(figsize=(5.4, 4.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    wrong = predictions.predicted != predictions.labels
    coverage = np.arange(1, len(wrong) + 1) / len(wrong)
    for name, confidence in _all_scores(predictions, scores).items():
        risks = selective_risks(confidence, wrong)
        axes.plot(coverage, risks, label=f"by {name}: AURC {risks.mean():.3f}")
    best = selective_risks(~wrong, wrong)
    axes.plot(coverage, best, color="0.4", linewidth=1, linestyle="--", label=f"best order: {best.mean():.3f}")
    axes.axhline(wrong.mean(), color="0.6", linewidth=1, linestyle=":", label=f"no order: {wrong.mean():.3f}")
    axes.set(xlabel="Share of the regions that is answered", ylabel="Share of these that is wrong")
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3, fontsize=8)
    return figure
