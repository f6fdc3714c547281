"""What the report says of the limits of a model's answers, against loops, and what it refuses."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_up_predictions import CONTEXT, NAMES, make_predictions, table_rows

from spider_tools.evaluation.bootstrap import resample_counts
from spider_tools.evaluation.prediction_sets import checked_sets
from spider_tools.evaluation.predictions import Limits
from spider_tools.evaluation.report import write_report

RNG = np.random.default_rng(5)
PLAIN = make_predictions()
UNFAMILIARITY = RNG.gamma(4, 0.25, 120).astype(np.float32)
P_VALUES = np.clip(PLAIN.probabilities * 3 * RNG.random((120, 1)), 1e-3, 1).astype(np.float32)
PREDICTIONS = replace(PLAIN, limits=Limits(UNFAMILIARITY, 1.3, P_VALUES))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    fitted = {name: {"regions": 300, "slides": 12, "by": "slide"} for name in NAMES}
    fitted["Fat"] = {"regions": 31, "slides": 2, "by": "region"}
    write_report(folder, PREDICTIONS, replace(CONTEXT, coverage=0.8, sets=fitted))
    return folder


def results_of(folder):
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def interval_by_loop(figure):
    """Percentiles of a figure of lists of regions, over sets of slides that are put together region by region."""
    slides = sorted(set(PLAIN.slide_ids))
    values = []
    for counts in resample_counts(len(slides), CONTEXT.resamples, CONTEXT.seed):
        drawn = []
        for slide, times in zip(slides, counts):
            drawn += times * [i for i, of in enumerate(PLAIN.slide_ids) if of == slide]
        values.append(figure(drawn))
    return np.percentile([value for value in values if value is not None], [2.5, 97.5]).tolist()


def test_familiarity_is_reported_with_intervals_by_slide(report):
    found = results_of(report)["familiarity"]
    assert found["threshold"] == 1.3
    right = PLAIN.predicted == PLAIN.labels

    def accuracy_of(regions, familiar):
        chosen = [right[i] for i in regions if (UNFAMILIARITY[i] <= 1.3) == familiar]
        return float(np.mean(chosen)) if chosen else None

    figures = {
        "unfamiliar": lambda regions: float(np.mean([UNFAMILIARITY[i] > 1.3 for i in regions])),
        "accuracy_of_familiar": lambda regions: accuracy_of(regions, True),
        "accuracy_of_unfamiliar": lambda regions: accuracy_of(regions, False),
    }
    for name, figure in figures.items():
        assert found[name]["value"] == pytest.approx(figure(range(120)))
        assert found[name]["ci95"] == pytest.approx(interval_by_loop(figure))
    page = (report / "calibration.md").read_text(encoding="utf-8")
    assert ["Unfamiliar, share of the regions", f"{found['unfamiliar']['value']:.3f}"] in [
        row[:2] for row in table_rows(page)
    ]


def test_prediction_sets_are_those_of_a_loop(report):
    found = results_of(report)["prediction_sets"]
    sets = [{k for k in range(5) if P_VALUES[i, k] > 1 - 0.8} for i in range(120)]
    held = [PLAIN.labels[i] in sets[i] for i in range(120)]
    assert found["asked"] == 0.8
    assert found["coverage"]["value"] == pytest.approx(np.mean(held))
    assert found["size"]["value"] == pytest.approx(np.mean([len(one) for one in sets]))
    assert found["empty"]["value"] == pytest.approx(np.mean([not one for one in sets]))
    assert found["certain"]["value"] == pytest.approx(np.mean([len(one) == 1 for one in sets]))
    assert found["coverage"]["ci95"] == pytest.approx(interval_by_loop(lambda drawn: np.mean([held[i] for i in drawn])))
    for label, name in enumerate(NAMES[:-1]):
        members = [i for i in range(120) if PLAIN.labels[i] == label]
        assert found["per_class"][name]["coverage"]["value"] == pytest.approx(np.mean([held[i] for i in members]))
        assert found["per_class"][name]["size"]["value"] == pytest.approx(np.mean([len(sets[i]) for i in members]))
    assert found["per_class"]["Absent"] == {"coverage": None, "size": None}
    page = (report / "prediction_sets.md").read_text(encoding="utf-8")
    assert "may hold the true class less often than asked: Fat (31 of 2)." in page
    assert table_rows(page)[-1] == ["Absent", "n/a", "n/a", "n/a", "n/a"]


def test_the_table_of_predictions_says_what_is_unfamiliar(report, tmp_path):
    table = pq.read_table(report / "predictions.parquet")
    np.testing.assert_array_equal(table["unfamiliarity"].to_numpy(), UNFAMILIARITY)
    assert table["is_familiar"].to_pylist() == (UNFAMILIARITY <= 1.3).tolist()
    write_report(tmp_path, PLAIN, CONTEXT)
    table = pq.read_table(tmp_path / "predictions.parquet")
    assert table["is_familiar"].null_count == table["unfamiliarity"].null_count == 120
    assert results_of(tmp_path)["familiarity"] is None
    assert "The model does not know what is familiar" in (tmp_path / "calibration.md").read_text(encoding="utf-8")


def test_regions_are_also_left_unanswered_by_familiarity(report):
    found = results_of(report)["risk_coverage"]
    assert list(found) == ["highest probability", "familiarity"]
    order = np.argsort(UNFAMILIARITY, kind="stable")
    risks = np.cumsum((PLAIN.predicted != PLAIN.labels)[order]) / np.arange(1, 121)
    assert len(set(UNFAMILIARITY)) == 120
    assert found["familiarity"]["aurc"]["value"] == pytest.approx(risks.mean())
    assert found["familiarity"]["accuracy_at_50"]["value"] == pytest.approx(1 - risks[59])


def test_sets_of_an_earlier_report_do_not_stay(tmp_path):
    write_report(tmp_path, PREDICTIONS, replace(CONTEXT, coverage=0.9))
    write_report(tmp_path, PREDICTIONS, CONTEXT)
    assert not (tmp_path / "prediction_sets.md").exists()
    with pytest.raises(ValueError, match="no p-values"):
        write_report(tmp_path, PLAIN, replace(CONTEXT, coverage=0.9))


@pytest.mark.parametrize(
    ("regions", "slides", "by", "coverage", "enough"),
    [
        (9, 2, "region", 0.9, True),
        (8, 2, "region", 0.9, False),
        (500, 9, "slide", 0.9, True),
        (500, 9, "slide", 0.95, False),
        (19, 3, "region", 0.95, True),
    ],
)
def test_a_coverage_that_nobody_can_promise_is_refused(regions, slides, by, coverage, enough):
    sets = {"Fat": {"regions": 99, "slides": 99, "by": "slide"}}
    sets["Wart"] = {"regions": regions, "slides": slides, "by": by}
    if enough:
        assert checked_sets(coverage, sets, ["Fat", "Wart"]) == sets
        return
    with pytest.raises(ValueError, match=rf"too few of Wart \({regions} regions of {slides}\)"):
        checked_sets(coverage, sets, ["Fat", "Wart"])


@pytest.mark.parametrize("sets", [None, {}, {"Fat": {}}, "yes"])
def test_a_model_without_sets_is_refused(sets):
    with pytest.raises(ValueError, match="needs a model with prediction sets"):
        checked_sets(0.9, sets, ["Fat", "Wart"])
