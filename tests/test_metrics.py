import json
import os
import shutil
import socket
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from sklearn import metrics as sklearn_metrics

from spider_tools.evaluation import metrics


def one_hot(predicted, num_classes):
    return np.eye(num_classes)[predicted]


def random_regions(seed, regions=200, classes=5, slides=14):
    """Probabilities without ties, labels that agree with them more often than not, slides of unequal size."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(classes, 0.4), regions)
    labels = np.array([rng.choice(classes, p=row) for row in probabilities])
    slide_ids = [f"slide {number}" for number in (slides * rng.random(regions) ** 2).astype(int)]
    return probabilities, labels, slide_ids


def loop_figures(probabilities, labels):
    """The module's conventions, one region and one class at a time."""
    true_positive, support, predicted = {}, {}, {}
    top3 = 0
    bins = [[] for _ in range(15)]
    for row, label in zip(probabilities.tolist(), labels.tolist()):
        order = sorted(range(len(row)), key=lambda k: (-row[k], k))
        guess = order[0]
        support[label] = support.get(label, 0) + 1
        predicted[guess] = predicted.get(guess, 0) + 1
        true_positive[label] = true_positive.get(label, 0) + (guess == label)
        top3 += label in order[:3]
        (index,) = [b for b in range(15) if b / 15 < row[guess] <= (b + 1) / 15]
        bins[index].append((guess == label, row[guess]))
    present = sorted(set(support) | set(predicted))

    def mean_over(classes, numerator, denominator):
        ratios = [numerator(k) / denominator(k) if denominator(k) else 0.0 for k in classes]
        return sum(ratios) / len(ratios)

    def hits(k):
        return true_positive.get(k, 0)

    error = 0.0
    for members in filter(None, bins):
        share_hit = sum(hit for hit, _ in members) / len(members)
        confidence = sum(c for _, c in members) / len(members)
        error += len(members) / len(labels) * abs(share_hit - confidence)
    return {
        "accuracy": sum(true_positive.values()) / len(labels),
        "macro_precision": mean_over(present, hits, lambda k: predicted.get(k, 0)),
        "macro_recall": mean_over(present, hits, lambda k: support.get(k, 0)),
        "macro_f1": mean_over(present, lambda k: 2 * hits(k), lambda k: support.get(k, 0) + predicted.get(k, 0)),
        "balanced_accuracy": mean_over(sorted(support), hits, lambda k: support[k]),
        "top3_accuracy": top3 / len(labels),
        "expected_calibration_error": error,
    }


# ---------------------------------------------------------------------------------------------------------- figures


