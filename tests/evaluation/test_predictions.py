"""Predictions: what fits together, and the table of one row per region."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.stats
from made_up_predictions import CONTEXT, NAMES, make_predictions

from spider_tools.evaluation.predictions import Predictions, predictions_table
from spider_tools.evaluation.report import write_report


def test_predictions_read_back_from_parquet(tmp_path):
    predictions = make_predictions()
    write_report(tmp_path, predictions, CONTEXT)
    table = pq.read_table(tmp_path / "predictions.parquet")
    columns = [f"probability: {name}" for name in NAMES]
    assert table.column_names == ["slide_id", "patch", "true_class", "predicted_class", *columns, "entropy"]
    assert table["slide_id"].to_pylist() == predictions.slide_ids
    assert table["patch"].to_pylist() == predictions.region_ids
    assert table["true_class"].to_pylist() == [NAMES[label] for label in predictions.labels]
    assert table["predicted_class"].to_pylist() == [NAMES[row.argmax()] for row in predictions.probabilities]
    stored = np.stack([table[column].to_numpy() for column in columns], axis=1)
    assert np.array_equal(stored, predictions.probabilities)
    assert table["entropy"].to_numpy() == pytest.approx(scipy.stats.entropy(predictions.probabilities, axis=1))


def test_certain_predictions_have_no_entropy_and_patches_may_be_unknown():
    table = predictions_table(Predictions(np.eye(3), np.arange(3), ["a", "b", "c"], ["X", "Y", "Z"]))
    assert table["entropy"].to_pylist() == [0.0, 0.0, 0.0]
    assert not np.signbit(table["entropy"].to_numpy()).any()
    assert table["patch"].to_pylist() == [None, None, None]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"class_names": ["A", "B"]}, r"Expected 3 different class names, got \['A', 'B'\]"),
        ({"class_names": ["A", "B", "A"]}, "3 different class names"),
        ({"slide_ids": ["s"]}, "one of `slide_ids` per region, got 1 for 3"),
        ({"region_ids": ["p"] * 4}, "one of `region_ids` per region, got 4 for 3"),
        ({"labels": np.array([1, 1, 1])}, "All 3 regions are of class 'B'"),
        ({"labels": np.array([0, 1, 5])}, "Region 2: expected a label"),
        ({"probabilities": np.eye(3) * 2}, "Region 0: expected probabilities"),
        ({"probabilities": np.zeros((0, 3)), "labels": np.zeros(0, int), "slide_ids": []}, "the split is empty"),
    ],
)
def test_predictions_that_do_not_fit_together_are_refused(fields, message):
    whole = {
        "probabilities": np.eye(3),
        "labels": np.arange(3),
        "slide_ids": ["s", "t", "u"],
        "class_names": ["A", "B", "C"],
    }
    with pytest.raises(ValueError, match=message):
        Predictions(**{**whole, **fields})
