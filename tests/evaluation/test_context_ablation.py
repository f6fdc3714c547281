"""Figures by context size: changes and their intervals, against a loop over the same resamples."""

import json
from dataclasses import replace

import numpy as np
import pytest
from made_up_predictions import CONTEXT, make_predictions, table_rows
from sklearn.metrics import f1_score

from spider_tools.evaluation.bootstrap import resample_counts
from spider_tools.evaluation.context_ablation import make_context_ablation
from spider_tools.evaluation.report import write_report


@pytest.fixture(scope="module")
def predictions():
    return make_predictions()


@pytest.fixture(scope="module")
def by_context_size(predictions):
    return {1: make_predictions(sharpness=0.2), 5: predictions, 3: make_predictions(sharpness=1.0)}


def test_the_ablation_compares_every_size_with_the_largest(tmp_path, predictions, by_context_size):
    context = replace(CONTEXT, compare="skin", by_context_size=by_context_size)
    results = write_report(tmp_path, predictions, context)
    ablation = json.loads((tmp_path / "context_ablation.json").read_text(encoding="utf-8"))
    assert list(ablation["context_sizes"]) == ["5", "3", "1"]
    assert ablation["context_sizes"]["5"] == {"metrics": results["metrics"]}
    assert ablation["published"] == {"5": 0.940, "3": 0.935, "1": 0.923}
    center = by_context_size[1]
    accuracy = (center.predicted == center.labels).mean()
    row = ablation["context_sizes"]["1"]
    assert row["metrics"]["accuracy"]["value"] == pytest.approx(accuracy)
    change = accuracy - results["metrics"]["accuracy"]["value"]
    assert row["change"]["accuracy"]["value"] == pytest.approx(change)
    rows = table_rows((tmp_path / "context_ablation.md").read_text(encoding="utf-8"))
    assert [(cells[0], cells[-1]) for cells in rows[1:]] == [("5 x 5", "0.940"), ("3 x 3", "0.935"), ("1 x 1", "0.923")]
    assert rows[3][1] == f"{accuracy:.3f}"
    assert rows[3][3].startswith(f"{change:+.3f} (")


def test_the_interval_of_a_change_pairs_the_slides(predictions, by_context_size):
    """A loop over the same resamples; unpaired, the interval would be wider."""
    ablation = make_context_ablation(by_context_size, CONTEXT)
    names = sorted(set(predictions.slide_ids))
    slides = np.array([names.index(slide) for slide in predictions.slide_ids])
    center = by_context_size[1]
    changes = []
    for row in resample_counts(len(names), resamples=50, seed=0):
        drawn = [i for slide, times in enumerate(row) for i in np.flatnonzero(slides == slide).repeat(times)]
        after = f1_score(center.labels[drawn], center.predicted[drawn], average="macro", zero_division=0)
        before = f1_score(predictions.labels[drawn], predictions.predicted[drawn], average="macro", zero_division=0)
        changes.append(after - before)
    interval = ablation["context_sizes"]["1"]["change"]["macro_f1"]["ci95"]
    assert interval == pytest.approx(np.quantile(changes, [0.025, 0.975]))


def test_the_same_predictions_have_no_change(predictions):
    ablation = make_context_ablation({5: predictions, 3: predictions}, CONTEXT)
    change = {"value": 0.0, "ci95": [0.0, 0.0]}
    assert ablation["context_sizes"]["3"]["change"] == {"accuracy": change, "macro_f1": change}
    assert ablation["published"] is None


@pytest.mark.parametrize(
    ("make_sizes", "message"),
    [
        (lambda p: {}, r"got the sizes \[\]"),
        (lambda p: {5: p, 4: p}, r"by odd context size, got the sizes \[5, 4\]"),
        (lambda p: {5: p, 3: replace(p, labels=p.labels[::-1])}, "sizes 3 and 5 are not for the same regions"),
        (lambda p: {5: p, 3: replace(p, slide_ids=p.slide_ids[::-1])}, "not for the same regions"),
        (lambda p: {5: p, 3: replace(p, class_names=p.class_names[::-1])}, "not for the same regions"),
    ],
)
def test_an_ablation_of_different_regions_is_refused(tmp_path, predictions, make_sizes, message):
    with pytest.raises(ValueError, match=message):
        write_report(tmp_path / "r", predictions, replace(CONTEXT, by_context_size=make_sizes(predictions)))
    assert not (tmp_path / "r").exists()
