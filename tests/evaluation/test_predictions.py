"""Predictions: what fits together, and the table of one row per region."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.stats
from made_up_predictions import CONTEXT, NAMES, make_predictions

from spider_tools.evaluation.predictions import Predictions, predictions_table
from spider_tools.evaluation.report import write_report
from spider_tools.evaluation.results import make_results


def test_predictions_read_back_from_parquet(tmp_path):
    predictions = make_predictions()
    write_report(tmp_path, predictions, CONTEXT)
    table = pq.read_table(tmp_path / "predictions.parquet")
    columns = [f"probability: {name}" for name in NAMES]
    assert table.column_names == [
        "slide_id",
        "patient_id",
        "patch",
        "true_class",
        "predicted_class",
        *columns,
        "entropy",
        "unfamiliarity",
        "is_familiar",
    ]
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
    assert table["patch"].to_pylist() == table["patient_id"].to_pylist() == [None, None, None]


def test_intervals_draw_patients_where_they_are_named():
    slides = [f"slide {i}" for i in range(24)]
    fields = {"probabilities": np.tile(np.eye(2), (12, 1)), "labels": np.repeat([0, 1], 12), "class_names": ["A", "B"]}
    patients = [str(i // 2) for i in range(24)]
    known = Predictions(**fields, slide_ids=slides, patient_ids=patients)
    assert (known.num_patients, known.drawn_kind, len(set(known.drawn_by))) == (12, "patient", 12)
    by_hand = Predictions(**fields, slide_ids=patients)
    results = [make_results(p, CONTEXT) for p in (known, by_hand, Predictions(**fields, slide_ids=slides))]
    intervals = [[figure["ci95"] for figure in result["metrics"].values()] for result in results]
    assert intervals[0] == intervals[1] != intervals[2]
    assert [(result["slides"], result["patients"]) for result in results] == [(24, 12), (12, None), (24, None)]
    assert predictions_table(known)["patient_id"].to_pylist() == patients


def test_a_patient_named_like_a_slide_is_another_one():
    some = Predictions(np.eye(3), np.arange(3), ["1", "2", "2"], ["A", "B", "C"], patient_ids=["2", None, None])
    assert (some.num_patients, some.drawn_kind, len(set(some.drawn_by))) == (None, "slide", 2)


def test_too_few_patients_have_no_interval_and_it_says_so():
    slides = [str(i) for i in range(12)]
    few = Predictions(np.tile(np.eye(2), (6, 1)), np.arange(12) % 2, slides, ["A", "B"], patient_ids=["p", "q"] * 6)
    reasons = {figure["reason"] for figure in make_results(few, CONTEXT)["metrics"].values()}
    assert reasons == {
        "No 95% interval can be given: the regions come from 2 patients, and resampling patients needs at least 10."
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"class_names": ["A", "B"]}, r"Expected 3 different class names, got \['A', 'B'\]"),
        ({"class_names": ["A", "B", "A"]}, "3 different class names"),
        ({"slide_ids": ["s"]}, "one of `slide_ids` per region, got 1 for 3"),
        ({"patient_ids": ["p"] * 2}, "one of `patient_ids` per region, got 2 for 3"),
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