def test_figures_of_six_regions_worked_out_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 2])
    predicted = np.array([0, 0, 1, 1, 2, 2])
    # Class 3 is neither true nor predicted: it does not count.
    figures = metrics.headline_figures(one_hot(predicted, 4), labels)
    assert figures["accuracy"] == pytest.approx(4 / 6)
    assert figures["macro_precision"] == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)
    assert figures["macro_recall"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert figures["macro_f1"] == pytest.approx((4 / 5 + 1 / 2 + 2 / 3) / 3)
    assert figures["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert tuple(figures) == metrics.HEADLINE_FIGURES


def test_a_class_that_is_predicted_but_never_true_counts_as_zero_except_in_balanced_accuracy():
    labels = np.array([0, 0, 1, 1])
    predicted = np.array([0, 2, 1, 1])
    assert metrics.macro_precision_recall_f1(labels, predicted) == pytest.approx(
        ((1 + 1 + 0) / 3, (1 / 2 + 1 + 0) / 3, (2 / 3 + 1 + 0) / 3)
    )
    assert metrics.balanced_accuracy(labels, predicted) == pytest.approx(3 / 4)


def test_a_class_that_is_true_but_never_predicted_counts_as_zero():
    labels = np.array([0, 0, 0, 1])
    predicted = np.array([0, 0, 0, 0])
    assert metrics.macro_precision_recall_f1(labels, predicted) == pytest.approx(
        ((3 / 4 + 0) / 2, (1 + 0) / 2, (6 / 7 + 0) / 2)
    )


@pytest.mark.parametrize("seed", range(4))
def test_figures_equal_those_of_a_loop(seed):
    probabilities, labels, _ = random_regions(seed, classes=7)
    labels[labels == 2] = 4  # now class 2 is predicted and never true
    probabilities[:, 5] = 0  # and class 5 true and never predicted
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    assert metrics.headline_figures(probabilities, labels) == pytest.approx(loop_figures(probabilities, labels))


def test_figures_equal_those_of_scikit_learn():
    probabilities, labels, _ = random_regions(5, classes=6)
    predicted = probabilities.argmax(axis=1)
    figures = metrics.headline_figures(probabilities, labels)
    assert figures["accuracy"] == sklearn_metrics.accuracy_score(labels, predicted)
    assert figures["macro_f1"] == sklearn_metrics.f1_score(labels, predicted, average="macro")
    assert figures["macro_precision"] == sklearn_metrics.precision_score(labels, predicted, average="macro")
    assert figures["macro_recall"] == sklearn_metrics.recall_score(labels, predicted, average="macro")
    assert figures["balanced_accuracy"] == pytest.approx(sklearn_metrics.balanced_accuracy_score(labels, predicted))
    assert figures["top3_accuracy"] == sklearn_metrics.top_k_accuracy_score(labels, probabilities, k=3)


def test_among_equal_probabilities_the_first_classes_are_the_top_ones():
    probabilities = np.array([[0.25, 0.25, 0.25, 0.25]] * 4 + [[0.1, 0.3, 0.3, 0.3]])
    hits = metrics.hits_among_top(probabilities, np.array([0, 1, 2, 3, 0]), k=3)
    assert hits.tolist() == [True, True, True, False, False]


def test_top_1_is_the_accuracy_even_with_ties():
    rng = np.random.default_rng(0)
    probabilities = rng.integers(1, 3, (100, 4)).astype(float)
    labels = rng.integers(0, 4, 100)
    assert metrics.top_k_accuracy(probabilities, labels, k=1) == (probabilities.argmax(axis=1) == labels).mean()


@pytest.mark.parametrize("classes", [2, 3])
def test_with_no_more_than_three_classes_all_are_among_the_top_three(classes):
    labels = np.arange(10) % classes
    assert metrics.top_k_accuracy(one_hot((labels + 1) % classes, classes), labels, k=3) == 1.0


@pytest.mark.parametrize(
    ("confidences", "hits", "expected"),
    [
        ([0.9, 0.9], [True, False], 0.4),  # one bin: half are right, 0.9 was claimed
        ([0.6, 0.62], [True, False], (0.4 + 0.62) / 2),  # 0.6 closes the bin below 0.62's
        ([0.6, 0.55], [True, False], 0.575 - 0.5),  # and shares that of 0.55
        ([1.0, 1.0, 0.7, 0.7], [True, True, True, False], (0 + 0 + 2 * (0.7 - 0.5)) / 4),
    ],
)
def test_calibration_error_worked_out_by_hand(confidences, hits, expected):
    probabilities = np.array([[c, 1 - c] for c in confidences])
    labels = np.array([0 if hit else 1 for hit in hits])
    assert metrics.expected_calibration_error(probabilities, labels) == pytest.approx(expected)


def test_a_probability_rounded_above_one_falls_into_the_last_bin():
    probabilities = np.array([[1 + 1e-6, 0.0], [0.0, 1.0]])
    assert metrics.expected_calibration_error(probabilities, np.array([0, 1])) == pytest.approx(0, abs=1e-6)


def test_rows_of_the_confusion_matrix_are_true_classes():
    matrix = metrics.confusion_matrix(np.array([0, 0, 0, 2]), np.array([1, 1, 0, 2]), num_classes=4)
    assert matrix.tolist() == [[1, 2, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_per_class_table_worked_out_by_hand():
    labels = np.array([0, 0, 0, 1, 1])
    predicted = np.array([0, 1, 2, 1, 1])
    table = metrics.per_class_table(labels, predicted, ["Fat", "Nevus", "Wart", "Vessels"])
    assert list(table) == ["Fat", "Nevus", "Wart", "Vessels"]
    assert table["Fat"] == metrics.ClassScores(1 / 3, 1.0, pytest.approx(1 / 2), 3, 1)
    assert table["Nevus"] == metrics.ClassScores(1.0, 2 / 3, pytest.approx(4 / 5), 2, 3)
    assert table["Wart"] == metrics.ClassScores(0.0, 0.0, 0.0, 0, 1)
    assert table["Vessels"] == metrics.ClassScores(0.0, 0.0, 0.0, 0, 0)


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (np.ones(3), np.zeros(3, int), r"shape \(regions, classes\), got float64 of shape \(3,\)"),
        (np.eye(3, dtype=int), np.arange(3), "float probabilities.*got int64"),
        (np.eye(3), np.arange(3.0), r"integer labels of shape \(regions,\), got float64"),
        (np.eye(3), np.arange(2), "got 2 labels and probabilities of 3"),
        (np.ones((3, 1)), np.zeros(3, int), "at least two classes, got 1"),
        (np.array([[0.5, 0.5], [2.0, -1.0]]), np.arange(2), "Region 1.*Logits need a softmax"),
        (np.array([[0.5, 0.5], [0.7, 0.7]]), np.arange(2), "Region 1.*add up to 1"),
        (np.array([[np.nan, 0.5], [0.5, 0.5]]), np.arange(2), "Region 0.*add up to 1"),
        (np.eye(3), np.array([0, 1, 3]), r"Region 2: expected a label in 0\.\.2, got 3"),
        (np.eye(3), np.array([0, -1, 2]), r"Region 1: expected a label in 0\.\.2, got -1"),
        (np.zeros((0, 3)), np.zeros(0, int), "no region to evaluate: the split is empty"),
        (np.eye(3), np.array([1, 1, 1]), "All 3 regions are of class 1"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        metrics.headline_figures(probabilities, labels)


# -------------------------------------------------------------------------------------------------------- intervals


def test_resamples_draw_as_many_slides_as_there_are():
    counts = metrics.resample_counts(12, resamples=500, seed=1)
    assert counts.shape == (500, 12)
    assert (counts.sum(axis=1) == 12).all()
    # With replacement: a slide is left out with probability (11/12)^12 = 0.352, 3 standard errors either side.
    assert (counts == 0).mean() == pytest.approx((11 / 12) ** 12, abs=0.02)


def test_resampled_figures_equal_a_loop_over_the_same_resamples():
    probabilities, labels, slide_ids = random_regions(2, regions=70, classes=6, slides=12)
    labels[labels == 3] = 1
    names, slides = np.unique(slide_ids, return_inverse=True)
    counts = metrics.resample_counts(len(names), resamples=300, seed=4)  # more than are worked on at once
    figures = metrics.resampled_figures(probabilities, labels, slides, counts)
    assert set(figures) == set(metrics.HEADLINE_FIGURES)
    for number, row in enumerate(counts):
        drawn = [region for slide, times in enumerate(row) for region in np.flatnonzero(slides == slide).repeat(times)]
        expected = loop_figures(probabilities[drawn], labels[drawn])
        assert {name: values[number] for name, values in figures.items()} == pytest.approx(expected, abs=1e-12)


def test_intervals_are_percentiles_of_the_resamples():
    probabilities, labels, slide_ids = random_regions(3)
    names = sorted(set(slide_ids))
    slides = np.array([names.index(slide) for slide in slide_ids])
    counts = metrics.resample_counts(len(names), 200, seed=9)
    accuracies = []
    for row in counts:
        weights = row[slides]
        accuracies.append((weights * (probabilities.argmax(axis=1) == labels)).sum() / weights.sum())
    intervals = metrics.bootstrap_by_slide(probabilities, labels, slide_ids, resamples=200, seed=9)
    # Of 200 sorted values, 2.5% lie at position 4.975 and 97.5% at position 194.025.
    accuracies.sort()
    low = accuracies[4] + 0.975 * (accuracies[5] - accuracies[4])
    high = accuracies[194] + 0.025 * (accuracies[195] - accuracies[194])
    assert intervals.ci95["accuracy"] == pytest.approx((low, high))
    assert intervals.reason is None


def test_more_regions_of_the_same_slides_do_not_make_an_interval_narrower():
    probabilities, labels, slide_ids = random_regions(4)
    once = metrics.bootstrap_by_slide(probabilities, labels, slide_ids, resamples=100)
    often = metrics.bootstrap_by_slide(
        probabilities.repeat(9, axis=0), labels.repeat(9), np.repeat(slide_ids, 9), resamples=100
    )
    for name, interval in once.ci95.items():
        assert often.ci95[name] == pytest.approx(interval), name


def test_intervals_follow_the_seed_and_not_the_order_of_the_regions():
    probabilities, labels, slide_ids = random_regions(5)
    order = np.random.default_rng(0).permutation(len(labels))
    first = metrics.bootstrap_by_slide(probabilities, labels, slide_ids, 100, seed=1)
    shuffled = metrics.bootstrap_by_slide(
        probabilities[order], labels[order], [slide_ids[i] for i in order], 100, seed=1
    )
    other = metrics.bootstrap_by_slide(probabilities, labels, slide_ids, 100, seed=2)
    assert shuffled.ci95["macro_f1"] == pytest.approx(first.ci95["macro_f1"])
    assert other.ci95["macro_f1"] != pytest.approx(first.ci95["macro_f1"])


@pytest.mark.parametrize(("slides", "words"), [(1, "1 slide,"), (9, "9 slides,")])
def test_few_slides_give_a_reason_and_no_interval(slides, words):
    labels = np.arange(90) % 3
    intervals = metrics.bootstrap_by_slide(one_hot(labels, 3), labels, [f"s{i % slides}" for i in range(90)])
    assert intervals.ci95 is None
    assert words in intervals.reason
    assert "at least 10" in intervals.reason


def test_ten_slides_give_an_interval():
    labels = np.arange(90) % 3
    intervals = metrics.bootstrap_by_slide(one_hot(labels, 3), labels, [f"s{i % 10}" for i in range(90)])
    assert intervals.ci95["accuracy"] == (1.0, 1.0)


@pytest.mark.parametrize(
    ("slide_ids", "resamples", "message"),
    [(["a"] * 3, 10, "3 slides and 4 regions"), (["a"] * 4, 0, "`resamples` must be at least 1, got 0")],
)
def test_a_bootstrap_that_cannot_be_is_refused(slide_ids, resamples, message):
    labels = np.array([0, 1, 1, 0])
    with pytest.raises(ValueError, match=message):
        metrics.bootstrap_by_slide(one_hot(labels, 2), labels, slide_ids, resamples)


# ----------------------------------------------------------------------------------------------- the evaluate.Metric


def test_the_metric_is_one_of_the_library_evaluate():
    library = metrics.evaluate_library()
    assert isinstance(metrics.SpiderMetric(), library.Metric)
    assert library is sys.modules["evaluate"]


def test_a_metric_fed_in_pieces_equals_the_whole():
    probabilities, labels, _ = random_regions(6, regions=101)
    metric = metrics.SpiderMetric()
    for start, end in ((0, 1), (1, 64), (64, 64), (64, 101)):
        metric.add_batch(predictions=probabilities[start:end], references=labels[start:end])
    assert len(metric) == 101
    expected = metrics.headline_figures(probabilities, labels)
    assert metric.compute() == expected
    assert metrics.SpiderMetric().compute(predictions=probabilities, references=labels) == expected


def test_a_metric_takes_tensors_and_is_empty_again_after_computing():
    metric = metrics.SpiderMetric()
    probabilities = torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125]], dtype=torch.bfloat16, requires_grad=True)
    metric.add_batch(predictions=probabilities, references=torch.tensor([0, 2]))
    assert metric.compute()["accuracy"] == 0.5
    # Another number of classes is no contradiction then.
    metric.add_batch(predictions=torch.eye(4), references=torch.tensor([0, 1, 2, 0]))
    assert metric.compute()["accuracy"] == 0.75


def test_a_metric_writes_no_file(tmp_path):
    metric = metrics.SpiderMetric(cache_dir=str(tmp_path))
    metric.compute(predictions=np.eye(3), references=np.arange(3))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_metric_can_be_used_after_an_error():
    metric = metrics.SpiderMetric()
    with pytest.raises(ValueError, match="All 2 regions are of class 1"):
        metric.compute(predictions=np.eye(2), references=np.array([1, 1]))
    with pytest.raises(ValueError, match="Region 0: expected probabilities"):
        metric.add_batch(predictions=np.array([[3.0, -1.0]]), references=np.array([0]))
    assert metric.compute(predictions=np.eye(2), references=np.array([0, 1]))["accuracy"] == 1.0


def test_a_metric_without_regions_says_so():
    metric = metrics.SpiderMetric()
    with pytest.raises(ValueError, match="no region to evaluate"):
        metric.compute()
    metric.add_batch(predictions=np.zeros((0, 3)), references=np.zeros(0, int))
    with pytest.raises(ValueError, match="no region to evaluate"):
        metric.compute()


def test_a_batch_with_another_number_of_classes_is_refused():
    metric = metrics.SpiderMetric()
    metric.add_batch(predictions=np.eye(3), references=np.arange(3))
    with pytest.raises(ValueError, match="3 classes as before, got 4"):
        metric.add_batch(predictions=np.eye(4), references=np.arange(4))


# --------------------------------------------------------------------------------- the library behind the root script

PRINTS_THE_LIBRARY = """
import json, sys
sys.modules["transformers"] = None  # the library imports it if it is there, which takes seconds and proves nothing here
from spider_tools.metrics import SpiderMetric, evaluate_library
assert sys.modules["evaluate"] is evaluate_library()
print(json.dumps([evaluate_library().__file__, __file__]))
"""

GATHERS = """
import json, sys
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset
from spider_tools.metrics import SpiderMetric

accelerator = Accelerator(cpu=True)
data = torch.load(sys.argv[1], weights_only=True)
loader = accelerator.prepare(DataLoader(TensorDataset(data["probabilities"], data["labels"]), batch_size=4))
metric = SpiderMetric()
for probabilities, labels in loader:
    probabilities, labels = accelerator.gather_for_metrics((probabilities, labels))
    metric.add_batch(predictions=probabilities, references=labels)
regions, figures = len(metric), metric.compute()
with open(f"{sys.argv[2]}/{accelerator.process_index}.json", "w") as file:
    json.dump([accelerator.num_processes, regions, figures], file)
"""


def run(command, cwd):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture
def checkout(tmp_path):
    """A copy of the tools beside scripts of the given source, `evaluate.py` and `train.py`."""

    def make(source):
        folder = tmp_path / "checkout"
        shutil.copytree(ROOT / "spider_tools", folder / "spider_tools", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("evaluate.py", "train.py"):
            (folder / name).write_text(source, encoding="utf-8")
        return folder

    return make


@pytest.mark.parametrize(
    ("arguments", "cwd"), [(["evaluate.py"], "."), (["checkout/train.py"], ".."), (["-m", "evaluate"], ".")]
)
def test_the_library_is_found_past_a_script_of_its_name(arguments, cwd, checkout):
    folder = checkout(PRINTS_THE_LIBRARY)
    output = run([sys.executable, *arguments], folder / cwd)
    library, script = map(Path, json.loads(output.splitlines()[-1]))
    assert library.name == "__init__.py"
    assert library.parent.name == "evaluate"
    assert folder not in library.parents
    assert (folder / script.name).is_file()


@pytest.mark.slow
def test_two_processes_gather_what_one_would_see(checkout, tmp_path):
    """37 regions in batches of 4 on 2 processes: the last batches are filled up with regions that must not count."""
    probabilities, labels, _ = random_regions(8, regions=37)
    probabilities = torch.from_numpy(probabilities).float()
    torch.save({"probabilities": probabilities, "labels": torch.from_numpy(labels)}, tmp_path / "data.pt")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # With --cpu accelerate starts a single process, whatever their number; the script chooses the CPU itself.
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines=1", "--num_processes=2"]
    launch += ["--mixed_precision=no", "--dynamo_backend=no", f"--main_process_port={port}"]
    arguments = ["evaluate.py", str(tmp_path / "data.pt"), str(tmp_path)]
    run([sys.executable, *launch, *arguments], checkout(GATHERS))
    expected = loop_figures(probabilities.double().numpy(), labels)
    for process in (0, 1):
        num_processes, regions, figures = json.loads((tmp_path / f"{process}.json").read_text())
        assert num_processes == 2
        assert regions == 37
        assert figures == pytest.approx(expected)


def test_from_the_root_of_this_repository_the_metric_needs_no_network():
    program = """
import socket
def refuse(*args):
    raise AssertionError(f"a connection was tried: {args}")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import numpy as np
from spider_tools.metrics import SpiderMetric
print(SpiderMetric().compute(predictions=np.eye(3), references=np.arange(3))["macro_f1"])
"""
    assert run([sys.executable, "-c", program], ROOT).split() == ["1.0"]


def test_the_root_script_starts_as_a_module_from_the_root():
    """There the name `evaluate` is the script's in every way, and its imports need the library."""
    if not (ROOT / "evaluate.py").is_file():
        pytest.skip("evaluate.py is not in this checkout")
    assert "--output_dir" in run([sys.executable, "-m", "evaluate", "--help"], ROOT)


def test_a_script_that_is_already_imported_is_not_taken_for_the_library(monkeypatch):
    genuine = metrics.evaluate_library()
    script = types.ModuleType("evaluate")
    script.__file__ = str(ROOT / "evaluate.py")
    monkeypatch.setitem(sys.modules, "evaluate", script)
    library = metrics.evaluate_library()
    assert library.__file__ == genuine.__file__


def test_without_the_library_the_error_says_what_to_install(monkeypatch, tmp_path):
    (tmp_path / "evaluate.py").write_text("raise AssertionError('the script was run')\n")
    (tmp_path / "data" / "evaluate").mkdir(parents=True)  # a folder without __init__.py is no library either
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(tmp_path / "data")])
    script = types.ModuleType("evaluate")
    monkeypatch.setitem(sys.modules, "evaluate", script)
    with pytest.raises(ModuleNotFoundError, match="pip install evaluate"):
        metrics.evaluate_library()
    assert sys.modules["evaluate"] is script
