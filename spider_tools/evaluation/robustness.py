"""What disturbances cost: figures of the same regions turned, restained, in other light, blurred and so on."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from . import bootstrap, metrics
from .predictions import Predictions
from .results import ReportContext, with_interval
from .tables import NOT_AVAILABLE, change_text, import_paragraph, interval_text, markdown_table, reasons_text

_FIGURES = ("accuracy", "macro_f1")


def make_robustness(undisturbed: Predictions, disturbed: Mapping[str, Predictions], context: ReportContext) -> dict:
    """The content of robustness.json.

    Args:
        undisturbed: What the model says of the regions as they are.
        disturbed: The same for the same regions, by name of the disturbance.
        context: For the intervals.

    Returns:
        `undisturbed`: `accuracy` and `macro_f1` with `value` and `ci95` as in results.json. `disturbances`: by name
        the same, `change` of each from the undisturbed one, and `agreement`, the share of the regions whose predicted
        class is the same as undisturbed. The intervals of `change` and `agreement` come from the same sets of patients
        or slides on both sides. `import`: as in results.json.

    Raises:
        ValueError: The regions or classes differ.
    """
    for name, other in disturbed.items():
        same_regions = np.array_equal(other.labels, undisturbed.labels)
        same_regions &= list(other.drawn_by) == list(undisturbed.drawn_by)
        if not same_regions or list(other.class_names) != list(undisturbed.class_names):
            raise ValueError(f"The predictions for {name!r} are not for the same regions as the undisturbed ones.")
    plain = _row(undisturbed, undisturbed, context)
    return {
        "undisturbed": {figure: plain[figure] for figure in _FIGURES},
        "disturbances": {name: _row(undisturbed, other, context) for name, other in disturbed.items()},
        "import": context.imported,
    }


def _row(before: Predictions, after: Predictions, context: ReportContext) -> dict[str, Any]:
    old, new = (metrics.headline_figures(p.probabilities, p.labels) for p in (before, after))
    same = before.predicted == after.predicted
    values = {"agreement": float(same.mean())}
    for name in _FIGURES:
        values |= {name: new[name], f"change {name}": new[name] - old[name]}

    def resampled(drawn: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
        old, new = (bootstrap.resampled_figures(p.probabilities, p.labels, drawn, counts) for p in (before, after))
        samples = {"agreement": (counts @ np.bincount(drawn, same)) / (counts @ np.bincount(drawn))}
        for name in _FIGURES:
            samples |= {name: new[name], f"change {name}": new[name] - old[name]}
        return samples

    intervals = bootstrap.intervals_over_draws(
        resampled, before.drawn_by, context.resamples, context.seed, before.drawn_kind
    )
    row = {name: with_interval(value, name, intervals) for name, value in values.items()}
    changes = {name: row[f"change {name}"] for name in _FIGURES}
    return {**{name: row[name] for name in _FIGURES}, "change": changes, "agreement": row["agreement"]}


def robustness_page(robustness: Mapping[str, Any]) -> str:
    """The content of robustness.md, of what `make_robustness` gives."""
    rows = []
    for name, row in {"undisturbed": robustness["undisturbed"], **robustness["disturbances"]}.items():
        cells = [name]
        for figure in _FIGURES:
            change = change_text(row["change"][figure]) if "change" in row else NOT_AVAILABLE
            cells += [f"{row[figure]['value']:.3f}", interval_text(row[figure]), change]
        agreement = row.get("agreement")
        cells += [f"{agreement['value']:.3f}", interval_text(agreement)] if agreement else [NOT_AVAILABLE] * 2
        rows.append(cells)
    figure_columns = ["95% interval", "Change"]
    header = ["Regions", "Accuracy", *figure_columns, "F1 (macro)", *figure_columns, "Same class", "95% interval"]
    return (
        "# Figures of disturbed regions\n\nThe same regions, each disturbed in one way, all alike. Regions are turned "
        "and mirrored as a whole; everything else happens to each patch on its own, magnification about its own "
        "centre. Changes are from the undisturbed regions, with a 95% interval from the same patients or slides on "
        "both sides. Same class: the share of the regions that get the class that they get undisturbed.\n\n"
        + import_paragraph(robustness["import"])
        + markdown_table(header, rows)
        + reasons_text(robustness["undisturbed"].values())
    )


def draw_robustness(robustness: Mapping[str, Any]) -> Figure:
    """Macro F1 and agreement of each disturbance, with their intervals, beside the undisturbed regions."""
    rows = robustness["disturbances"]
    figure = Figure(figsize=(9, 1.4 + 0.26 * len(rows)), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    undisturbed = robustness["undisturbed"]["macro_f1"]
    left.axvline(undisturbed["value"], color="0.4", linewidth=1, linestyle="--", label="undisturbed")
    if undisturbed["ci95"] is not None:
        left.axvspan(*undisturbed["ci95"], color="0.9")
    left.legend(loc="lower left", fontsize=8)
    for axes, name, title in ((left, "macro_f1", "F1 (macro)"), (right, "agreement", "Same class as undisturbed")):
        for place, row in enumerate(rows.values()):
            if row[name]["ci95"] is not None:
                axes.plot(row[name]["ci95"], (place, place), color="tab:blue", linewidth=1.5)
            axes.plot(row[name]["value"], place, color="tab:blue", marker="o", markersize=5)
        axes.set_xlabel(f"{title}, 95% interval" if undisturbed["ci95"] is not None else title)
        axes.grid(axis="x", alpha=0.3)
    left.set_yticks(range(len(rows)), list(rows), fontsize=9)
    left.invert_yaxis()
    return figure
