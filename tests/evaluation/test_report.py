"""The report as a whole: its files, all of them or none, and what holds for every one of them."""

import json
import math
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from made_up_predictions import CONTEXT, make_predictions

from spider_tools.evaluation.report import write_report
from spider_tools.evaluation.tables import headline_table

ALWAYS = {"results.json", "per_class.csv", "per_class.md", "predictions.parquet", "confusion_matrix.png"}
ALWAYS |= {"calibration.md", "reliability.png", "risk_coverage.md", "risk_coverage.png"}


@pytest.fixture(scope="module")
def predictions():
    return make_predictions()


def numbers_in(content):
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, list):
        return [number for item in content for number in numbers_in(item)]
    return [content] if isinstance(content, (int, float)) else []


def test_a_report_has_these_files_and_no_others(tmp_path, predictions):
    write_report(tmp_path / "new" / "report", predictions, CONTEXT)
    assert {path.name for path in (tmp_path / "new" / "report").iterdir()} == ALWAYS


def test_few_slides_give_null_and_the_reason(tmp_path, predictions):
    few = replace(predictions, slide_ids=["only one"] * 120)
    write_report(tmp_path, few, replace(CONTEXT, compare="skin", by_context_size={5: few, 1: few}))
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    for figure in results["metrics"].values():
        assert list(figure) == ["value", "ci95", "reason"]
        assert figure["ci95"] is None
        assert "1 slide," in figure["reason"]
    for name in ("comparison.md", "context_ablation.md"):
        assert (tmp_path / name).read_text(encoding="utf-8").count("No 95% interval can be given") == 1
    assert "No 95% interval can be given" in headline_table(results)


def test_json_files_hold_finite_numbers_only(tmp_path, predictions):
    sizes = {5: predictions, 3: make_predictions(sharpness=1.0)}
    for slide_ids in (predictions.slide_ids, ["only one"] * 120):
        by_size = {size: replace(p, slide_ids=slide_ids) for size, p in sizes.items()}
        write_report(tmp_path, by_size[5], replace(CONTEXT, by_context_size=by_size))
        for name, least in (("results.json", 20), ("context_ablation.json", 14)):
            text = (tmp_path / name).read_text(encoding="utf-8")
            numbers = numbers_in(json.loads(text, parse_constant=float))  # NaN and Infinity, if they are there
            assert len(numbers) >= least
            assert all(map(math.isfinite, numbers))


def test_a_full_disk_leaves_the_earlier_report_as_it_was(tmp_path, monkeypatch, predictions):
    write_report(tmp_path, predictions, replace(CONTEXT, compare="skin"))
    earlier = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(table, path):
        path.write_bytes(b"half a file")
        raise OSError("No space left on device")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(OSError, match="No space left"):
        write_report(tmp_path, make_predictions(seed=7), CONTEXT)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == earlier


def test_a_later_report_does_not_keep_optional_files_of_an_earlier_one(tmp_path, predictions):
    (tmp_path / "notes.txt").write_text("the user's own")
    context = replace(CONTEXT, compare="skin", by_context_size={5: predictions}, disturbed={"dark": predictions})
    write_report(tmp_path, predictions, context)
    optional = {"comparison.md", "context_ablation.md", "context_ablation.json"}
    optional |= {"robustness.md", "robustness.json", "robustness.png"}
    assert {path.name for path in tmp_path.iterdir()} == ALWAYS | optional | {"notes.txt"}
    write_report(tmp_path, predictions, CONTEXT)
    assert {path.name for path in tmp_path.iterdir()} == ALWAYS | {"notes.txt"}


def test_pages_of_several_views_say_that_the_model_alone_answers_otherwise(tmp_path, predictions):
    context = replace(CONTEXT, compare="skin", by_context_size={5: predictions}, views=8, temperature=0.5)
    results = write_report(tmp_path, predictions, context)
    pages = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.md")}
    pages["what is printed"] = headline_table(results)
    assert len(pages) == 6
    for name, page in pages.items():
        assert page.endswith(
            "\nMeans of the probabilities of 8 views of each region: the model alone answers otherwise.\n"
        ), name
    assert results["test_time_views"] == 8
    assert results["calibration"]["before"] is None, "a mean does not tell what it was without the temperature"
    assert "divided by 0.5 in each view" in pages["calibration.md"]


def test_an_unknown_organ_is_refused_before_anything_is_written(tmp_path, predictions):
    with pytest.raises(ValueError, match="'liver'"):
        write_report(tmp_path / "r", predictions, replace(CONTEXT, compare="liver"))
    assert not (tmp_path / "r").exists()
