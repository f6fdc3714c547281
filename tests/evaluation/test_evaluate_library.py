"""The headline figures as a metric of the library `evaluate`, which a script of the same name hides."""

import json
import os
import shutil
import sys
import types
from pathlib import Path

import launched
import numpy as np
import pytest
import torch
import warm_python
from metrics_by_loop import loop_figures, random_regions

from spider_tools.evaluation.library import SpiderMetric, evaluate_library
from spider_tools.evaluation.metrics import headline_figures

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def test_the_metric_is_one_of_the_library_evaluate():
    library = evaluate_library()
    assert isinstance(SpiderMetric(), library.Metric)
    assert library is sys.modules["evaluate"]


def test_a_metric_fed_in_pieces_equals_the_whole():
    probabilities, labels, _ = random_regions(6, regions=101)
    metric = SpiderMetric()
    for start, end in ((0, 1), (1, 64), (64, 64), (64, 101)):
        metric.add_batch(predictions=probabilities[start:end], references=labels[start:end])
    assert len(metric) == 101
    expected = headline_figures(probabilities, labels)
    assert metric.compute() == expected
    assert SpiderMetric().compute(predictions=probabilities, references=labels) == expected


def test_a_metric_takes_tensors_and_is_empty_again_after_computing():
    metric = SpiderMetric()
    probabilities = torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125]], dtype=torch.bfloat16, requires_grad=True)
    metric.add_batch(predictions=probabilities, references=torch.tensor([0, 2]))
    assert metric.compute()["accuracy"] == 0.5
    # Another number of classes is no contradiction then.
    metric.add_batch(predictions=torch.eye(4), references=torch.tensor([0, 1, 2, 0]))
    assert metric.compute()["accuracy"] == 0.75


def test_a_metric_writes_no_file(tmp_path):
    metric = SpiderMetric(cache_dir=str(tmp_path))
    metric.compute(predictions=np.eye(3), references=np.arange(3))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_metric_can_be_used_after_an_error():
    metric = SpiderMetric()
    with pytest.raises(ValueError, match="All 2 regions are of class 1"):
        metric.compute(predictions=np.eye(2), references=np.array([1, 1]))
    with pytest.raises(ValueError, match="Region 0: expected probabilities"):
        metric.add_batch(predictions=np.array([[3.0, -1.0]]), references=np.array([0]))
    assert metric.compute(predictions=np.eye(2), references=np.array([0, 1]))["accuracy"] == 1.0


def test_a_metric_without_regions_says_so():
    metric = SpiderMetric()
    with pytest.raises(ValueError, match="no region to evaluate"):
        metric.compute()
    metric.add_batch(predictions=np.zeros((0, 3)), references=np.zeros(0, int))
    with pytest.raises(ValueError, match="no region to evaluate"):
        metric.compute()


def test_a_batch_with_another_number_of_classes_is_refused():
    metric = SpiderMetric()
    metric.add_batch(predictions=np.eye(3), references=np.arange(3))
    with pytest.raises(ValueError, match="3 classes as before, got 4"):
        metric.add_batch(predictions=np.eye(4), references=np.arange(4))


# --------------------------------------------------------------------------------- the library behind the root script

PRINTS_THE_LIBRARY = """
import json, sys
sys.modules["transformers"] = None  # the library imports it if it is there, which takes seconds and proves nothing here
from spider_tools.evaluation.library import SpiderMetric, evaluate_library
assert sys.modules["evaluate"] is evaluate_library()
print(json.dumps([evaluate_library().__file__, __file__]))
"""

GATHERS = """
import json, sys
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset
from spider_tools.evaluation.library import SpiderMetric

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
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = warm_python.run(command, cwd=cwd, env=environment)
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
    folder = checkout(GATHERS)
    script = [sys.executable, str(folder / "evaluate.py"), str(tmp_path / "data.pt"), str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = launched.run(script, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
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
from spider_tools.evaluation.library import SpiderMetric
print(SpiderMetric().compute(predictions=np.eye(3), references=np.arange(3))["macro_f1"])
"""
    done = warm_python.run([sys.executable, "-c", program], cwd=ROOT)
    assert done.stdout.split() == ["1.0"], done.stderr


def test_the_root_script_starts_as_a_module_from_the_root():
    """There the name `evaluate` is the script's in every way, and its imports need the library."""
    if not (ROOT / "evaluate.py").is_file():
        pytest.skip("evaluate.py is not in this checkout")
    assert "--output_dir" in run([sys.executable, "-m", "evaluate", "--help"], ROOT)


def test_a_script_that_is_already_imported_is_not_taken_for_the_library(monkeypatch):
    genuine = evaluate_library()
    script = types.ModuleType("evaluate")
    script.__file__ = str(ROOT / "evaluate.py")
    monkeypatch.setitem(sys.modules, "evaluate", script)
    library = evaluate_library()
    assert library.__file__ == genuine.__file__


def test_without_the_library_the_error_says_what_to_install(monkeypatch, tmp_path):
    (tmp_path / "evaluate.py").write_text("raise AssertionError('the script was run')\n")
    (tmp_path / "data" / "evaluate").mkdir(parents=True)  # a folder without __init__.py is no library either
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(tmp_path / "data")])
    script = types.ModuleType("evaluate")
    monkeypatch.setitem(sys.modules, "evaluate", script)
    with pytest.raises(ModuleNotFoundError, match="pip install evaluate"):
        evaluate_library()
    assert sys.modules["evaluate"] is script
