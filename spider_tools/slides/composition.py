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
        `tissue_mm2`; `classes`: by name, from the largest area on, `patches`, `area_mm2`, `percent_of_tissue`,
        `mean_probability` of the class over all of the tissue, and `most_certain`, up to five predictions of the class
        with the highest probability: `probability` and `center_level0`, x and y in level-0 px.
    """
    counts = np.bincount(predictions.predicted, minlength=len(predictions.class_names))
    total = len(predictions.positions)
    means = predictions.probabilities.mean(axis=0, dtype=np.float64)
    classes = {}
    for number in np.argsort(-counts, kind="stable"):
        classes[predictions.class_names[number]] = {
            "patches": int(counts[number]),
            "area_mm2": float(counts[number] * predictions.cell_area_mm2),
            "percent_of_tissue": float(100 * counts[number] / total),
            "mean_probability": float(means[number]),
            "most_certain": _most_certain(predictions, int(number)),
        }
    return {"tissue_mm2": float(total * predictions.cell_area_mm2), "classes": classes}


def composition_csv(composition: dict[str, Any]) -> str:
    """One row per class: class, patches, area_mm2, percent_of_tissue, mean_probability and the most certain places.

    A class name that a spreadsheet would run stands behind an apostrophe, and control characters are escaped; the names
    as they are stand in composition.json.
    """
    text = io.StringIO()
    columns = ["patches", "area_mm2", "percent_of_tissue", "mean_probability"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", *columns, "most_certain_xy_level0"])
    for name, row in composition["classes"].items():
        places = "; ".join("{:.0f} {:.0f}".format(*place["center_level0"]) for place in row["most_certain"])
        writer.writerow([spreadsheet_cell(name), *(row[column] for column in columns), places])
    return text.getvalue()


def _most_certain(predictions: SlidePredictions, number: int) -> list[dict[str, Any]]:
    members = np.flatnonzero(predictions.predicted == number)
    best = members[np.argsort(-predictions.probabilities[members, number], kind="stable")][:_CERTAIN_LOCATIONS]
    return [
        {
            "probability": float(predictions.probabilities[i, number]),
            "center_level0": [round(float(value), 1) for value in predictions.centers_level0[i]],
        }
        for i in best
    ]
