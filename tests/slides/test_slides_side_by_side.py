"""Runs side by side: each slide is done once, what others hold is waited for, and failures are retried when asked."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace

import pytest
import warm_python
from filelock import FileLock
from slide_files import draw_slide, write_pyramid
from tiny_spider import ROOT

from spider_tools.cohorts import working
from spider_tools.cohorts.many import segment_slides
from spider_tools.cohorts.records import Records
from spider_tools.slide_files.slide_error import SlideError
from spider_tools.slide_sources.task import SlideTask
from spider_tools.slides.results import SlideResult, summary

pytestmark = pytest.mark.usefixtures("fresh_accelerator", "plain_pictures")


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.setattr(working, "_POLL_SECONDS", 0.02)


@pytest.fixture
def slides(tmp_path):
    """Three slides in a folder."""
    folder = tmp_path / "slides"
    folder.mkdir()
    for number, name in enumerate("abc"):
        write_pyramid(folder / f"{name}.tif", draw_slide(200, 180, seed=number), 0.5)
    return folder


@pytest.fixture
def mapped(monkeypatch, settings):
    """Names of the slides that were worked on, without any work; those of `fail` fail, `at_c` is called at c."""

    class Mapped(list):
        fail: set = set()
        at_c = staticmethod(lambda: None)

        def __call__(self, task, model, settings):
            self.append(task.name)
            if task.name == "c":
                self.at_c()
            if task.name in self.fail:
                raise SlideError(f"{task.path} is broken.")
            folder = settings.output_dir / task.name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "slide.json").write_text("{}")
            return SlideResult(task.name, "done")

    mapped = Mapped()
    monkeypatch.setattr(working, "map_slide", mapped)
    return mapped


def statuses(results):
    return "".join(result.status[0] for result in results)  # done, skipped or failed


def table(folder):
    with open(folder / "cohort.csv", newline="") as file:
        return {line["slide"]: line for line in csv.DictReader(file)}


# --- What others hold, have done, or failed to do


def test_a_slide_that_another_run_has_is_waited_for_and_left_to_it(slides, settings, mapped, caplog):
    other = Records(settings.output_dir, "other")
    settings.output_dir.mkdir()
    task = SlideTask(slides / "a.tif", "a")
    assert other.claim(task)
    assert other.begin(task)
    mapped.at_c = threading.Timer(0.2, other.release, [task]).start
    caplog.set_level("INFO")
    assert statuses(segment_slides([slides], settings)) == "ddd"
    assert mapped == ["b", "c", "a"], "the others came first"
    assert f"waiting for a, which process {os.getpid()} on " in caplog.text


def test_two_runs_at_once_do_each_slide_once(slides, settings, mapped):
    both, results = threading.Barrier(2), {}
    plain = working.map_slide

    def slow(*arguments):
        time.sleep(0.05)
        return plain(*arguments)

    working.map_slide = slow

    def run(number):
        both.wait()
        results[number] = segment_slides([slides], settings)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(mapped) == ["a", "b", "c"]
    assert Counter(statuses(results[0]) + statuses(results[1])) == {"d": 3, "s": 3}


def test_what_failed_beside_this_run_is_not_tried_again(slides, settings, mapped):
    mapped.fail = {"a", "b"}
    started = threading.Event()
    inner = working.map_slide

    def second_run_first(task, *rest):
        if not started.is_set():  # a whole run goes by while this one is at its first slide
            started.set()
            thread = threading.Thread(target=segment_slides, args=([slides / "b.tif", slides / "c.tif"], settings))
            thread.start()
            thread.join()
        return inner(task, *rest)

    working.map_slide = second_run_first
    results = segment_slides([slides], settings)
    assert mapped == ["b", "c", "a"]
    assert statuses(results) == "ffs"
    assert results[1].message == f"{slides / 'b.tif'} is broken."


@pytest.mark.parametrize("change", ["stride", "mpp", "mask"])
def test_a_run_beside_this_one_with_other_settings_does_not_count(slides, settings, mapped, change, tmp_path):
    (tmp_path / "m.geojson").write_text("{}")
    other = {"stride": {"stride": 14}, "mpp": {"mpp": 0.4}, "mask": {"mask": tmp_path / "m.geojson"}}[change]
    started = threading.Event()
    inner = working.map_slide

    def second_run_first(task, *rest):
        if not started.is_set():
            started.set()
            thread = threading.Thread(target=segment_slides, args=([slides / "b.tif"], replace(settings, **other)))
            thread.start()
            thread.join()
        return inner(task, *rest)

    working.map_slide = second_run_first
    segment_slides([slides], settings)
    assert mapped == ["b", "a", "b", "c"]


def test_a_folder_that_a_program_without_claims_writes_is_waited_for(slides, settings, monkeypatch):
    (settings.output_dir / "a").mkdir(parents=True)
    lock = FileLock(settings.output_dir / "a" / ".lock", thread_local=False)
    lock.acquire()
    threading.Timer(1.0, lock.release).start()
    assert statuses(segment_slides([slides], settings)) == "ddd"


def test_tasks_of_one_array_leave_each_others_failures(slides, settings, mapped, monkeypatch):
    mapped.fail = {"b"}
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "77")
    assert statuses(segment_slides([slides], settings)) == "dfd"
    assert statuses(segment_slides([slides], settings)) == "sfs", "a task that began later"
    assert mapped == ["a", "b", "c"]
    assert statuses(segment_slides([slides], replace(settings, retry_failed=True))) == "f", "in the same job"
    assert mapped == ["a", "b", "c", "b"]
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "78")
    mapped.fail = set()
    assert statuses(segment_slides([slides / "b.tif"], settings)) == "d"


def test_a_slide_that_ends_the_processes_of_an_array_is_left_at_last(slides, settings, mapped, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "77")

    def killed(task, *rest):
        if task.name == "a":
            raise KeyboardInterrupt  # as abrupt an end as there is in a test
        return mapped(task, *rest)

    monkeypatch.setattr(working, "map_slide", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            segment_slides([slides], settings)
    results = segment_slides([slides], settings)
    assert statuses(results) == "fdd"
    assert "several processes ended while they had this slide" in results[0].message
    monkeypatch.setattr(working, "map_slide", mapped)
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID")
    assert statuses(segment_slides([slides / "a.tif"], settings)) == "d"


def test_without_an_array_a_killed_run_is_always_taken_up_again(slides, settings, mapped, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    for _ in range(4):
        monkeypatch.setattr(working, "map_slide", interrupted)
        with pytest.raises(KeyboardInterrupt):
            segment_slides([slides], settings)
    monkeypatch.setattr(working, "map_slide", mapped)
    assert statuses(segment_slides([slides], settings)) == "ddd"


# --- Failures


def test_failed_slides_are_tried_again_with_the_others_or_alone(slides, settings, mapped):
    mapped.fail = {"b"}
    results = segment_slides([slides], settings)
    assert statuses(results) == "dfd"
    told = summary(results)
    assert "1 slide failed: cohort.csv says why. The same command tries it again, and with --retry_failed" in told
    assert table(settings.output_dir)["b"]["message"] == f"{slides / 'b.tif'} is broken."
    mapped.clear()
    assert statuses(segment_slides([slides], replace(settings, retry_failed=True))) == "f"
    assert mapped == ["b"]
    mapped.clear()
    mapped.fail = set()
    assert statuses(segment_slides([slides], replace(settings, retry_failed=True))) == "d"
    assert mapped == ["b"]
    assert table(settings.output_dir)["b"]["status"] != "failed"
    nothing = replace(settings, retry_failed=True, model="no-such-model")
    assert segment_slides([slides], nothing) == [], "no model is loaded for nothing"


def test_slides_that_were_never_tried_are_not_retried(slides, settings, mapped):
    assert segment_slides([slides], replace(settings, retry_failed=True)) == []
    assert mapped == []


def test_records_that_are_damaged_are_none(slides, settings, mapped):
    segment_slides([slides], settings)
    for path, damage in zip((settings.output_dir / ".cohort").glob("*.json"), ("", "[]", '{"name": 1}')):
        path.write_text(damage)
    for path in (settings.output_dir / ".cohort").glob("*.holder"):
        path.write_text("[]")
    assert statuses(segment_slides([slides], settings)) == "ddd"


# --- As processes


def array_command(folder, *arguments):
    """What the tasks of examples/slurm_array.sh run: a python that writes down its arguments stands in its way."""
    (folder / "bin").mkdir(exist_ok=True)
    python = folder / "bin" / "python"
    python.write_text('#!/bin/bash\nprintf "%s\\0" "$PWD" "$@"\n')
    python.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_TMPDIR": str(folder / "fast"),
        "SLURM_CPUS_PER_TASK": "1",
        "SPIDER_DTYPE": "float32",
    }
    script = ["bash", ROOT / "examples" / "slurm_array.sh", *arguments]
    done = subprocess.run(script, env=environment, check=True, capture_output=True, text=True)
    where, *words = done.stdout.rstrip("\0").split("\0")
    return where, [sys.executable, *words]


@pytest.mark.slow
def test_the_example_of_an_array_does_every_slide_once(tmp_path, model_folder):
    slides, results = tmp_path / "my slides", tmp_path / "R"
    slides.mkdir()
    for number in range(3):
        write_pyramid(slides / f"s{number}.tif", draw_slide(220, 180, seed=number), 0.5)
    (slides / "broken.svs").write_bytes(b"no slide")
    where, command = array_command(tmp_path, slides, results, model_folder)
    tasks = []
    for number in range(2):
        slurm = {"SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": str(number), "SLURM_JOB_ID": str(78 + number)}
        environment = os.environ | slurm | {"SLURM_CPUS_PER_TASK": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        tasks.append(warm_python.start(command, cwd=where, env=environment, **pipes))
    said = [task.communicate(timeout=240)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [1, 1], "one slide failed"
    done = Counter(line.split()[0] for text in said for line in text.splitlines() if line.split()[1:2] == ["done"])
    assert done == {f"s{number}": 1 for number in range(3)}
    assert all("broken" in text and " failed " in text for text in said)
    rows = table(results)
    assert {name: line["status"] for name, line in rows.items()} == {
        "broken": "failed",
        **{f"s{number}": "done" for number in range(3)},
    }
    assert all(float(rows[f"s{number}"]["tissue_mm2"]) > 0 for number in range(3))
    assert not list((tmp_path / "fast").iterdir())
    runs = [json.loads(path.read_text())["run"] for path in (results / ".cohort").glob("*.json")]
    assert runs == ["slurm-77"] * 4


HOLD = """
import sys, time
from pathlib import Path
from spider_tools.cohorts.records import Records
from spider_tools.slide_sources.task import SlideTask
records = Records(Path(sys.argv[1]), "other")
task = SlideTask(Path(sys.argv[2]), "a")
assert records.claim(task) and records.begin(task)
print("held", flush=True)
time.sleep(600)
"""


def test_the_claim_of_a_killed_process_holds_nobody_up(slides, settings, mapped):
    settings.output_dir.mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, settings.output_dir, slides / "a.tif"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert holder.stdout.readline().strip() == "held"
        mapped.at_c = threading.Timer(0.2, holder.send_signal, [signal.SIGKILL]).start
        assert statuses(segment_slides([slides], settings)) == "ddd"
        assert mapped == ["b", "c", "a"]
    finally:
        holder.kill()
        holder.communicate()
