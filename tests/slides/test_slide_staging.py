"""Copies on a fast disk: whole, of the original, ahead of the work, and gone afterwards, also after a kill."""

import errno
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from slide_files import draw_slide, write_dicom, write_mirax, write_pyramid
from tiny_spider import ROOT

from spider_tools.cohorts import working
from spider_tools.cohorts.many import segment_slide, segment_slides
from spider_tools.slide_files.companions import files_to_copy
from spider_tools.slide_files.slide_error import SlideError
from spider_tools.slide_sources import staging
from spider_tools.slide_sources.staging import Stage
from spider_tools.slide_sources.task import SlideTask
from spider_tools.slides.results import SlideResult

pytestmark = pytest.mark.usefixtures("fresh_accelerator", "plain_pictures")
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def slides(tmp_path):
    """Three slides and a broken one, in a folder."""
    folder = tmp_path / "slides"
    folder.mkdir()
    for number, name in enumerate("acd"):
        write_pyramid(folder / f"{name}.tif", draw_slide(220, 180, seed=number), 0.5)
    (folder / "b.svs").write_bytes(b"no slide")
    return folder


@pytest.fixture
def staged(settings, tmp_path):
    """Settings with a folder for copies."""
    return replace(settings, stage_dir=tmp_path / "fast")


def statuses(results):
    return [(result.name, result.status) for result in results]


def test_results_are_those_of_the_original(slides, settings, staged, tmp_path):
    plain = segment_slides([slides], replace(settings, output_dir=tmp_path / "plain"))
    copied = segment_slides([slides], staged)
    assert statuses(copied) == statuses(plain) == [("a", "done"), ("b", "failed"), ("c", "done"), ("d", "done")]
    assert copied[1].message == plain[1].message, "it names the original"
    assert str(slides / "b.svs") in copied[1].message
    for name in "acd":
        one, two = (
            pq.read_table(folder / name / "predictions.parquet") for folder in (tmp_path / "plain", staged.output_dir)
        )
        assert one.equals(two)
    assert statuses(segment_slides([slides / "a.tif"], replace(staged, output_dir=tmp_path / "plain"))) == [
        ("a", "skipped")
    ]
    assert str(tmp_path / "fast") not in (staged.output_dir / "a" / "slide.json").read_text()
    assert not list((tmp_path / "fast").iterdir())


@pytest.mark.parametrize("kind", ["mirax", "dicom"])
def test_a_slide_of_many_files_is_copied_with_all_of_them(tmp_path, kind, settings, staged):
    folder = tmp_path / "many"
    folder.mkdir()
    pixels = draw_slide(256, 192, seed=3)
    if kind == "mirax":
        path = write_mirax(folder / "s.mrxs", pixels, (0, 0), (256, 192))
    else:
        path = write_dicom(folder / "1.dcm", pixels, "1.2.3")
        write_dicom(folder / "2.dcm", pixels[::2, ::2], "1.2.3", mpp=1.0)
        write_dicom(folder / "other.dcm", pixels, "9.9.9")
    one = segment_slide(path, settings)
    two = segment_slide(path, replace(staged, output_dir=tmp_path / "two"))
    assert (one.status, one.predicted) == (two.status, two.predicted)
    first, second = (
        pq.read_table(where / one.name / "predictions.parquet") for where in (settings.output_dir, tmp_path / "two")
    )
    assert first.equals(second)
    again = segment_slide(path, replace(staged, output_dir=settings.output_dir))
    assert again.status == "skipped", "the copy has the content of the original"


def test_the_files_of_a_hamamatsu_slide_are_those_that_it_names(tmp_path):
    for name in ("a.jpg", "b.opt", "c.jpg", "d.ngr"):
        (tmp_path / name).touch()
    lines = ["[Virtual Microscope]", "ImageFile=a.jpg", "OptimisationFile=b.opt", "MapFile=absent.map", "X=../c.jpg"]
    (tmp_path / "s.vms").write_text("\r\n".join(lines))
    assert [path.name for path in files_to_copy(tmp_path / "s.vms")] == ["s.vms", "a.jpg", "b.opt", "c.jpg"]


def test_the_next_slide_is_copied_while_one_is_embedded_and_no_other(slides, staged, monkeypatch):
    seen = []

    def look(task, model, settings):
        deadline = time.monotonic() + 10
        wanted = {"a": 2, "b": 2, "c": 2, "d": 1}[task.name]
        while len(copies := list(staged.stage_dir.glob(".spider-stage-*/*/*"))) < wanted:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        seen.append((task.name, sorted(path.name for path in copies)))
        assert task.path.read_bytes() == (slides / task.path.name).read_bytes()
        return SlideResult(task.name, "done")

    monkeypatch.setattr(working, "map_slide", look)
    segment_slides([slides], staged)
    assert seen == [
        ("a", ["a.tif", "b.svs"]),
        ("b", ["b.svs", "c.tif"]),
        ("c", ["c.tif", "d.tif"]),
        ("d", ["d.tif"]),
    ]


