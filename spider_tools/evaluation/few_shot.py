"""The head beside nearest prototypes of a few regions per class: whether it has learnt more than these know."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from . import bootstrap, metrics
from .predictions import Predictions
from .prototypes import FewShot
from .results import ReportContext, with_interval
from .tables import interval_text, markdown_table, reasons_text

_TITLES = {"accuracy": "Accuracy", "macro_f1": "F1 (macro)"}


def make_few_shot(predictions: Predictions, context: ReportContext, few_shot: FewShot) -> dict[str, Any]:
    """What results.json says of prototypes.

    Args:
        predictions: Of the head.
        context: Says how intervals are drawn.
        few_shot: What prototypes said of the same regions.

    Returns:
        `regions_per_class`, `draws`; `metrics`, accuracy and macro F1 as the mean over draws with its 95% interval and,
        as `range`, the lowest and the highest draw; `head_minus_few_shot`, what the head's exceed the mean by. The
        intervals of a difference come from the same sets of patients or slides on both sides.

    Raises:
        ValueError: The prototypes did not classify the same regions.
    """
    if few_shot.predicted.ndim != 2 or few_shot.predicted.shape[1] != len(predictions.labels):
        raise ValueError(f"Expected (draws, {len(predictions.labels)}) classes, got {few_shot.predicted.shape}.")
    by_draw = [_figures(predictions.labels, predicted) for predicted in few_shot.predicted]
    means = {name: float(np.mean([figures[name] for figures in by_draw])) for name in _TITLES}
    head = _figures(predictions.labels, predictions.predicted)
    intervals = _intervals(predictions, context, few_shot)
    return {
        "regions_per_class": few_shot.regions_per_class,
        "draws": len(by_draw),
        "metrics": {
            name: with_interval(mean, name, intervals)
            | {"range": [min(figures[name] for figures in by_draw), max(figures[name] for figures in by_draw)]}
            for name, mean in means.items()
        },
        "head_minus_few_shot": {
            name: with_interval(head[name] - mean, f"{name} difference", intervals) for name, mean in means.items()
        },
    }


def _figures(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    f1 = metrics.macro_precision_recall_f1(labels, predicted)[2]
    return {"accuracy": metrics.accuracy(labels, predicted), "macro_f1": f1}


def _intervals(predictions: Predictions, context: ReportContext, few_shot: FewShot) -> bootstrap.Intervals:
    labels, one_hot = predictions.labels, np.eye(len(predictions.class_names))

    def resampled(drawn: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
        head = bootstrap.resampled_figures(predictions.probabilities, labels, drawn, counts)
        ours = [bootstrap.resampled_figures(one_hot[classes], labels, drawn, counts) for classes in few_shot.predicted]
        means = {name: np.mean([samples[name] for samples in ours], axis=0) for name in _TITLES}
        return means | {f"{name} difference": head[name] - mean for name, mean in means.items()}

    return bootstrap.intervals_over_draws(
        resampled, predictions.drawn_by, context.resamples, context.seed, predictions.drawn_kind
    )


def few_shot_page(results: Mapping[str, Any]) -> str:
    """The content of few_shot.md, of what results.json holds."""
    made, rows = results["few_shot"], []
    for name, title in _TITLES.items():
        head, ours, difference = results["metrics"][name], made["metrics"][name], made["head_minus_few_shot"][name]
        sides = [cell for side in (head, ours) for cell in (f"{side['value']:.3f}", interval_text(side))]
        told = ["{:.3f} to {:.3f}".format(*ours["range"]), f"{difference['value']:+.3f}", interval_text(difference)]
        rows.append([title, *sides, *told])
    header = ["Figure", "Head", "95% interval", "Prototypes", "95% interval", "Lowest to highest draw"]
    number = made["regions_per_class"]
    regions = f"{number} region{'s' if number != 1 else ''}"
    return (
        f"# The head beside prototypes of {regions} per class\n\n"
        f"Prototypes are means of embeddings of the same backbone, of {regions} of each class of the train split, of "
        "different slides where there are so many; a region is of the class whose prototype is nearest (SimpleShot, "
        "Wang et al. 2019). They see the central patch alone, the head its context too. Their figures are means over "
        f"{made['draws']} draws of these regions. Intervals say what other patients or slides would change, the lowest "
        "and the highest draw what other prototypes would.\n\n"
        + markdown_table([*header, "Head minus prototypes", "95% interval"], rows)
        + reasons_text(made["metrics"].values())
    )
