"""Intervals by resampling slides, against a loop over the same resamples."""

import numpy as np
import pytest
from metrics_by_loop import loop_figures, one_hot, random_regions

from spider_tools.evaluation import bootstrap
from spider_tools.evaluation.metrics import HEADLINE_FIGURES


def test_resamples_draw_as_many_slides_as_there_are():
    counts = bootstrap.resample_counts(12, resamples=500, seed=1)
    assert counts.shape == (500, 12)
    assert (counts.sum(axis=1) == 12).all()
    # With replacement: a slide is left out with probability (11/12)^12 = 0.352, 3 standard errors either side.
    assert (counts == 0).mean() == pytest.approx((11 / 12) ** 12, abs=0.02)


def test_resampled_figures_equal_a_loop_over_the_same_resamples():
    probabilities, labels, slide_ids = random_regions(2, regions=70, classes=6, slides=12)
    labels[labels == 3] = 1
    names, slides = np.unique(slide_ids, return_inverse=True)
    counts = bootstrap.resample_counts(len(names), resamples=300, seed=4)  # more than are worked on at once
    figures = bootstrap.resampled_figures(probabilities, labels, slides, counts)
    assert set(figures) == set(HEADLINE_FIGURES)
    for number, row in enumerate(counts):
        drawn = [region for slide, times in enumerate(row) for region in np.flatnonzero(slides == slide).repeat(times)]
        expected = loop_figures(probabilities[drawn], labels[drawn])
        assert {name: values[number] for name, values in figures.items()} == pytest.approx(expected, abs=1e-12)


def test_intervals_are_percentiles_of_the_resamples():
    probabilities, labels, slide_ids = random_regions(3)
    names = sorted(set(slide_ids))
    slides = np.array([names.index(slide) for slide in slide_ids])
    counts = bootstrap.resample_counts(len(names), 200, seed=9)
    accuracies = []
    for row in counts:
        weights = row[slides]
        accuracies.append((weights * (probabilities.argmax(axis=1) == labels)).sum() / weights.sum())
    intervals = bootstrap.bootstrap_intervals(probabilities, labels, slide_ids, resamples=200, seed=9)
    # Of 200 sorted values, 2.5% lie at position 4.975 and 97.5% at position 194.025.
    accuracies.sort()
    low = accuracies[4] + 0.975 * (accuracies[5] - accuracies[4])
    high = accuracies[194] + 0.025 * (accuracies[195] - accuracies[194])
    assert intervals.ci95["accuracy"] == pytest.approx((low, high))
    assert intervals.reason is None


def test_more_regions_of_the_same_slides_do_not_make_an_interval_narrower():
    probabilities, labels, slide_ids = random_regions(4)
    once = bootstrap.bootstrap_intervals(probabilities, labels, slide_ids, resamples=100)
    often = bootstrap.bootstrap_intervals(
        probabilities.repeat(9, axis=0), labels.repeat(9), np.repeat(slide_ids, 9), resamples=100
    )
    for name, interval in once.ci95.items():
        assert often.ci95[name] == pytest.approx(interval), name


def test_intervals_follow_the_seed_and_not_the_order_of_the_regions():
    probabilities, labels, slide_ids = random_regions(5)
    order = np.random.default_rng(0).permutation(len(labels))
    first = bootstrap.bootstrap_intervals(probabilities, labels, slide_ids, 100, seed=1)
    shuffled = bootstrap.bootstrap_intervals(
        probabilities[order], labels[order], [slide_ids[i] for i in order], 100, seed=1
    )
    other = bootstrap.bootstrap_intervals(probabilities, labels, slide_ids, 100, seed=2)
    assert shuffled.ci95["macro_f1"] == pytest.approx(first.ci95["macro_f1"])
    assert other.ci95["macro_f1"] != pytest.approx(first.ci95["macro_f1"])


@pytest.mark.parametrize(("slides", "words"), [(1, "1 slide,"), (9, "9 slides,")])
def test_few_slides_give_a_reason_and_no_interval(slides, words):
    labels = np.arange(90) % 3
    intervals = bootstrap.bootstrap_intervals(one_hot(labels, 3), labels, [f"s{i % slides}" for i in range(90)])
    assert intervals.ci95 is None
    assert words in intervals.reason
    assert "at least 10" in intervals.reason


def test_ten_slides_give_an_interval():
    labels = np.arange(90) % 3
    intervals = bootstrap.bootstrap_intervals(one_hot(labels, 3), labels, [f"s{i % 10}" for i in range(90)])
    assert intervals.ci95["accuracy"] == (1.0, 1.0)


@pytest.mark.parametrize(
    ("slide_ids", "resamples", "message"),
    [(["a"] * 3, 10, "3 slides and 4 regions"), (["a"] * 4, 0, "`resamples` must be at least 1, got 0")],
)
def test_a_bootstrap_that_cannot_be_is_refused(slide_ids, resamples, message):
    labels = np.array([0, 1, 1, 0])
    with pytest.raises(ValueError, match=message):
        bootstrap.bootstrap_intervals(one_hot(labels, 2), labels, slide_ids, resamples)
