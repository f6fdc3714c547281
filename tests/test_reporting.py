import csv
import json
import math
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import matplotlib
import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.stats
from conftest import ROOT
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from sklearn.metrics import accuracy_score, classification_report, confusion_matrix, f1_score

from spider_tools import paper_results
from spider_tools.evaluation import metrics
from spider_tools.evaluation import report as reporting
from spider_tools.evaluation.predictions import Predictions
from spider_tools.evaluation.report import write_report
from spider_tools.evaluation.results import ReportContext

CONTEXT = ReportContext(dataset="some data", split="test", model="some model", resamples=50)
NAMES = ["Fat", 'Wart, "flat"', "A|B", "Kaposi\N{RIGHT SINGLE QUOTATION MARK}s sarcoma", "Absent"]
ALWAYS = {"results.json", "per_class.csv", "per_class.md", "predictions.parquet", "confusion_matrix.png"}


def make_predictions(names=NAMES, regions=120, slides=15, seed=0, sharpness=1.5):
    """Predictions for all classes but the last, which is neither true nor predicted."""
    rng = np.random.default_rng(seed)
    classes = len(names)
    labels = rng.integers(0, classes - 1, (2, regions)).min(axis=0)  # the first class is the most frequent one
    logits = rng.normal(size=(regions, classes))
    logits[np.arange(regions), labels] += sharpness
    logits[:, -1] = -50
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    slide_ids = [f"slide-{int(slides * rng.random() ** 1.5)}" for _ in range(regions)]
    return Predictions(
        probabilities.astype(np.float32), labels, slide_ids, names, [f"patch_{i}.png" for i in range(regions)]
    )


@pytest.fixture(scope="module")
def predictions():
    return make_predictions()


@pytest.fixture(scope="module")
def report(predictions, tmp_path_factory):
    """A report without options; only to be read."""
    folder = tmp_path_factory.mktemp("reports") / "new" / "report"
    write_report(folder, predictions, CONTEXT)
    return folder


def table_rows(markdown):
    """Cells of the rows of all Markdown tables, headers included."""
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if "---" not in line]


def numbers_in(content):
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, list):
        return [number for item in content for number in numbers_in(item)]
    return [content] if isinstance(content, (int, float)) else []


# ------------------------------------------------------------------------------------------------------ results.json


def test_a_report_has_these_files_and_no_others(report):
    assert {path.name for path in report.iterdir()} == ALWAYS


def test_results_have_the_promised_shape(report, predictions):
    results = json.loads((report / "results.json").read_text(encoding="utf-8"))
    assert list(results) == ["metrics", "per_class", "dataset", "split", "model", "regions", "slides"]
    assert list(results["metrics"])[:4] == ["accuracy", "macro_precision", "macro_recall", "macro_f1"]
    assert tuple(results["metrics"]) == metrics.HEADLINE_FIGURES
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
    expected = metrics.bootstrap_by_slide(
        predictions.probabilities, predictions.labels, predictions.slide_ids, resamples=70, seed=3
    )
    for name, figure in reporting.make_results(predictions, context)["metrics"].items():
        assert tuple(figure["ci95"]) == expected.ci95[name]


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
    assert "No 95% interval can be given" in reporting.headline_table(results)


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


def test_the_results_are_also_returned(report, predictions):
    returned = reporting.make_results(predictions, CONTEXT)
    assert json.loads((report / "results.json").read_text(encoding="utf-8")) == returned


def test_the_headline_table_has_all_figures(predictions):
    results = reporting.make_results(predictions, CONTEXT)
    rows = table_rows(reporting.headline_table(results))
    assert [row[1] for row in rows[1:]] == [f"{figure['value']:.3f}" for figure in results["metrics"].values()]
    low, high = results["metrics"]["accuracy"]["ci95"]
    assert rows[1] == ["Accuracy", f"{results['metrics']['accuracy']['value']:.3f}", f"{low:.3f} to {high:.3f}"]


# ------------------------------------------------------------------------------------------------------------ tables


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


