"""Processes share a run: each slide is taken once, and one whose process dies is reported and waited for no longer."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from spider_tools.cohorts import shared_run
from spider_tools.cohorts.shared_run import SharedRun, new_run_folder, remove_dead_runs
from spider_tools.slide_sources.finding import SlideTask
from spider_tools.slides.results import SlideResult

ROOT = Path(__file__).parents[2]
TASKS = [SlideTask(Path(f"{name}.svs"), name) for name in "abcde"]
TAKE_TWO_FINISH_ONE_AND_SLEEP = """
import sys, time
from pathlib import Path
from spider_tools.slide_sources.finding import SlideTask
from spider_tools.slides.results import SlideResult
from spider_tools.cohorts.shared_run import SharedRun
run = SharedRun(Path(sys.argv[1]), [SlideTask(Path(f"{name}.svs"), name) for name in "abcde"])
first = run.take()
run.report(first, SlideResult("abcde"[first], "done", 7, 8, 9.5))
print(run.take(), flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(shared_run, "_POLL_SECONDS", 0.02)


@pytest.fixture
def folder(tmp_path):
    return new_run_folder(tmp_path)


@pytest.fixture
def other_process(folder):
    """A process of the run that has finished slide a, holds slide b, and sleeps."""
    process = subprocess.Popen(
        [sys.executable, "-c", TAKE_TWO_FINISH_ONE_AND_SLEEP, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout.readline().strip() == "1"
    yield process
    process.kill()
    process.communicate()


def do_all(run):
    taken = []
    while (number := run.take()) is not None:
        taken.append(number)
        run.report(number, SlideResult(TASKS[number].name, "done", predicted=number))
    return taken


def test_every_slide_is_taken_once(folder):
    runs = [SharedRun(folder, TASKS) for _ in range(3)]
    first, second = runs[0].take(), runs[1].take()
    assert (first, second) == (0, 1)
    for number, run in ((first, runs[0]), (second, runs[1])):
        run.report(number, SlideResult(TASKS[number].name, "failed", message="broken"))
    assert do_all(runs[2]) == [2, 3, 4]
    assert [do_all(run) for run in runs] == [[], [], []]
    runs[1].leave()
    runs[2].leave()
    results = runs[0].wait_for_all()
    assert [(r.name, r.status) for r in results] == list(zip("abcde", ["failed"] * 2 + ["done"] * 3))
    assert results[3] == SlideResult("d", "done", predicted=3)
    assert not folder.exists()


def test_the_folder_stays_until_all_processes_have_left(folder):
    main, other = SharedRun(folder, TASKS), SharedRun(folder, TASKS)
    do_all(main)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(main.wait_for_all)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.3)
        assert folder.exists(), "a process that looks for its next slide would begin them all again"
        assert other.take() is None
        other.leave()
        assert len(waiting.result(timeout=10)) == 5
    assert not folder.exists()


def test_a_slide_that_is_being_done_is_waited_for(folder):
    main, other = SharedRun(folder, TASKS), SharedRun(folder, TASKS)
    slow = other.take()
    do_all(main)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(main.wait_for_all)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.3)
        other.report(slow, SlideResult("a", "done", predicted=99))
        other.leave()
        assert waiting.result(timeout=10)[0].predicted == 99


def test_a_slide_whose_process_is_killed_has_failed_and_the_run_ends(folder, other_process, caplog):
    run = SharedRun(folder, TASKS)
    assert do_all(run) == [2, 3, 4]
    killer = threading.Timer(0.5, other_process.send_signal, [signal.SIGKILL])
    killer.start()
    results = run.wait_for_all()
    assert other_process.wait(timeout=10) == -signal.SIGKILL
    assert [(r.name, r.status) for r in results] == list(zip("abcde", ["done", "failed", "done", "done", "done"]))
    assert results[0] == SlideResult("a", "done", 7, 8, 9.5)
    assert "process that had this slide ended" in results[1].message
    assert "most often for lack of memory" in results[1].message
    assert "with a lower --num_workers and --batch_size" in results[1].message
    assert "b failed: the process" in caplog.text
    assert not folder.exists()


def test_a_slide_that_has_killed_one_process_is_not_given_to_the_next(folder, other_process):
    other_process.kill()
    other_process.wait()
    assert do_all(SharedRun(folder, TASKS)) == [2, 3, 4]


def test_folders_of_killed_runs_are_removed_and_those_of_living_ones_are_not(tmp_path, folder, other_process):
    (tmp_path / ".run-being-made").mkdir()
    (tmp_path / "slide").mkdir()
    living = SharedRun(new_run_folder(tmp_path), TASKS)  # between two slides: it holds none
    remove_dead_runs(tmp_path)
    assert folder.exists()
    other_process.kill()
    other_process.wait()

    remove_dead_runs(tmp_path)

    assert not folder.exists()
    names = {path.name for path in tmp_path.iterdir()}
    assert {".run-being-made", "slide"} < names
    assert len(names) == 3
    assert do_all(living) == [0, 1, 2, 3, 4]
