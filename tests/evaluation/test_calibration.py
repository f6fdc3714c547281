"""Calibration in the report: figures beside other implementations, and what they were without the temperature."""

import json
from dataclasses import replace

import numpy as np
import pytest
from made_up_predictions import CONTEXT, make_predictions
from sklearn.metrics import log_loss

from spider_tools.evaluation.calibration import calibration_figures, make_calibration
from spider_tools.evaluation.metrics import expected_calibration_error
from spider_tools.evaluation.report import write_report
from spider_tools.evaluation.temperature import with_temperature


def test_figures_are_those_of_other_implementations():
    predictions = make_predictions()
    figures = calibration_figures(predictions.probabilities, predictions.labels)
    rows = [p / p.sum() for p in predictions.probabilities.astype(np.float64)]
    assert figures["negative_log_likelihood"] == pytest.approx(log_loss(predictions.labels, rows, labels=range(5)))
    squares = [
        sum((p - (label == number)) ** 2 for number, p in enumerate(row))
        for row, label in zip(predictions.probabilities.tolist(), predictions.labels.tolist())
    ]
    assert figures["brier_score"] == pytest.approx(sum(squares) / len(squares))
    error = expected_calibration_error(predictions.probabilities, predictions.labels)
    assert figures["expected_calibration_error"] == error


def test_a_class_of_no_probability_counts_a_great_deal_and_not_infinitely():
    figures = calibration_figures(np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([1, 0]))
    assert 40 < figures["negative_log_likelihood"] < 45
    assert figures["brier_score"] == pytest.approx((2 + 0.5) / 2)


def test_intervals_are_those_of_a_loop_over_sets_of_slides():
    predictions = make_predictions()
    made = make_calibration(predictions, CONTEXT)["after"]
    slides, names = np.array(predictions.slide_ids), sorted(set(predictions.slide_ids))
    counts = np.random.default_rng(CONTEXT.seed).multinomial(
        len(names), np.full(len(names), 1 / len(names)), size=CONTEXT.resamples
    )
    samples = []
    for drawn in counts:
        rows = np.concatenate([np.tile(np.flatnonzero(slides == name), n) for name, n in zip(names, drawn)])
        samples.append(calibration_figures(predictions.probabilities[rows], predictions.labels[rows]))
    for name, figure in made.items():
        low, high = np.percentile([sample[name] for sample in samples], [2.5, 97.5])
        assert figure["ci95"] == pytest.approx([low, high])


def test_before_is_without_the_temperature(tmp_path):
    predictions = make_predictions()
    tempered = replace(predictions, probabilities=with_temperature(predictions.probabilities, 0.4))
    context = replace(CONTEXT, temperature=0.4)
    made = make_calibration(tempered, context)
    plain = make_calibration(predictions, CONTEXT)
    assert plain["before"] is None
    for name, figure in plain["after"].items():
        assert made["before"][name]["value"] == pytest.approx(figure["value"], abs=1e-6)
        assert made["after"][name]["value"] != pytest.approx(figure["value"], abs=1e-3)
    results = write_report(tmp_path, tempered, context)
    assert json.loads((tmp_path / "results.json").read_text())["calibration"] == results["calibration"] == made
    page = (tmp_path / "calibration.md").read_text()
    assert "| Figure | Before | 95% interval | After | 95% interval |" in page
    assert f"{made['before']['brier_score']['value']:.3f}" in page
    assert "divided by 0.4" in page
    assert (tmp_path / "reliability.png").read_bytes().startswith(b"\x89PNG")


def test_a_model_without_a_temperature_says_so(tmp_path):
    few = replace(make_predictions(), slide_ids=["a", "b"] * 60)
    write_report(tmp_path, few, CONTEXT)
    page = (tmp_path / "calibration.md").read_text()
    assert "not divided by a temperature" in page
    assert "resampling slides needs at least 10" in page