def test_what_is_done_is_not_copied_again(slides, staged, settings, caplog):
    segment_slides([slides], settings)  # without a folder for copies
    caplog.set_level(logging.INFO)
    assert [r.status for r in segment_slides([slides], staged)] == ["skipped", "failed", "skipped", "skipped"]
    assert [m for m in caplog.messages if ": fetching" in m and "b.svs" not in m] == []


def test_a_slide_without_room_fails_alone(slides, staged, monkeypatch):
    size = (slides / "c.tif").stat().st_size
    grown = slides / "a.tif"
    grown.write_bytes(grown.read_bytes() + bytes(size))  # twice as large as the others
    free = size * 1.5 + staging._RESERVE_BYTES
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, free))
    results = segment_slides([slides], staged)
    assert statuses(results) == [("a", "failed"), ("b", "failed"), ("c", "done"), ("d", "done")]
    assert "make room, or choose another --stage_dir" in results[0].message


def test_room_that_the_slide_before_takes_is_waited_for(slides, staged, monkeypatch):
    def free(path):
        used = sum(file.stat().st_size for file in Path(staged.stage_dir).rglob("*") if file.is_file())
        return Usage(10**12, 0, staging._RESERVE_BYTES + (slides / "c.tif").stat().st_size * 1.5 - used)

    monkeypatch.setattr(shutil, "disk_usage", free)
    assert [r.status for r in segment_slides([slides / "c.tif", slides / "d.tif"], staged)] == ["done", "done"]


def test_a_disk_that_is_full_in_the_middle_fails_one_slide(slides, staged, monkeypatch):
    copier = staging._copier

    def full(source):
        def copy(target, came):
            target.write_bytes(b"some")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

        return copy if source.name == "a.tif" else copier(source)

    monkeypatch.setattr(staging, "_copier", full)
    results = segment_slides([slides / "a.tif", slides / "c.tif"], staged)
    assert statuses(results) == [("a", "failed"), ("c", "done")]
    assert f"{slides / 'a.tif'} cannot be copied to " in results[0].message
    assert "No space left on device" in results[0].message


def test_a_slide_that_changes_meanwhile_is_refused(tmp_path):
    source = tmp_path / "s.svs"
    source.write_bytes(b"x" * 100)

    def grow(_):
        with source.open("ab") as file:
            file.write(b"y")

    with Stage(tmp_path / "fast") as stage:
        stage._count = lambda bar, count: grow(count)
        with pytest.raises(SlideError, match=r"changed while it was copied: 10\d bytes came, expected 100"):
            stage.begin(SlideTask(source, "s")).wait()
        assert not list((tmp_path / "fast").glob(".spider-stage-*/*/*"))


@pytest.mark.parametrize("kind", ["absent", "folder", "pipe"])
def test_what_is_no_file_is_not_copied(tmp_path, kind):
    path = tmp_path / "s.svs"
    {"absent": lambda: None, "folder": path.mkdir, "pipe": lambda: os.mkfifo(path)}[kind]()
    with Stage(tmp_path / "fast") as stage, pytest.raises(SlideError, match=r"s\.svs"):
        stage.begin(SlideTask(path, "s")).wait()


def test_the_end_does_not_wait_for_a_copy(tmp_path):
    source = tmp_path / "s.svs"
    source.write_bytes(b"x" * 100)
    begun, go = threading.Event(), threading.Event()
    with Stage(tmp_path / "fast") as stage:
        count = stage._count

        def slow(bar, number):
            begun.set()
            go.wait(10)
            count(bar, number)

        stage._count = slow
        staged = stage.begin(SlideTask(source, "s"))
        begun.wait(10)
        threading.Timer(0.05, go.set).start()
    assert not list((tmp_path / "fast").iterdir())
    assert staged._copy.exception() is not None


KILLED = """
import sys, time
from pathlib import Path
from spider_tools.slide_sources.staging import Stage
from spider_tools.slide_sources.task import SlideTask
with Stage(Path(sys.argv[1])) as stage:
    stage.begin(SlideTask(Path(sys.argv[2]), "s")).wait()
    print("copied", flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_has_is_not(tmp_path):
    source, fast = tmp_path / "s.svs", tmp_path / "fast"
    source.write_bytes(b"x")
    fast.mkdir()
    (fast / "thesis.docx").write_bytes(b"not ours")
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, fast, source],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout.readline().strip() == "copied"
    with Stage(fast):
        assert len(list(fast.glob(".spider-stage-*/*/s.svs"))) == 1
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(list(fast.glob(".spider-stage-*/*/s.svs"))) == 1
    with Stage(fast):
        pass
    assert [path.name for path in fast.iterdir()] == ["thesis.docx"]


def test_a_folder_that_cannot_be_written_is_refused_before_the_model_is_loaded(slides, settings, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"--stage_dir .*file"):
        segment_slides([slides], replace(settings, model="no-such-model", stage_dir=tmp_path / "file" / "x"))
