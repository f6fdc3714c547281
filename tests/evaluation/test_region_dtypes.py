"""Every dtype of probabilities and labels gives the same figures, and no function takes what another refuses."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from metrics_by_loop import loop_figures, random_regions

from spider_tools.evaluation import bootstrap, metrics
from spider_tools.evaluation.library import SpiderMetric
from spider_tools.evaluation.predictions import Predictions

CLASSES, REGIONS = 40, 300
INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", ">i2", "<u4"]


@pytest.fixture(scope="module")
def regions():
    """Probabilities, labels and slides. A small integer does not hold a label times the number of classes."""
    return random_regions(1, regions=REGIONS, classes=CLASSES)


def slides_of(labels):
    return [f"slide {number % 12}" for number in range(len(labels))]


def by_headline(probabilities, labels):
    return metrics.headline_figures(probabilities, labels)


def by_bootstrap(probabilities, labels):
    return bootstrap.bootstrap_intervals(probabilities, labels, slides_of(labels), resamples=20)


def by_metric(probabilities, labels):
    return SpiderMetric().compute(predictions=probabilities, references=labels)


def by_single_regions(probabilities, labels):
    metric = SpiderMetric()
    for row, label in zip(probabilities, labels):
        metric.add(prediction=row, reference=label)
    return metric.compute()


def by_predictions(probabilities, labels):
    classes = len(probabilities[0])
    made = Predictions(probabilities, labels, slides_of(labels), [f"class {number}" for number in range(classes)])
    return metrics.headline_figures(made.probabilities, made.labels)


DOORS = [by_headline, by_bootstrap, by_metric, by_predictions]


@pytest.mark.parametrize("dtype", INTEGERS)
def test_the_dtype_of_labels_changes_no_figure_and_no_interval(regions, dtype):
    probabilities, labels, slides = regions
    as_they_are, small = ((probabilities, given, slides, 50) for given in (labels, labels.astype(dtype)))
    assert bootstrap.bootstrap_intervals(*small) == bootstrap.bootstrap_intervals(*as_they_are)
    for door in (*DOORS, by_single_regions):
        assert door(probabilities, labels.astype(dtype)) == door(probabilities, labels)
    assert by_headline(probabilities, labels.astype(dtype)) == pytest.approx(loop_figures(probabilities, labels))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_resampled_figures_of_small_integers_equal_a_loop(regions, dtype):
    probabilities, labels, _ = regions
    slides = np.arange(REGIONS) % 100  # slides times cells go beyond a small integer as well
    counts = bootstrap.resample_counts(100, resamples=3, seed=1)
    figures = bootstrap.resampled_figures(probabilities, labels.astype(dtype), slides.astype(dtype), counts)
    for number, row in enumerate(counts):
        drawn = np.concatenate([np.flatnonzero(slides == slide).repeat(times) for slide, times in enumerate(row)])
        expected = loop_figures(probabilities[drawn], labels[drawn])
        assert {name: values[number] for name, values in figures.items()} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "longdouble"])
def test_figures_of_other_floats_are_those_of_their_values(regions, dtype):
    probabilities, labels, _ = regions
    given = probabilities.astype(dtype)
    expected = loop_figures(given.astype(np.float64), labels)
    for door in (by_headline, by_metric, by_predictions, by_single_regions):
        assert door(given, labels) == pytest.approx(expected)


def test_a_softmax_in_bfloat16_is_taken():
    logits = 3 * torch.randn(3000, CLASSES, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(3000) % CLASSES
    given = logits.bfloat16().softmax(dim=-1)
    assert (given.double().sum(dim=1) - 1).abs().max() > 1e-3  # they are as inexact as that
    expected = loop_figures(given.double().numpy(), labels.numpy())
    for door in (by_headline, by_metric, by_predictions):
        assert door(given, labels) == pytest.approx(expected)


@pytest.mark.parametrize(
    "kind", [lambda array: array.tolist(), tuple, list, torch.from_numpy, lambda array: torch.from_numpy(array).int()]
)
def test_lists_and_tensors_are_what_arrays_are(regions, kind):
    probabilities, labels, _ = regions
    rows = torch.from_numpy(probabilities) if kind is torch.from_numpy else probabilities.tolist()
    for door in (*DOORS, by_single_regions):
        assert door(rows, kind(labels)) == door(probabilities, labels)


def test_the_probabilities_of_predictions_keep_the_floats_that_files_hold(regions):
    probabilities, labels, slides = regions
    names = [f"class {number}" for number in range(CLASSES)]
    for given, kept in (("float16", "float64"), ("float32", "float32"), ("float64", "float64")):
        made = Predictions(probabilities.astype(given), labels.astype("uint8"), slides, names)
        assert (made.probabilities.dtype, made.labels.dtype) == (kept, "int64")
        assert made.predicted.dtype == "int64"


HALF = [[0.5, 0.5], [0.25, 0.75], [0.75, 0.25]]


@pytest.mark.parametrize("door", [*DOORS, by_single_regions])
@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        ([[0.5, 0.509], [0.5, 0.5], [0.5, 0.5]], [0, 1, 0], r"Region 0: .*got \[0.5, 0.509\], which add up to 1.009"),
        ([[0.5, 0.491], [0.5, 0.5], [0.5, 0.5]], [0, 1, 0], "Region 0: .*which add up to 0.991"),
        ([[np.nan, 0.5], [0.5, 0.5], [0.5, 0.5]], [0, 1, 0], "Region 0: .*which add up to nan"),
        ([[np.inf, 0.5], [0.5, 0.5], [0.5, 0.5]], [0, 1, 0], "Region 0: .*which add up to inf"),
        ([[-0.1, 1.1], [0.5, 0.5], [0.5, 0.5]], [0, 1, 0], r"Region 0: .*in \[0, 1\]"),
        ([[1, 0], [0, 1], [1, 0]], [0, 1, 0], "float probabilities .* got int64"),
        ([["a", "b"]] * 3, [0, 1, 0], "float probabilities .* got <U1"),
        ([[0.5 + 0j, 0.5]] * 3, [0, 1, 0], "float probabilities .* got complex128"),
        ([[0.5, None]] * 3, [0, 1, 0], "float probabilities .* got object"),
        (HALF, [0.0, 1.0, 0.0], r"integer labels of shape \(regions,\), got float64"),
        (HALF, [0, np.nan, 0], "integer labels .* got float64"),
        (HALF, [True, False, True], "integer labels .* got bool"),
        (HALF, ["0", "1", "0"], "integer labels .* got <U1"),
        (HALF, [[0], [1], [0]], r"integer labels .* got int64 of shape \(., 1\)"),
        (HALF, [0, -1, 0], r"expected a label in 0\.\.1, got -1"),
        (HALF, [0, 2, 0], r"expected a label in 0\.\.1, got 2"),
        (HALF, np.array([0, 2**64 - 1, 0], dtype=np.uint64), r"expected a label in 0\.\.1, got 18446744073709551615"),
    ],
)
def test_every_door_refuses_the_same_in_the_same_words(door, probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        door(probabilities, labels)


@pytest.mark.parametrize("door", [by_headline, by_bootstrap, by_metric])
@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        ([[0.5, 0.5], [1.0]], [0, 1], "Expected probabilities as an array, a list of equally long lists or a tensor"),
        (HALF, [[0], [1, 2], [0]], "Expected labels as an array, a list of equally long lists or a tensor"),
        (HALF, [0, 1], "one label per region, got 2 labels and probabilities of 3"),
        ([[1.0]] * 3, [0, 0, 0], "at least two classes, got 1"),
        (torch.tensor(HALF).to_sparse(), [0, 1, 0], "Expected probabilities as an array"),
        (None, [0, 1, 0], r"float probabilities of shape \(regions, classes\), got object of shape \(\)"),
    ],
)
def test_lists_and_tensors_that_are_no_arrays_are_refused_in_words(door, probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        door(probabilities, labels)


@pytest.mark.parametrize(
    ("slide_ids", "message"),
    [
        ("abc", "a list with the slide of every region, got the text 'abc'"),
        (["a", None, "b"], "Region 1: expected the name of its slide, got None"),
        (["a", "b", float("nan")], "Region 2: expected the name of its slide, got nan"),
        (["a", "b"], "got 2"),
    ],
)
def test_a_missing_slide_is_refused_and_not_taken_for_one(slide_ids, message):
    probabilities, labels = np.array(HALF), np.array([0, 1, 0])
    with pytest.raises(ValueError, match=message):
        bootstrap.bootstrap_intervals(probabilities, labels, slide_ids)
    with pytest.raises(ValueError, match=message):
        Predictions(probabilities, labels, slide_ids, ["A", "B"])


@pytest.mark.parametrize("kind", [list, np.array, pa.array, tuple])
def test_slides_may_be_any_sequence(regions, kind):
    probabilities, labels, slides = regions
    expected = bootstrap.bootstrap_intervals(probabilities, labels, slides, resamples=10)
    assert bootstrap.bootstrap_intervals(probabilities, labels, kind(slides), resamples=10) == expected


def test_regions_added_one_by_one_and_in_batches_make_one_whole():
    metric = SpiderMetric()
    metric.add(prediction=[0.9, 0.1], reference=0)
    metric.add_batch(predictions=torch.tensor([[0.25, 0.75]]), references=torch.tensor([1]))
    metric.add(prediction=torch.tensor([0.25, 0.75], dtype=torch.bfloat16), reference=torch.tensor(0))
    assert metric.compute()["accuracy"] == pytest.approx(2 / 3)
