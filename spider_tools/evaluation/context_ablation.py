"""What smaller contexts cost: figures by context size, from one pass over the embeddings with patches masked."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..paper_results import published_organ
from . import bootstrap, metrics
from .predictions import Predictions
from .results import ReportContext, figures_with_intervals, with_interval
from .tables import NOT_AVAILABLE, change_text, import_paragraph, interval_text, markdown_table, reasons_text


def make_context_ablation(by_size: Mapping[int, Predictions], context: ReportContext) -> dict[str, Any]:
    """The content of context_ablation.json.

    Returns:
        `context_sizes`: by context size, from the largest on, `metrics` as in results.json and, from the second size
        on, `change`: accuracy and macro F1 minus those of the largest size. The intervals of a change come from the
        same sets of patients or slides on both sides. `published`: accuracy by context size, if the compared organ has
        it. `import`: as in results.json.

    Raises:
        ValueError: There are no predictions, a size is no positive odd number, or the regions differ.
    """
    sizes = sorted(by_size, reverse=True)
    if not sizes or any(size < 1 or size % 2 == 0 for size in sizes):
        raise ValueError(f"Expected predictions by odd context size, got the sizes {sizes}.")
    largest = by_size[sizes[0]]
    for size in sizes[1:]:
        other = by_size[size]
        same_regions = np.array_equal(other.labels, largest.labels) and list(other.drawn_by) == list(largest.drawn_by)
        if not same_regions or list(other.class_names) != list(largest.class_names):
            raise ValueError(f"The predictions for context sizes {size} and {sizes[0]} are not for the same regions.")
    rows: dict[str, Any] = {str(s): {"metrics": figures_with_intervals(by_size[s], context)} for s in sizes}
    for size in sizes[1:]:
        rows[str(size)]["change"] = _changes(largest, by_size[size], context)
    published = published_organ(context.compare).context_ablation if context.compare else None
    return {
        "context_sizes": rows,
        "published": published and {str(size): value for size, value in published.items()},
        "import": context.imported,
    }


def _changes(before: Predictions, after: Predictions, context: ReportContext) -> dict[str, dict[str, Any]]:
    names = ("accuracy", "macro_f1")
    values = [metrics.headline_figures(p.probabilities, p.labels) for p in (before, after)]

    def changes(drawn: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
        old, new = (bootstrap.resampled_figures(p.probabilities, p.labels, drawn, counts) for p in (before, after))
        return {name: new[name] - old[name] for name in names}

    intervals = bootstrap.intervals_over_draws(
        changes, before.drawn_by, context.resamples, context.seed, before.drawn_kind
    )
    return {name: with_interval(values[1][name] - values[0][name], name, intervals) for name in names}


def context_ablation_table(ablation: Mapping[str, Any]) -> str:
    """The content of context_ablation.md."""
    published = ablation["published"] or {}
    rows = []
    for size, row in ablation["context_sizes"].items():
        cells = [f"{size} x {size}"]
        for name in ("accuracy", "macro_f1"):
            figure = row["metrics"][name]
            change = row["change"][name] if "change" in row else None
            cells += [f"{figure['value']:.3f}", interval_text(figure)]
            cells.append(change_text(change) if change else NOT_AVAILABLE)
        rows.append([*cells, f"{published[size]:.3f}" if size in published else NOT_AVAILABLE])
    header = ["Context (patches)", "Accuracy", "95% interval", "Change", "F1 (macro)", "95% interval", "Change"]
    text = (
        "# Figures by context size\n\nOne model, with the patches outside the context masked. "
        "Changes are from the largest context, with a 95% interval from the same patients or slides on both sides. "
        "The published models were trained anew for each size.\n\n"
        + import_paragraph(ablation["import"])
        + markdown_table([*header, "Published accuracy"], rows)
    )
    return text + reasons_text(row["metrics"]["accuracy"] for row in ablation["context_sizes"].values())
