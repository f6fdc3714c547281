"""The map of a slide as the report's page needs it: what a reader moves, switches on and off, and asks."""

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..slide_files.slide import Slide
from .colors import Look
from .predictions import SlidePredictions
from .report_tiles import TILE_PX, TileLevel

_LARGEST = 65535


def make_map(
    slide: Slide, predictions: SlidePredictions, tiles: Sequence[TileLevel], looks: Mapping[str, Look]
) -> dict[str, Any]:
    """What the page draws, in the form of JSON; arrays are little-endian bytes in base64.

    Lengths are in um from the corner of level 0.

    Returns:
        `size_um` and `mpp` of level 0; `tile_px` and `levels` of the pictures; `lattice`, with the place of its first
        cell and the size of one; `classes`, those of `shown_names`, a name, mark and color each; `cells`, an array for
        each of `row`, `column`, `shown` (number in `classes`), `first` and `second` (the two most probable classes,
        numbers likewise), their probabilities and `tissue` in 65,535ths, `entropy` in nat and `unfamiliarity` as
        float32, which is None if the model does not know; `most_entropy` and `unfamiliarity_threshold`.
    """
    x_edges, y_edges = (edges * mpp for edges, mpp in zip(predictions.lattice.cell_edges_level0(), predictions.mpp))
    return {
        "size_um": [side * mpp for side, mpp in zip(slide.size, slide.mpp)],
        "mpp": list(slide.mpp),
        "tile_px": TILE_PX,
        "levels": [_level(level) for level in tiles],
        "lattice": {
            "rows": predictions.lattice.shape[0],
            "columns": predictions.lattice.shape[1],
            "corner_um": [float(x_edges[0]), float(y_edges[0])],
            "cell_um": [float(x_edges[1] - x_edges[0]), float(y_edges[1] - y_edges[0])],
        },
        "classes": [
            {"name": name, "mark": looks[name].mark, "color": list(looks[name].color)}
            for name in predictions.shown_names
        ],
        "cells": _cells(predictions),
        "cell_mm2": predictions.cell_area_mm2,
        "most_entropy": math.log(max(2, len(predictions.class_names))),
        "unfamiliarity_threshold": None if predictions.is_unfamiliar is None else predictions.unfamiliarity_threshold,
    }


def _level(level: TileLevel) -> dict[str, Any]:
    tiles = {f"{column},{row}": _base64(jpeg) for (column, row), jpeg in level.tiles.items()}
    return {"um": level.um, "size": list(level.size), "tiles": tiles}


def _cells(predictions: SlidePredictions) -> dict[str, Any]:
    probabilities = predictions.probabilities
    places = np.arange(len(probabilities))
    first = predictions.predicted
    others = probabilities.copy()
    others[places, first] = -1
    second = others.argmax(axis=1)
    unfamiliarity = predictions.unfamiliarity
    return {
        "row": _array(predictions.positions[:, 0], "<u4"),
        "column": _array(predictions.positions[:, 1], "<u4"),
        "shown": _array(predictions.shown, "<u2"),
        "first": _array(first, "<u2"),
        "second": _array(second, "<u2"),
        "first_probability": _share(probabilities[places, first]),
        "second_probability": _share(np.maximum(others[places, second], 0)),
        "tissue": _share(predictions.tissue_mm2 / predictions.cell_area_mm2),
        "entropy": _array(predictions.entropy, "<f4"),
        "unfamiliarity": None if unfamiliarity is None else _array(unfamiliarity, "<f4"),
    }


def _share(values: np.ndarray) -> str:
    return _array(np.rint(np.clip(values, 0, 1) * _LARGEST), "<u2")


def _array(values: np.ndarray, dtype: str) -> str:
    return _base64(values.astype(dtype).tobytes())


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
