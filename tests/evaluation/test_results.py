"""results.json, against scikit-learn and against the bootstrap."""

import json
from dataclasses import replace

import pytest
from made_up_predictions import CONTEXT, NAMES, make_predictions
from sklearn.metrics import accuracy_score, classification_report, f1_score

from spider_tools.evaluation.bootstrap import bootstrap_intervals
from spider_tools.evaluation.metrics import HEADLINE_FIGURES
from spider_tools.evaluation.report import write_report
from spider_tools.evaluation.results import make_results


@pytest.fixture(scope="module")
def predictions():
    return make_predictions()


@pytest.fixture(scope="module")
def report(predictions, tmp_path_factory):
    """A report without options; only to be read."""
    folder = tmp_path_factory.mktemp("reports") / "new" / "report"
    write_report(folder, predictions, CONTEXT)
    return folder


def test_results_have_the_promised_shape(report, predictions):
    results = json.loads((report / "results.json").read_text(encoding="utf-8"))
    about = ["dataset", "split", "model", "weights_sha256", "import", "regions", "slides", "patients"]
    about += ["test_time_views", "calibration", "familiarity", "risk_coverage"]
    assert list(results) == ["metrics", "per_class", *about]
    assert list(results["metrics"])[:4] == ["accuracy", "macro_precision", "macro_recall", "macro_f1"]
    assert tuple(results["metrics"]) == HEADLINE_FIGURES
    for figure in results["metrics"].values():
        assert list(figure) == ["value", "ci95"]
        low, high = figure["ci95"]
        assert 0 <= low <= high <= 1
    assert (results["dataset"], results["split"], results["model"]) == ("some data", "test", "some model")
    assert (results["regions"], results["slides"]) == (120, len(set(predictions.slide_ids)))


def test_results_are_those_of_scikit_learn(report, predictions):
    results = json.loads((report / "results.json").read_text(encoding="utf-8"))
    predicted = predictions.probabilities.argmax(axis=1)
    assert results["metrics"]["accuracy"]["value"] == accuracy_score(predictions.labels, predicted)
    assert results["metrics"]["macro_f1"]["value"] == f1_score(predictions.labels, predicted, average="macro")
    expected = classification_report(
        predictions.labels, predicted, labels=range(5), target_names=NAMES, output_dict=True, zero_division=0
    )
    assert list(results["per_class"]) == NAMES
    for name, row in results["per_class"].items():
        theirs = expected[name]
        assert row == {
            "recall": theirs["recall"],
            "precision": theirs["precision"],
            "f1": theirs["f1-score"],
            "support": theirs["support"],
        }


def test_intervals_in_the_results_are_those_of_the_bootstrap(predictions):
    context = replace(CONTEXT, resamples=70, seed=3)
    expected = bootstrap_intervals(
        predictions.probabilities, predictions.labels, predictions.slide_ids, resamples=70, seed=3
    )
    for name, figure in make_results(predictions, context)["metrics"].items():
        assert tuple(figure["ci95"]) == expected.ci95[name]


def test_the_results_are_also_returned(report, predictions):
    written = json.loads((report / "results.json").read_text(encoding="utf-8"))
    del written["calibration"], written["familiarity"], written["risk_coverage"]
    assert written == make_results(predictions, CONTEXT)
