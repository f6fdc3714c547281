"""The headline figures, worked out by hand, held against a loop and against scikit-learn."""

import numpy as np
import pytest
from metrics_by_loop import loop_figures, one_hot, random_regions
from sklearn import metrics as sklearn_metrics

from spider_tools.evaluation import metrics


def test_figures_of_six_regions_worked_out_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 2])
    predicted = np.array([0, 0, 1, 1, 2, 2])
    # Class 3 is neither true nor predicted: it does not count.
    figures = metrics.headline_figures(one_hot(predicted, 4), labels)
    assert figures["accuracy"] == pytest.approx(4 / 6)
    assert figures["macro_precision"] == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)
    assert figures["macro_recall"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert figures["macro_f1"] == pytest.approx((4 / 5 + 1 / 2 + 2 / 3) / 3)
    assert figures["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert tuple(figures) == metrics.HEADLINE_FIGURES


def test_a_class_that_is_predicted_but_never_true_counts_as_zero_except_in_balanced_accuracy():
    labels = np.array([0, 0, 1, 1])
    predicted = np.array([0, 2, 1, 1])
    assert metrics.macro_precision_recall_f1(labels, predicted) == pytest.approx(
        ((1 + 1 + 0) / 3, (1 / 2 + 1 + 0) / 3, (2 / 3 + 1 + 0) / 3)
    )
    assert metrics.balanced_accuracy(labels, predicted) == pytest.approx(3 / 4)


def test_a_class_that_is_true_but_never_predicted_counts_as_zero():
    labels = np.array([0, 0, 0, 1])
    predicted = np.array([0, 0, 0, 0])
    assert metrics.macro_precision_recall_f1(labels, predicted) == pytest.approx(
        ((3 / 4 + 0) / 2, (1 + 0) / 2, (6 / 7 + 0) / 2)
    )


@pytest.mark.parametrize("seed", range(4))
def test_figures_equal_those_of_a_loop(seed):
    probabilities, labels, _ = random_regions(seed, classes=7)
    labels[labels == 2] = 4  # now class 2 is predicted and never true
    probabilities[:, 5] = 0  # and class 5 true and never predicted
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    assert metrics.headline_figures(probabilities, labels) == pytest.approx(loop_figures(probabilities, labels))


def test_figures_equal_those_of_scikit_learn():
    probabilities, labels, _ = random_regions(5, classes=6)
    predicted = probabilities.argmax(axis=1)
    figures = metrics.headline_figures(probabilities, labels)
    assert figures["accuracy"] == sklearn_metrics.accuracy_score(labels, predicted)
    assert figures["macro_f1"] == sklearn_metrics.f1_score(labels, predicted, average="macro")
    assert figures["macro_precision"] == sklearn_metrics.precision_score(labels, predicted, average="macro")
    assert figures["macro_recall"] == sklearn_metrics.recall_score(labels, predicted, average="macro")
    assert figures["balanced_accuracy"] == pytest.approx(sklearn_metrics.balanced_accuracy_score(labels, predicted))
    assert figures["top3_accuracy"] == sklearn_metrics.top_k_accuracy_score(labels, probabilities, k=3)


def test_among_equal_probabilities_the_first_classes_are_the_top_ones():
    probabilities = np.array([[0.25, 0.25, 0.25, 0.25]] * 4 + [[0.1, 0.3, 0.3, 0.3]])
    hits = metrics.hits_among_top(probabilities, np.array([0, 1, 2, 3, 0]), k=3)
    assert hits.tolist() == [True, True, True, False, False]


def test_top_1_is_the_accuracy_even_with_ties():
    rng = np.random.default_rng(0)
    probabilities = rng.integers(1, 3, (100, 4)).astype(float)
    labels = rng.integers(0, 4, 100)
    assert metrics.top_k_accuracy(probabilities, labels, k=1) == (probabilities.argmax(axis=1) == labels).mean()


@pytest.mark.parametrize("classes", [2, 3])
def test_with_no_more_than_three_classes_all_are_among_the_top_three(classes):
    labels = np.arange(10) % classes
    assert metrics.top_k_accuracy(one_hot((labels + 1) % classes, classes), labels, k=3) == 1.0


@pytest.mark.parametrize(
    ("confidences", "hits", "expected"),
    [
        ([0.9, 0.9], [True, False], 0.4),  # one bin: half are right, 0.9 was claimed
        ([0.6, 0.62], [True, False], (0.4 + 0.62) / 2),  # 0.6 closes the bin below 0.62's
        ([0.6, 0.55], [True, False], 0.575 - 0.5),  # and shares that of 0.55
        ([1.0, 1.0, 0.7, 0.7], [True, True, True, False], (0 + 0 + 2 * (0.7 - 0.5)) / 4),
    ],
)
def test_calibration_error_worked_out_by_hand(confidences, hits, expected):
    probabilities = np.array([[c, 1 - c] for c in confidences])
    labels = np.array([0 if hit else 1 for hit in hits])
    assert metrics.expected_calibration_error(probabilities, labels) == pytest.approx(expected)


def test_a_probability_rounded_above_one_falls_into_the_last_bin():
    probabilities = np.array([[1 + 1e-6, 0.0], [0.0, 1.0]])
    assert metrics.expected_calibration_error(probabilities, np.array([0, 1])) == pytest.approx(0, abs=1e-6)


def test_rows_of_the_confusion_matrix_are_true_classes():
    matrix = metrics.confusion_matrix(np.array([0, 0, 0, 2]), np.array([1, 1, 0, 2]), num_classes=4)
    assert matrix.tolist() == [[1, 2, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_per_class_table_worked_out_by_hand():
    labels = np.array([0, 0, 0, 1, 1])
    predicted = np.array([0, 1, 2, 1, 1])
    table = metrics.per_class_table(labels, predicted, ["Fat", "Nevus", "Wart", "Vessels"])
    assert list(table) == ["Fat", "Nevus", "Wart", "Vessels"]
    assert table["Fat"] == metrics.ClassScores(1 / 3, 1.0, pytest.approx(1 / 2), 3, 1)
    assert table["Nevus"] == metrics.ClassScores(1.0, 2 / 3, pytest.approx(4 / 5), 2, 3)
    assert table["Wart"] == metrics.ClassScores(0.0, 0.0, 0.0, 0, 1)
    assert table["Vessels"] == metrics.ClassScores(0.0, 0.0, 0.0, 0, 0)


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (np.ones(3), np.zeros(3, int), r"shape \(regions, classes\), got float64 of shape \(3,\)"),
        (np.eye(3, dtype=int), np.arange(3), "float probabilities.*got int64"),
        (np.eye(3), np.arange(3.0), r"integer labels of shape \(regions,\), got float64"),
        (np.eye(3), np.arange(2), "got 2 labels and probabilities of 3"),
        (np.ones((3, 1)), np.zeros(3, int), "at least two classes, got 1"),
        (np.array([[0.5, 0.5], [2.0, -1.0]]), np.arange(2), "Region 1.*Logits need a softmax"),
        (np.array([[0.5, 0.5], [0.7, 0.7]]), np.arange(2), "Region 1.*add up to 1"),
        (np.array([[np.nan, 0.5], [0.5, 0.5]]), np.arange(2), "Region 0.*add up to 1"),
        (np.eye(3), np.array([0, 1, 3]), r"Region 2: expected a label in 0\.\.2, got 3"),
        (np.eye(3), np.array([0, -1, 2]), r"Region 1: expected a label in 0\.\.2, got -1"),
        (np.zeros((0, 3)), np.zeros(0, int), "no region to evaluate: the split is empty"),
        (np.eye(3), np.array([1, 1, 1]), "All 3 regions are of class 1"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        metrics.headline_figures(probabilities, labels)
