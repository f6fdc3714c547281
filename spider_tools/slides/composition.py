"""How much of the tissue is of which class, and where each class is most certain."""

import csv
import io
from typing import Any

import numpy as np

from ..plain_text import spreadsheet_cell
from .predictions import SlidePredictions

_CERTAIN_LOCATIONS = 5


def make_composition(predictions: SlidePredictions) -> dict[str, Any]:
    """The content of composition.json.

    Returns:
        `tissue_mm2`; `percent_unfamiliar` of it, None if the model does not know; `classes`: by name, from the largest
        area on, `patches`, `area_mm2`, `percent_of_tissue`, `percent_unfamiliar` of the class, `mean_probability` of
        the class over all of the tissue, and `most_certain`, up to five predictions of the class with the highest
        probability: `probability` and `center_level0`, x and y in level-0 px. A map that abstains has the class
        `UNFAMILIAR` too, without the last two.
    """
    counts = np.bincount(predictions.shown, minlength=len(predictions.shown_names))
    total = len(predictions.positions)
    means = [*predictions.probabilities.mean(axis=0, dtype=np.float64).tolist(), None]
    unfamiliar = predictions.is_unfamiliar
    classes = {}
    for number in np.argsort(-counts, kind="stable"):
        classes[predictions.shown_names[number]] = {
            "patches": int(counts[number]),
            "area_mm2": float(counts[number] * predictions.cell_area_mm2),
            "percent_of_tissue": float(100 * counts[number] / total),
            "percent_unfamiliar": None
            if unfamiliar is None or counts[number] == 0
            else float(100 * unfamiliar[predictions.shown == number].mean()),
            "mean_probability": means[number],
            "most_certain": _most_certain(predictions, int(number)),
        }
    share = predictions.unfamiliar_share
    return {
        "tissue_mm2": float(total * predictions.cell_area_mm2),
        "percent_unfamiliar": None if share is None else 100 * share,
        "classes": classes,
    }


def composition_csv(composition: dict[str, Any]) -> str:
    """One row per class: class, patches, area_mm2, percent_of_tissue, percent_unfamiliar, mean_probability and places.

    A class name that a spreadsheet would run stands behind an apostrophe, and control characters are escaped; the names
    as they are stand in composition.json.
    """
    text = io.StringIO()
    columns = ["patches", "area_mm2", "percent_of_tissue", "percent_unfamiliar", "mean_probability"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", *columns, "most_certain_xy_level0"])
    for name, row in composition["classes"].items():
        places = "; ".join("{:.0f} {:.0f}".format(*place["center_level0"]) for place in row["most_certain"])
        writer.writerow([spreadsheet_cell(name), *(row[column] for column in columns), places])
    return text.getvalue()


def _most_certain(predictions: SlidePredictions, number: int) -> list[dict[str, Any]]:
    if number == len(predictions.class_names):
        return []
    members = np.flatnonzero(predictions.shown == number)
    best = members[np.argsort(-predictions.probabilities[members, number], kind="stable")][:_CERTAIN_LOCATIONS]
    return [
        {
            "probability": float(predictions.probabilities[i, number]),
            "center_level0": [round(float(value), 1) for value in predictions.centers_level0[i]],
        }
        for i in best
    ]
