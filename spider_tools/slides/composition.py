"""How much of the tissue is of which class, and where each class is most certain."""

import csv
import io
from typing import Any, Optional

import numpy as np

from ..plain_text import spreadsheet_cell
from .predictions import SlidePredictions

_CERTAIN_LOCATIONS = 5


def make_composition(predictions: SlidePredictions) -> dict[str, Any]:
    """The content of composition.json.

    A cell of the map counts as much as there is tissue in it.

    Returns:
        `tissue_mm2`; `cells_mm2`, the area of the map, tissue or not; `percent_left_out` of the tissue that was found,
        because it covers too little of a cell, lies at the slide's edge or cannot be read; `percent_unfamiliar` of the
        tissue, None if the model does not know; `classes`: by name, from the largest area on, `patches`, `area_mm2` of
        tissue, `percent_of_tissue`, `percent_unfamiliar` of the class, `mean_probability` of the class over all of the
        tissue, and `most_certain`, up to five predictions of the class with the highest probability: `probability` and
        `center_level0`, x and y in level-0 px. A map that abstains has the class `UNFAMILIAR` too, without the last
        two.
    """
    tissue, shown = predictions.tissue_mm2, predictions.shown
    counts = np.bincount(shown, minlength=len(predictions.shown_names))
    areas = np.bincount(shown, tissue, len(predictions.shown_names))
    means = [*np.average(predictions.probabilities, axis=0, weights=tissue).tolist(), None]
    classes = {}
    for number in np.argsort(-areas, kind="stable"):
        classes[predictions.shown_names[number]] = {
            "patches": int(counts[number]),
            "area_mm2": float(areas[number]),
            "percent_of_tissue": float(100 * areas[number] / tissue.sum()),
            "percent_unfamiliar": _percent_unfamiliar(predictions, shown == number),
            "mean_probability": means[number],
            "most_certain": _most_certain(predictions, int(number)),
        }
    return {
        "tissue_mm2": float(tissue.sum()),
        "cells_mm2": float(len(tissue) * predictions.cell_area_mm2),
        "percent_left_out": 100 * predictions.left_out_share,
        "percent_unfamiliar": _percent_unfamiliar(predictions, np.ones(len(tissue), dtype=bool)),
        "classes": classes,
    }


def _percent_unfamiliar(predictions: SlidePredictions, members: np.ndarray) -> Optional[float]:
    """Of the tissue of some predictions, bool `(n,)`; None where there is none, or the model does not know."""
    unfamiliar, tissue = predictions.is_unfamiliar, predictions.tissue_mm2[members]
    if unfamiliar is None or not tissue.any():
        return None
    return float(100 * np.average(unfamiliar[members], weights=tissue))


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
