"""The picture of the confusion matrix."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from made_up_predictions import CONTEXT, NAMES, make_predictions
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from sklearn.metrics import confusion_matrix

from spider_tools import paper_results
from spider_tools.evaluation.confusion_matrix import draw_confusion_matrix
from spider_tools.evaluation.predictions import Predictions
from spider_tools.evaluation.report import write_report

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def predictions():
    return make_predictions()


def test_the_picture_shows_counts_and_shares_of_the_true_class(predictions):
    axes = draw_confusion_matrix(predictions).axes[0]
    counts = confusion_matrix(predictions.labels, predictions.predicted, labels=range(5))
    shares = np.ma.filled(axes.images[0].get_array(), np.nan)
    assert shares[:4] == pytest.approx(counts[:4] / counts[:4].sum(axis=1, keepdims=True))
    assert np.isnan(shares[4]).all()
    shown = {(round(t.get_position()[1]), round(t.get_position()[0])): int(t.get_text()) for t in axes.texts}
    assert shown == {(row, column): counts[row, column] for row, column in zip(*np.nonzero(counts))}
    assert [label.get_text() for label in axes.get_xticklabels()] == NAMES
    assert axes.get_yticklabels()[4].get_text() == "Absent  (0)"


@pytest.mark.parametrize("organ", ["skin", "breast"])
def test_the_picture_of_a_published_organ_is_readable(organ):
    """Names do not overlap, counts of five digits stay in their cells, and no font is tiny."""
    names = [f"{name} (long)" for name in paper_results.class_names(organ)]
    crowded = make_predictions(names, regions=200_000, sharpness=4.0)
    figure = draw_confusion_matrix(crowded)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    axes = figure.axes[0]
    cell_width = axes.get_window_extent(renderer).width / len(names)
    assert max(len(text.get_text()) for text in axes.texts) == 5
    assert len(axes.texts) == np.count_nonzero(
        confusion_matrix(crowded.labels, crowded.predicted, labels=range(len(names)))
    )
    for text in axes.texts:
        assert text.get_window_extent(renderer).width < cell_width
        assert text.get_fontsize() >= 5
    boxes = [label.get_window_extent(renderer) for label in axes.get_yticklabels()]
    for upper, lower in pairwise(boxes):
        assert upper.y0 > lower.y1
    assert all(box.x0 >= 0 for box in boxes)
    for column in axes.get_xticklabels():
        assert column.get_fontsize() >= 8
        assert column.get_window_extent(renderer).x0 >= 0
        assert column.get_window_extent(renderer).y0 >= 0


def test_a_dollar_sign_in_a_name_is_no_formula(tmp_path):
    write_report(tmp_path, make_predictions(["a $x_", "$\\frac$ b", "c"]), CONTEXT)
    assert (tmp_path / "confusion_matrix.png").stat().st_size > 0


@pytest.mark.parametrize("classes", [2, 70])
def test_the_picture_grows_with_the_classes_within_bounds(tmp_path, classes):
    probabilities = np.eye(classes)
    few = Predictions(probabilities, np.arange(classes), ["s"] * classes, [f"Class {i}" for i in range(classes)])
    write_report(tmp_path, few, CONTEXT)
    with Image.open(tmp_path / "confusion_matrix.png") as image:
        image.load()
        assert 250 <= image.width <= 3500
        assert 200 <= image.height <= 3500


def test_drawing_leaves_the_settings_of_matplotlib_alone(predictions):
    before = matplotlib.rcParams.copy()
    draw_confusion_matrix(predictions)
    assert matplotlib.rcParams.copy() == before
    program = "import spider_tools.evaluation.report, sys; print('matplotlib.pyplot' in sys.modules)"
    program = "import sys; sys.modules['transformers'] = None; " + program
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False"]
