"""The picture of a confusion matrix."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from . import metrics
from .predictions import Predictions


def draw_confusion_matrix(predictions: Predictions) -> Figure:
    """A picture of the confusion matrix: true classes are rows, colours are shares of the row, texts are counts.

    The picture grows with the number of classes. Rows without regions stay grey, cells without regions have no text.
    """
    names = list(predictions.class_names)
    counts = metrics.confusion_matrix(predictions.labels, predictions.predicted, len(names))
    support = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, support, out=np.full(counts.shape, np.nan), where=support > 0)
    cell_inches = 0.42 if len(names) <= 40 else 0.24
    margin = 1.6 + 0.075 * min(max(map(len, names)), 60)
    side = margin + cell_inches * len(names)
    figure = Figure(figsize=(side + 0.8, side), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.set_facecolor("0.85")
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(names))
    # A dollar sign in a name is no formula.
    axes.set_xticks(ticks, names, rotation=45, ha="right", rotation_mode="anchor", fontsize=9, parse_math=False)
    axes.set_yticks(ticks, [f"{n}  ({s:,})" for n, s in zip(names, support[:, 0])], fontsize=9, parse_math=False)
    # Thin lines lead the eye from a cell to its names.
    edges = np.arange(len(names) + 1) - 0.5
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.grid(which="minor", color="0.88", linewidth=0.6)
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel("Predicted class")
    axes.set_ylabel("True class (regions)")
    figure.colorbar(image, ax=axes, shrink=0.5, label="Share of the true class")
    _write_counts(axes, counts, shares, cell_inches)
    return figure


def _write_counts(axes: Any, counts: np.ndarray, shares: np.ndarray, cell_inches: float) -> None:
    for row, column in zip(*np.nonzero(counts)):
        text = f"{counts[row, column]:d}"
        # A digit is 0.64 of the font size wide; points are a 72nd of an inch.
        font_size = min(9.0, 0.9 * cell_inches * 72 / (0.64 * len(text)))
        if font_size < 5:
            continue
        color = "white" if shares[row, column] > 0.55 else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=font_size, color=color)