def test_predictions_read_back_from_parquet(report, predictions):
    table = pq.read_table(report / "predictions.parquet")
    columns = [f"probability: {name}" for name in NAMES]
    assert table.column_names == ["slide_id", "patch", "true_class", "predicted_class", *columns, "entropy"]
    assert table["slide_id"].to_pylist() == predictions.slide_ids
    assert table["patch"].to_pylist() == predictions.region_ids
    assert table["true_class"].to_pylist() == [NAMES[label] for label in predictions.labels]
    assert table["predicted_class"].to_pylist() == [NAMES[row.argmax()] for row in predictions.probabilities]
    stored = np.stack([table[column].to_numpy() for column in columns], axis=1)
    assert np.array_equal(stored, predictions.probabilities)
    assert table["entropy"].to_numpy() == pytest.approx(scipy.stats.entropy(predictions.probabilities, axis=1))


def test_certain_predictions_have_no_entropy_and_patches_may_be_unknown():
    table = reporting.predictions_table(Predictions(np.eye(3), np.arange(3), ["a", "b", "c"], ["X", "Y", "Z"]))
    assert table["entropy"].to_pylist() == [0.0, 0.0, 0.0]
    assert not np.signbit(table["entropy"].to_numpy()).any()
    assert table["patch"].to_pylist() == [None, None, None]


# ----------------------------------------------------------------------------------------------------------- picture


def test_the_picture_shows_counts_and_shares_of_the_true_class(predictions):
    axes = reporting.draw_confusion_matrix(predictions).axes[0]
    counts = confusion_matrix(predictions.labels, predictions.predicted, labels=range(5))
    shares = np.ma.filled(axes.images[0].get_array(), np.nan)
    assert shares[:4] == pytest.approx(counts[:4] / counts[:4].sum(axis=1, keepdims=True))
    assert np.isnan(shares[4]).all()
    shown = {(round(t.get_position()[1]), round(t.get_position()[0])): int(t.get_text()) for t in axes.texts}
    assert shown == {(row, column): counts[row, column] for row, column in zip(*np.nonzero(counts))}
    assert [label.get_text() for label in axes.get_xticklabels()] == NAMES
    assert axes.get_yticklabels()[4].get_text() == "Absent  (0)"


@pytest.mark.parametrize("organ", ["skin", "breast"])
def test_the_picture_of_a_published_organ_is_readable(organ):
    """Names do not overlap, counts of five digits stay in their cells, and no font is tiny."""
    names = [f"{name} (long)" for name in paper_results.class_names(organ)]
    crowded = make_predictions(names, regions=200_000, sharpness=4.0)
    figure = reporting.draw_confusion_matrix(crowded)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    axes = figure.axes[0]
    cell_width = axes.get_window_extent(renderer).width / len(names)
    assert max(len(text.get_text()) for text in axes.texts) == 5
    assert len(axes.texts) == np.count_nonzero(
        confusion_matrix(crowded.labels, crowded.predicted, labels=range(len(names)))
    )
    for text in axes.texts:
        assert text.get_window_extent(renderer).width < cell_width
        assert text.get_fontsize() >= 5
    boxes = [label.get_window_extent(renderer) for label in axes.get_yticklabels()]
    for upper, lower in pairwise(boxes):
        assert upper.y0 > lower.y1
    assert all(box.x0 >= 0 for box in boxes)
    for column in axes.get_xticklabels():
        assert column.get_fontsize() >= 8
        assert column.get_window_extent(renderer).x0 >= 0
        assert column.get_window_extent(renderer).y0 >= 0


def test_a_dollar_sign_in_a_name_is_no_formula(tmp_path):
    write_report(tmp_path, make_predictions(["a $x_", "$\\frac$ b", "c"]), CONTEXT)
    assert (tmp_path / "confusion_matrix.png").stat().st_size > 0


@pytest.mark.parametrize("classes", [2, 70])
def test_the_picture_grows_with_the_classes_within_bounds(tmp_path, classes):
    probabilities = np.eye(classes)
    few = Predictions(probabilities, np.arange(classes), ["s"] * classes, [f"Class {i}" for i in range(classes)])
    write_report(tmp_path, few, CONTEXT)
    with Image.open(tmp_path / "confusion_matrix.png") as image:
        image.load()
        assert 250 <= image.width <= 3500
        assert 200 <= image.height <= 3500


