"""How often a model finds regions unfamiliar, and how right it is about those and about the others."""

from collections.abc import Mapping
from typing import Any, Optional

import numpy as np

from .predictions import Predictions
from .results import ReportContext
from .shares import means_with_intervals
from .tables import interval_text, markdown_table, reasons_text

_TITLES = {
    "unfamiliar": "Unfamiliar, share of the regions",
    "accuracy_of_familiar": "Accuracy on familiar regions",
    "accuracy_of_unfamiliar": "Accuracy on unfamiliar regions",
}


def make_familiarity(predictions: Predictions, context: ReportContext) -> Optional[dict[str, Any]]:
    """What results.json says of familiarity.

    Returns:
        `threshold`, and with 95% intervals `unfamiliar`, a share of the regions, `accuracy_of_familiar` and
        `accuracy_of_unfamiliar`, None where there are none. None of a model that does not know what is familiar.
    """
    familiar = predictions.limits.is_familiar
    if familiar is None:
        return None
    right = predictions.predicted == predictions.labels
    means = {
        "unfamiliar": (~familiar, np.ones_like(familiar)),
        "accuracy_of_familiar": (right, familiar),
        "accuracy_of_unfamiliar": (right, ~familiar),
    }
    return {"threshold": predictions.limits.threshold, **means_with_intervals(means, predictions, context)}


def familiarity_text(familiarity: Optional[Mapping[str, Any]]) -> str:
    """What calibration.md says of it, of what `make_familiarity` gives."""
    if familiarity is None:
        return "\nThe model does not know what is familiar: it names a class for whatever it is shown.\n"
    figures = {name: familiarity[name] for name in _TITLES if familiarity[name] is not None}
    rows = [[_TITLES[name], f"{figure['value']:.3f}", interval_text(figure)] for name, figure in figures.items()]
    return (
        "\n## What it does not know\n\nA region is unfamiliar if it is less like what the model has learnt from than "
        "nearly all regions that it was tried on. Its class is a guess at best.\n\n"
        + markdown_table(["Figure", "Value", "95% interval"], rows)
        + reasons_text(figures.values())
    )
