"""How far a model can be believed: figures and a picture of its calibration, with and without its temperature.

- **Expected calibration error**: see `metrics`.
- **Negative log likelihood**: mean over regions of minus the logarithm, in nat, of the true class's probability, which
  counts as 1e-38 at least; 0 is best.
- **Brier score**: mean over regions of the squared distance of the probabilities from the truth, summed over classes,
  0 to 2 (Brier, "Verification of forecasts expressed in terms of probability", 1950); 0 is best.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from . import bootstrap, metrics
from .predictions import Predictions
from .results import ReportContext, with_interval
from .tables import interval_text, markdown_table, reasons_text
from .temperature import with_temperature

_TITLES = {
    "expected_calibration_error": "Expected calibration error",
    "negative_log_likelihood": "Negative log likelihood",
    "brier_score": "Brier score",
}
_BEFORE, _AFTER = "without the temperature", "as the model answers"


def likelihoods_and_distances(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """What negative log likelihood and Brier score are means of, float64 `(regions,)` each."""
    exact = probabilities.astype(np.float64)
    true = np.take_along_axis(exact, labels[:, None], axis=1)[:, 0]
    return {
        "negative_log_likelihood": -np.log(np.maximum(true, np.finfo(np.float32).tiny)),
        "brier_score": (exact**2).sum(axis=1) - 2 * true + 1,
    }


def calibration_figures(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The three figures of the module, from float `(regions, classes)` and integer `(regions,)`."""
    means = likelihoods_and_distances(probabilities, labels)
    error = metrics.expected_calibration_error(probabilities, labels)
    return {"expected_calibration_error": error, **{name: float(values.mean()) for name, values in means.items()}}


def make_calibration(predictions: Predictions, context: ReportContext) -> dict[str, Any]:
    """What results.json says of calibration.

    Returns:
        `temperature` of the model, `after`, the three figures with 95% intervals as in `metrics`, and `before`, the
        same without the temperature; None where that is 1, or hidden in a mean over views.
    """
    after = _with_intervals(predictions.probabilities, predictions, context)
    undone = _without_temperature(predictions, context)
    before = None if undone is None else _with_intervals(undone, predictions, context)
    return {"temperature": context.temperature, "before": before, "after": after}


def _without_temperature(predictions: Predictions, context: ReportContext) -> Any:
    if context.temperature == 1 or context.views > 1:
        return None
    return with_temperature(predictions.probabilities, 1 / context.temperature)


def _with_intervals(
    probabilities: np.ndarray, predictions: Predictions, context: ReportContext
) -> dict[str, dict[str, Any]]:
    labels = predictions.labels

    def resampled(drawn: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
        samples = bootstrap.resampled_figures(probabilities, labels, drawn, counts)
        regions = counts @ np.bincount(drawn)
        for name, values in likelihoods_and_distances(probabilities, labels).items():
            samples[name] = (counts @ np.bincount(drawn, values)) / regions
        return {name: samples[name] for name in _TITLES}

    intervals = bootstrap.intervals_over_draws(
        resampled, predictions.drawn_by, context.resamples, context.seed, predictions.drawn_kind
    )
    figures = calibration_figures(probabilities, labels)
    return {name: with_interval(value, name, intervals) for name, value in figures.items()}


def calibration_page(calibration: Mapping[str, Any]) -> str:
    """The content of calibration.md, of what `make_calibration` gives."""
    before, after = calibration["before"], calibration["after"]
    header, rows = ["Figure", "Value", "95% interval"], []
    for name, title in _TITLES.items():
        sides = [side[name] for side in (before, after) if side is not None]
        rows.append([title, *(cell for figure in sides for cell in (f"{figure['value']:.3f}", interval_text(figure)))])
    told = "The model's logits are not divided by a temperature: it was not calibrated, or did not need it."
    if before is None and calibration["temperature"] != 1:
        told = f"The model's logits are divided by {calibration['temperature']:.3g} in each view."
    if before is not None:
        header = ["Figure", "Before", "95% interval", "After", "95% interval"]
        told = (
            f"The model's logits are divided by {calibration['temperature']:.3g}, fitted on regions that are neither "
            "these nor those that it has learnt from. Before: without that."
        )
    return (
        f"# How sure the model is\n\n{told} Of regions to which it gives a probability of 0.8, four of five should be "
        "of the class that it names: reliability.png shows how far that holds. Smaller figures are better.\n\n"
        + markdown_table(header, rows)
        + reasons_text(after.values())
    )


def draw_reliability(predictions: Predictions, context: ReportContext) -> Figure:
    """The share of right answers by the probability that they were given, above how many regions were given it."""
    figure = Figure(figsize=(5.4, 5.8), dpi=120, layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    upper.plot((0, 1), (0, 1), color="0.6", linewidth=1, linestyle="--", label="calibrated")
    after = _AFTER if context.views == 1 else f"mean over {context.views} views"
    sides = {after: predictions.probabilities}
    undone = _without_temperature(predictions, context)
    if undone is not None:
        sides = {_BEFORE: undone, **sides}
    edges = np.linspace(0, 1, metrics.CALIBRATION_BINS + 1)
    for (name, probabilities), color in zip(sides.items(), ("tab:orange", "tab:blue")[-len(sides) :]):
        confidence = probabilities.max(axis=1).astype(np.float64)
        bins, gaps = metrics.calibration_gaps(probabilities, predictions.labels)
        counts = np.bincount(bins, minlength=metrics.CALIBRATION_BINS)
        filled = counts > 0
        said = np.bincount(bins, confidence, metrics.CALIBRATION_BINS)[filled] / counts[filled]
        right = said + np.bincount(bins, gaps, metrics.CALIBRATION_BINS)[filled] / counts[filled]
        error = metrics.expected_calibration_error(probabilities, predictions.labels)
        upper.plot(said, right, color=color, marker="o", markersize=4, label=f"{name}: error {error:.3f}")
        lower.stairs(counts, edges, color=color, fill=name == after, alpha=0.6)
    upper.set_ylabel("Share of them that is right")
    upper.set_ylim(-0.03, 1.03)
    upper.grid(alpha=0.3)
    upper.legend(loc="upper left", fontsize=8)
    lower.set_ylabel("Regions")
    lower.set_xlabel("Probability of the predicted class")
    lower.set_xlim(0, 1)
    return figure
