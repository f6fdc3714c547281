"""The report's tables: the headline figures, the scores per class, and the published figures beside them."""

import csv
import json
from dataclasses import replace

import pytest
from made_up_predictions import CONTEXT, NAMES, make_predictions, table_rows

from spider_tools import paper_results
from spider_tools.evaluation.report import write_report
from spider_tools.evaluation.results import make_results
from spider_tools.evaluation.tables import headline_table


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report without options; only to be read."""
    folder = tmp_path_factory.mktemp("reports") / "new" / "report"
    write_report(folder, make_predictions(), CONTEXT)
    return folder


def test_the_headline_table_has_all_figures():
    results = make_results(make_predictions(), CONTEXT)
    rows = table_rows(headline_table(results))
    assert [row[1] for row in rows[1:]] == [f"{figure['value']:.3f}" for figure in results["metrics"].values()]
    low, high = results["metrics"]["accuracy"]["ci95"]
    assert rows[1] == ["Accuracy", f"{results['metrics']['accuracy']['value']:.3f}", f"{low:.3f} to {high:.3f}"]


def test_the_table_per_class_reads_back_from_csv(report):
    per_class = json.loads((report / "results.json").read_text(encoding="utf-8"))["per_class"]
    with open(report / "per_class.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == NAMES
    for row in rows:
        expected = per_class[row["class"]]
        assert {score: float(row[score]) for score in ("recall", "precision", "f1")} == pytest.approx(
            {score: expected[score] for score in ("recall", "precision", "f1")}
        )
        assert int(row["support"]) == expected["support"]


def test_the_markdown_table_keeps_its_columns_and_names_absent_classes(report):
    text = (report / "per_class.md").read_text(encoding="utf-8")
    assert r"| A\|B |" in text
    assert {len(row) for row in table_rows(text)} == {5}
    assert "No region is of these classes, so their recall and F1 say nothing: Absent." in text


# -------------------------------------------------------------------------------------------------------- comparison


@pytest.fixture(scope="module")
def thorax():
    """Predictions for the thorax, where one class is missing and another is not published."""
    names = paper_results.class_names("thorax")
    names[names.index("Tumor soft")] = "Zebra"
    return make_predictions(names, regions=400)


def test_the_comparison_puts_published_figures_beside_ours(tmp_path, thorax):
    results = write_report(tmp_path, thorax, replace(CONTEXT, compare="thorax"))
    text = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    rows = {row[0]: row[1:] for row in table_rows(text)}
    ours = results["metrics"]["macro_f1"]
    low, high = ours["ci95"]
    assert rows["F1 (macro)"] == [
        "0.960",
        f"{ours['value']:.3f}",
        f"{low:.3f} to {high:.3f}",
        f"{ours['value'] - 0.960:+.3f}",
    ]
    assert rows["Accuracy"][:2] == ["0.962", f"{results['metrics']['accuracy']['value']:.3f}"]
    assert rows["Precision (macro)"][:2] == ["0.958", f"{results['metrics']['macro_precision']['value']:.3f}"]
    recall = f"{results['metrics']['macro_recall']['value']:.3f}"
    assert rows["Published accuracy, our macro recall"][:2] == ["0.962", recall]
    assert "14,988 regions" in text
    assert "400 regions of 15 slides" in text


def test_the_comparison_goes_class_by_class(tmp_path, thorax):
    results = write_report(tmp_path, thorax, replace(CONTEXT, compare="thorax"))
    text = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    rows = {row[0]: row[1:] for row in table_rows(text)}
    ours = results["per_class"]["Fibrosis"]
    figures = ["0.932", ours["recall"], "0.918", ours["precision"], "0.925", ours["f1"]]
    assert rows["Fibrosis"] == [f"{float(figure):.3f}" for figure in figures] + [str(ours["support"])]
    assert "Published classes that were not evaluated: Tumor soft." in text
    assert "Evaluated classes that are not published: Zebra." in text
    assert "Zebra" not in rows


def test_the_comparison_says_where_no_class_results_are_published(tmp_path):
    write_report(tmp_path, make_predictions(paper_results.class_names("breast")), replace(CONTEXT, compare="breast"))
    text = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert "No figures per class are published." in text
    assert "an unpublished number of regions" in text