def test_drawing_leaves_the_settings_of_matplotlib_alone(predictions):
    before = matplotlib.rcParams.copy()
    reporting.draw_confusion_matrix(predictions)
    assert matplotlib.rcParams.copy() == before
    program = "import spider_tools.reporting, sys; print('matplotlib.pyplot' in sys.modules)"
    program = "import sys; sys.modules['transformers'] = None; " + program
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False"]


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


# ---------------------------------------------------------------------------------------------------------- ablation


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
    ablation = reporting.make_context_ablation(by_context_size, CONTEXT)
    names = sorted(set(predictions.slide_ids))
    slides = np.array([names.index(slide) for slide in predictions.slide_ids])
    center = by_context_size[1]
    changes = []
    for row in metrics.resample_counts(len(names), resamples=50, seed=0):
        drawn = [i for slide, times in enumerate(row) for i in np.flatnonzero(slides == slide).repeat(times)]
        after = f1_score(center.labels[drawn], center.predicted[drawn], average="macro", zero_division=0)
        before = f1_score(predictions.labels[drawn], predictions.predicted[drawn], average="macro", zero_division=0)
        changes.append(after - before)
    interval = ablation["context_sizes"]["1"]["change"]["macro_f1"]["ci95"]
    assert interval == pytest.approx(np.quantile(changes, [0.025, 0.975]))


def test_the_same_predictions_have_no_change(predictions):
    ablation = reporting.make_context_ablation({5: predictions, 3: predictions}, CONTEXT)
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


# ---------------------------------------------------------------------------------------------------- whole or not


def test_a_full_disk_leaves_the_earlier_report_as_it_was(tmp_path, monkeypatch, predictions):
    write_report(tmp_path, predictions, replace(CONTEXT, compare="skin"))
    earlier = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(table, path):
        path.write_bytes(b"half a file")
        raise OSError("No space left on device")

    monkeypatch.setattr(reporting.pq, "write_table", fail)
    with pytest.raises(OSError, match="No space left"):
        write_report(tmp_path, make_predictions(seed=7), CONTEXT)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == earlier


def test_a_later_report_does_not_keep_optional_files_of_an_earlier_one(tmp_path, predictions):
    (tmp_path / "notes.txt").write_text("the user's own")
    context = replace(CONTEXT, compare="skin", by_context_size={5: predictions})
    write_report(tmp_path, predictions, context)
    optional = {"comparison.md", "context_ablation.md", "context_ablation.json"}
    assert {path.name for path in tmp_path.iterdir()} == ALWAYS | optional | {"notes.txt"}
    write_report(tmp_path, predictions, CONTEXT)
    assert {path.name for path in tmp_path.iterdir()} == ALWAYS | {"notes.txt"}


def test_an_unknown_organ_is_refused_before_anything_is_written(tmp_path, predictions):
    with pytest.raises(ValueError, match="'liver'"):
        write_report(tmp_path / "r", predictions, replace(CONTEXT, compare="liver"))
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"class_names": ["A", "B"]}, r"Expected 3 different class names, got \['A', 'B'\]"),
        ({"class_names": ["A", "B", "A"]}, "3 different class names"),
        ({"slide_ids": ["s"]}, "one of `slide_ids` per region, got 1 for 3"),
        ({"region_ids": ["p"] * 4}, "one of `region_ids` per region, got 4 for 3"),
        ({"labels": np.array([1, 1, 1])}, "All 3 regions are of class 'B'"),
        ({"labels": np.array([0, 1, 5])}, "Region 2: expected a label"),
        ({"probabilities": np.eye(3) * 2}, "Region 0: expected probabilities"),
        ({"probabilities": np.zeros((0, 3)), "labels": np.zeros(0, int), "slide_ids": []}, "the split is empty"),
    ],
)
def test_predictions_that_do_not_fit_together_are_refused(fields, message):
    whole = {
        "probabilities": np.eye(3),
        "labels": np.arange(3),
        "slide_ids": ["s", "t", "u"],
        "class_names": ["A", "B", "C"],
    }
    with pytest.raises(ValueError, match=message):
        Predictions(**{**whole, **fields})
