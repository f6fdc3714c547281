"""Accuracy against coverage: by hand, and against a loop over all orders of equals."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from made_up_predictions import CONTEXT, make_predictions, table_rows

from spider_tools.evaluation.report import write_report
from spider_tools.evaluation.risk_coverage import (
    HIGHEST_PROBABILITY,
    draw_risk_coverage,
    make_risk_coverage,
    risk_coverage_figures,
    risk_coverage_page,
    selective_risks,
)


def risks_of(wrong_in_order):
    return [sum(wrong_in_order[:k]) / k for k in range(1, len(wrong_in_order) + 1)]


def test_aurc_by_hand():
    """Surest first the answers are right, wrong, right, right, wrong: risks 0, 1/2, 1/3, 1/4, 2/5."""
    confidence = np.array([0.6, 0.9, 0.8, 0.5, 0.7])
    wrong = np.array([False, False, True, True, False])
    risks = selective_risks(confidence, wrong)
    assert risks == pytest.approx([0, 1 / 2, 1 / 3, 1 / 4, 2 / 5])
    figures = risk_coverage_figures(risks)
    assert figures["aurc"] == pytest.approx((1 / 2 + 1 / 3 + 1 / 4 + 2 / 5) / 5)
    # The best order has right, right, right, wrong, wrong: risks 0, 0, 0, 1/4, 2/5.
    assert figures["excess_aurc"] == pytest.approx((1 / 2 + 1 / 3) / 5)
    assert figures["accuracy_at_100"] == pytest.approx(3 / 5)
    assert figures["accuracy_at_90"] == pytest.approx(3 / 5)  # of five, 90% are five whole regions
    assert figures["accuracy_at_80"] == pytest.approx(3 / 4)
    assert figures["accuracy_at_50"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("seed", range(4))
def test_equals_count_as_the_mean_over_all_orders_of_them(seed):
    rng = np.random.default_rng(seed)
    confidence, wrong = rng.integers(0, 3, 7) / 2, rng.random(7) < 0.4
    orders = [
        risks_of([wrong[i] for i in order])
        for order in itertools.permutations(range(7))
        if all(confidence[a] >= confidence[b] for a, b in itertools.pairwise(order))
    ]
    assert len(orders) > 1
    assert selective_risks(confidence, wrong) == pytest.approx(np.mean(orders, axis=0))


def test_the_order_of_the_data_changes_nothing_and_times_repeat_a_region():
    rng = np.random.default_rng(5)
    confidence, wrong, times = rng.integers(0, 9, 60) / 9, rng.random(60) < 0.3, rng.integers(0, 4, 60)
    expected = selective_risks(np.repeat(confidence, times), np.repeat(wrong, times))
    shuffled = rng.permutation(60)
    got = selective_risks(confidence[shuffled], wrong[shuffled], times[shuffled])
    np.testing.assert_allclose(got, expected)


@pytest.mark.parametrize("wrong", [[], [2], [0, 1, 2, 3]])
def test_the_best_order_exceeds_nothing_and_the_worst_no_order_is_better_than(wrong):
    wrong = np.isin(np.arange(4), wrong)
    best = risk_coverage_figures(selective_risks(~wrong, wrong))
    assert best["excess_aurc"] == pytest.approx(0)
    assert best["aurc"] == pytest.approx(min(np.mean(risks_of(order)) for order in itertools.permutations(wrong)))
    worst = risk_coverage_figures(selective_risks(wrong, wrong))
    assert worst["aurc"] == pytest.approx(max(np.mean(risks_of(order)) for order in itertools.permutations(wrong)))


def test_without_any_order_aurc_is_the_error():
    wrong = np.array([True, False, False, True, False])
    assert risk_coverage_figures(selective_risks(np.full(5, 0.7), wrong))["aurc"] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("confidence", "wrong", "message"),
    [
        ([0.5], [True, False], r"one confidence per region, float \(regions,\), got \(1,\) for 2 regions"),
        ([[0.5], [0.4]], [True, False], r"got \(2, 1\) for 2 regions"),
        ([0.5, np.nan], [True, False], "Region 1: expected a confidence, got NaN"),
        ([], [], "no region to answer"),
    ],
)
def test_what_is_no_confidence_is_refused(confidence, wrong, message):
    with pytest.raises(ValueError, match=message):
        selective_risks(np.array(confidence), np.array(wrong, dtype=bool))


def test_intervals_are_those_of_a_loop_over_sets_of_slides():
    predictions = make_predictions()
    coarse = np.round(predictions.probabilities.max(axis=1), 1)  # with many equals
    made = make_risk_coverage(predictions, CONTEXT, {"coarse": coarse})["coarse"]
    wrong = predictions.predicted != predictions.labels
    slides, names = np.array(predictions.slide_ids), sorted(set(predictions.slide_ids))
    drawn = np.random.default_rng(CONTEXT.seed).multinomial(
        len(names), np.full(len(names), 1 / len(names)), size=CONTEXT.resamples
    )
    samples = []
    for counts in drawn:
        rows = np.concatenate([np.tile(np.flatnonzero(slides == name), n) for name, n in zip(names, counts)])
        samples.append(risk_coverage_figures(selective_risks(coarse[rows], wrong[rows])))
    for name, figure in made.items():
        assert figure["value"] == risk_coverage_figures(selective_risks(coarse, wrong))[name]
        assert figure["ci95"] == pytest.approx(np.percentile([sample[name] for sample in samples], [2.5, 97.5]))


def test_the_report_has_the_figures_of_the_highest_probability(tmp_path):
    predictions = make_predictions()
    results = write_report(tmp_path, predictions, CONTEXT)
    written = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["risk_coverage"]
    assert written == results["risk_coverage"] == make_risk_coverage(predictions, CONTEXT)
    figures = written[HIGHEST_PROBABILITY]
    assert figures["accuracy_at_100"]["value"] == pytest.approx(results["metrics"]["accuracy"]["value"])
    assert figures["accuracy_at_100"]["ci95"] == pytest.approx(results["metrics"]["accuracy"]["ci95"])
    surest = np.argsort(-predictions.probabilities.max(axis=1))[:60]
    right = (predictions.predicted == predictions.labels)[surest].mean()
    assert figures["accuracy_at_50"]["value"] == pytest.approx(right)
    rows = table_rows((tmp_path / "risk_coverage.md").read_text(encoding="utf-8"))
    assert rows[0] == ["Figure", "By highest probability", "95% interval"]
    assert rows[-1][:2] == ["Accuracy of the surest 50%", f"{right:.3f}"]
    assert (tmp_path / "risk_coverage.png").read_bytes().startswith(b"\x89PNG")


def test_another_score_stands_beside_it():
    predictions = replace(make_predictions(), slide_ids=["a", "b"] * 60)
    familiar = {"familiarity": np.linspace(0, 1, 120)}
    made = make_risk_coverage(predictions, CONTEXT, familiar)
    assert list(made) == [HIGHEST_PROBABILITY, "familiarity"]
    page = risk_coverage_page(made)
    assert table_rows(page)[0] == [
        "Figure",
        "By highest probability",
        "95% interval",
        "By familiarity",
        "95% interval",
    ]
    assert page.count("resampling slides needs at least 10") == 1
    (axes,) = draw_risk_coverage(predictions, familiar).axes
    assert [line.get_label().split(":")[0] for line in axes.lines] == [
        "by highest probability",
        "by familiarity",
        "best order",
        "no order",
    ]
    wrong = predictions.predicted != predictions.labels
    np.testing.assert_allclose(axes.lines[1].get_ydata(), risks_of(wrong[::-1]))
