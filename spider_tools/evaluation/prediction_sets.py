"""How often prediction sets hold the true class, and how large they are."""

from collections.abc import Mapping, Sequence
from typing import Any, Optional

import numpy as np

from .predictions import Predictions
from .results import ReportContext
from .shares import means_with_intervals
from .tables import NOT_AVAILABLE, interval_text, markdown_table, reasons_text


def checked_sets(coverage: float, sets: Any, class_names: Sequence[str]) -> Mapping[str, Any]:
    """What a model's prediction sets were fitted to; what they cannot promise is refused.

    Args:
        coverage: Share of sets that are to hold the true class, in (0, 1).
        sets: What config.json of the model says of them, by class: `calibration.sets`; None without.
        class_names: Of the model.

    Returns:
        `sets`.

    Raises:
        ValueError: It has none, or classes with too few regions or slides for this coverage.
    """
    if not isinstance(sets, dict) or set(sets) != set(class_names):
        raise ValueError(
            "--coverage needs a model with prediction sets, and this one has none: python -m spider_tools.calibration "
            "fits them on a validation split."
        )
    least = 1 / (1 - coverage) - 1 - 1e-9
    few = [
        f"{name} ({sets[name]['regions']} regions of {sets[name]['slides']})"
        for name in class_names
        if sets[name]["slides" if sets[name]["by"] == "slide" else "regions"] < least
    ]
    if few:
        raise ValueError(
            f"--coverage {coverage:g} needs at least {np.ceil(least):.0f} regions of every class to fit prediction "
            f"sets to, or as many patients or slides where these count; there are too few of {', '.join(few)}."
        )
    return sets


def doubts_about(sets: Optional[Mapping[str, Any]]) -> list[str]:
    """What the promise of a coverage rests on, where it is little: classes whose regions are of few slides.

    Args:
        sets: As config.json of the model says it, by class; None if it is not known.
    """
    few = [
        f"{name} ({one['regions']} of {one['slides']})" for name, one in (sets or {}).items() if one["by"] != "slide"
    ]
    if not few:
        return []
    return [
        "The sets of some classes were fitted to regions of few patients or slides, each region counted by itself; for "
        f"others they may hold the true class less often than asked: {', '.join(few)}."
    ]


def make_prediction_sets(predictions: Predictions, coverage: float, context: ReportContext) -> dict[str, Any]:
    """What results.json says of prediction sets at a coverage.

    Returns:
        `asked`; `fitted_to`, the `sets` of the context; `coverage`, `size`, `empty` and `certain`: the share of sets
        with the true class, the mean number of classes of a set, and the shares of sets of none and of one, with 95%
        intervals; `per_class`: `coverage`, `size`, by true class, None where there is no region of it.

    Raises:
        ValueError: The predictions have no p-values.
    """
    p_values = predictions.limits.class_p_values
    if p_values is None:
        raise ValueError("The predictions have no p-values to make prediction sets of.")
    kept = p_values > 1 - coverage
    held, sizes = np.take_along_axis(kept, predictions.labels[:, None], axis=1)[:, 0], kept.sum(axis=1)
    every = np.ones(len(held), dtype=bool)
    means = {"coverage": (held, every), "size": (sizes, every), "empty": (sizes == 0, every)}
    means["certain"] = (sizes == 1, every)
    for label in range(len(predictions.class_names)):
        of_class = predictions.labels == label
        means |= {f"coverage {label}": (held, of_class), f"size {label}": (sizes, of_class)}
    found = means_with_intervals(means, predictions, context)
    per_class = {
        name: {figure: found[f"{figure} {label}"] for figure in ("coverage", "size")}
        for label, name in enumerate(predictions.class_names)
    }
    whole = {figure: found[figure] for figure in ("coverage", "size", "empty", "certain")}
    return {"asked": coverage, "fitted_to": context.sets, **whole, "per_class": per_class}


def prediction_sets_page(sets: Mapping[str, Any]) -> str:
    """The content of prediction_sets.md, of what `make_prediction_sets` gives."""
    rows = [_row("All regions", sets), *(_row(name, figures) for name, figures in sets["per_class"].items())]
    figures = [sets["coverage"], *(row["coverage"] for row in sets["per_class"].values())]
    return (
        f"# Prediction sets at a coverage of {sets['asked']:g}\n\nA set holds the classes that the model cannot rule "
        f"out. Of regions like those that the sets were fitted to, it holds the true one in {sets['asked']:.0%} at "
        f"least, class by class. Here {sets['certain']['value']:.0%} of the sets are of one class, and "
        f"{sets['empty']['value']:.0%} of none: nothing that the model knows is plausible there.\n\n"
        + "".join(f"{doubt}\n\n" for doubt in doubts_about(sets["fitted_to"]))
        + markdown_table(["True class", "Coverage", "95% interval", "Classes in a set", "95% interval"], rows)
        + reasons_text(figure for figure in figures if figure is not None)
    )


def _row(name: str, figures: Mapping[str, Any]) -> list[str]:
    cells = [name]
    for figure, digits in ((figures["coverage"], 3), (figures["size"], 2)):
        cells += [NOT_AVAILABLE] * 2 if figure is None else [f"{figure['value']:.{digits}f}", interval_text(figure)]
    return cells
