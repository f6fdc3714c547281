"""The benchmarks measure what they say and write it whole; each row runs once on tiny sizes."""

import importlib
import json
import os
import re
import sys
import time
from types import SimpleNamespace

import pytest
import torch
import transformers
import warm_python

from benchmarks import cold_start
from benchmarks.measuring import Goal, Options, Section, alternate, comparison, spread
from benchmarks.models import PlainDinov2, flops_per_patch
from benchmarks.own_process import in_own_process
from benchmarks.report import ROWS, add_to_report
from spider_tools.remote_code import REPOSITORY_ROOT

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
newer_only = pytest.mark.skipif(
    transformers.__version__.startswith("4."), reason="the benchmarks are written for Transformers 5"
)


def test_ways_run_in_turn_and_warm_up_is_not_counted():
    calls = []
    seconds = alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3, CPU, warm_up=2)
    assert calls == ["a", "b"] * 5
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}


def test_the_time_is_that_of_the_way():
    [slept] = alternate({"sleep": lambda: time.sleep(0.05)}, 1, CPU, warm_up=0)["sleep"]
    assert 0.05 <= slept < 0.5


def test_a_comparison_is_the_arithmetic_of_the_medians():
    rows = comparison({"plain": [4.0, 2.0, 3.0], "ours": [0.5, 0.6, 0.7]}, units=6, unit="patch", baseline="plain")
    assert [row["way"] for row in rows] == ["plain", "ours"]
    assert [row["ms per patch"] for row in rows] == pytest.approx([500, 100])
    assert [row["patches/s"] for row in rows] == pytest.approx([2, 10])
    assert [row["times plain"] for row in rows] == pytest.approx([1, 5])
    assert [row["spread"] for row in rows] == ["67%", "33%"]
    assert spread([4.0, 2.0, 3.0]) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("value", "at_least", "met"), [(15, True, True), (14.9, True, False), (15, False, True), (15.1, False, False)]
)
def test_goals_say_whether_they_were_met(value, at_least, met):
    goal = Goal("times the crops", value, 15, at_least)
    assert goal.met is met
    assert str(goal).endswith(": met" if met else ": not met")


def measured(value, date="2026-01-02"):
    return {
        "date": date,
        "machine": {"cpu": "abacus"},
        "sections": [{"title": "Beads", "notes": "Moved.", "rows": [{"way": "fast", "ms": value}], "goals": []}],
    }


def test_a_row_measured_again_replaces_its_own_figures_only(tmp_path):
    first, second = list(ROWS)[:2]
    add_to_report(tmp_path, "cpu", second, measured(0.12345))
    add_to_report(tmp_path, "cpu", first, measured(2.0))
    add_to_report(tmp_path, "cpu", first, measured(1234.5, "2026-03-04"))
    report = json.loads((tmp_path / "cpu.json").read_text())
    assert list(report) == [first, second]
    assert report[first]["date"] == "2026-03-04"
    text = (tmp_path / "cpu.md").read_text()
    assert "| fast | 1,234 |" in text
    assert "| fast | 0.123 |" in text
    assert "2026-01-02; cpu abacus" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cpu.json", "cpu.md"]


def test_a_section_shows_every_column_and_goal():
    rows = [{"way": "a", "regions/s": 2}, {"way": "b", "regions/s": 3.14159}]
    lines = Section("Speed", "Notes.", rows, [Goal("share", 0.5, 0.2, at_least=False)]).markdown().splitlines()
    assert lines[4:8] == ["| way | regions/s |", "|---|---|", "| a | 2 |", "| b | 3.14 |"]
    assert lines[-1] == "- share: 0.5, wanted at most 0.2: not met"


@newer_only
def test_the_plain_dinov2_computes_what_the_backbone_does(make_model):
    backbone = make_model().backbone
    pixels = torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(PlainDinov2(backbone)(pixels), backbone(pixels).pooler_output)


def test_the_operations_of_a_patch_are_those_that_torch_counts(make_model):
    from torch.utils.flop_counter import FlopCounterMode

    backbone = make_model().backbone
    backbone.set_attn_implementation("eager")  # the products inside of sdpa are not counted on a CPU
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        backbone(torch.zeros(2, 3, 28, 28))
    assert flops_per_patch(backbone.config) == counter.get_total_flops() / 2


def benchmarks(*arguments):
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return warm_python.run(command, cwd=REPOSITORY_ROOT)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speed"], "unknown rows ['speed'], expected any of"),
        (["--quick"], "--quick measures nothing: give it an --output of its own"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_runs(arguments, message):
    run = benchmarks(*arguments)
    assert run.returncode == 2
    assert message in run.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused():
    assert "PyTorch sees no GPU here" in benchmarks("--device", "cuda").stderr


def check_numbers(lines):
    numbers = [value for line in lines for value in line.values() if isinstance(value, (int, float))]
    assert numbers
    assert all(value >= 0 for value in numbers)


def in_this_process(function, *arguments, watch=lambda pid: None):
    watch(os.getpid())
    return function(*arguments)


def run_warm(command, cwd, **_):
    return warm_python.run(command, cwd=cwd)


@newer_only
@pytest.mark.parametrize("row", [row for row in ROWS if row not in ("int8", "preprocessing")])
def test_every_row_runs(row, monkeypatch):
    # Here it is not measured how long a process takes to start.
    monkeypatch.setattr(cold_start, "subprocess", SimpleNamespace(run=run_warm))
    module = importlib.import_module(f"benchmarks.{row}")
    if hasattr(module, "in_own_process"):  # nor what it takes beside others
        monkeypatch.setattr(module, "in_own_process", in_this_process)
    for section in module.measure(Options(CPU, quick=True)):
        assert section.title
        check_numbers(section.rows)


@newer_only
def test_a_row_that_runs_in_a_process_of_its_own_goes_into_the_report(tmp_path):
    row = "preprocessing"
    run = benchmarks(row, "--quick", "--output", str(tmp_path))
    assert run.returncode == 0, run.stderr[-3000:]
    for section in json.loads((tmp_path / "cpu.json").read_text())[row]["sections"]:
        check_numbers(section["rows"])
    assert re.search(rf"## {ROWS[row]}\n\n\d{{4}}-\d\d-\d\d; cpu ", (tmp_path / "cpu.md").read_text())


def test_a_function_runs_in_a_process_of_its_own_and_a_failure_is_told():
    seen = []
    assert in_own_process(pow, 3, 4, watch=seen.append) == 81
    assert all(pid != os.getpid() for pid in seen)
    with pytest.raises(RuntimeError, match="divmod failed in its process, exit status 1"):
        in_own_process(divmod, 1, 0)
