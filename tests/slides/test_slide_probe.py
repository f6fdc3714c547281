"""What crashes OpenSlide ends a process beside this one, and one slide of the batch."""

import os
import signal
import threading
import time

import pytest
import tifffile
from slide_files import draw_slide, write_pyramid

from spider_tools.cohorts.many import segment_slides
from spider_tools.slide_files import probe
from spider_tools.slide_files.probe import check_survives
from spider_tools.slide_files.reader import SlideError

pytestmark = [pytest.mark.usefixtures("fresh_accelerator"), pytest.mark.slow]


def write_crashing(path):
    """A slide whose tiles are 16 million px high: GLib aborts over the memory for one (OpenSlide 4.0.1)."""
    write_pyramid(path, draw_slide(300, 230), 0.5, description="aperio")
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["TileLength"].overwrite(0x51000040)
    return path


@pytest.fixture(autouse=True)
def _fresh_probe():
    yield
    probe.PROBE.close()


def test_a_slide_that_crashes_openslide_is_refused(tmp_path):
    with pytest.raises(SlideError, match=r"bad\.svs crashes a process \(SIG[A-Z]+\) when OpenSlide opens it"):
        check_survives(write_crashing(tmp_path / "bad.svs"))


def test_a_crash_takes_one_slide_of_a_batch(tmp_path, settings):
    write_pyramid(tmp_path / "a.tif", draw_slide(200, 180), 0.5)
    write_crashing(tmp_path / "b.svs")
    write_pyramid(tmp_path / "c.tif", draw_slide(200, 180, seed=1), 0.5)
    results = segment_slides([tmp_path], settings)
    assert [(result.name, result.status) for result in results] == [("a", "done"), ("b", "failed"), ("c", "done")]
    assert "crashes a process" in results[1].message


@pytest.mark.parametrize("content", [b"", b"no slide", b"II*\0\xff\xff\xff\x7f"])
def test_what_openslide_says_against_a_slide_is_left_to_who_opens_it(tmp_path, content):
    (tmp_path / "s.svs").write_bytes(content)
    check_survives(tmp_path / "s.svs")
    check_survives(tmp_path / "absent.svs")


def test_names_of_all_sorts_reach_the_other_process(tmp_path, monkeypatch):
    for name in ("Präparat 1.svs", 'a"b\n.svs', "\udcff.svs"):
        write_crashing(tmp_path / name)
        with pytest.raises(SlideError, match="crashes a process"):
            check_survives(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SlideError, match="crashes a process"):
        check_survives((tmp_path / "Präparat 1.svs").relative_to(tmp_path))


def test_one_process_serves_many_slides_and_a_new_one_after_a_death(tmp_path):
    good = write_pyramid(tmp_path / "a.tif", draw_slide(200, 180), 0.5)
    check_survives(good)
    first = probe.PROBE.pid
    check_survives(good)
    assert probe.PROBE.pid == first
    os.kill(first, signal.SIGKILL)
    time.sleep(0.2)
    check_survives(good)
    assert probe.PROBE.pid != first


def test_a_process_that_is_killed_while_it_reads_fails_the_slide(tmp_path):
    os.mkfifo(tmp_path / "endless.svs")
    check_survives(write_pyramid(tmp_path / "a.tif", draw_slide(200, 180), 0.5))
    killer = threading.Timer(0.3, os.kill, [probe.PROBE.pid, signal.SIGKILL])
    killer.start()
    with pytest.raises(SlideError, match=r"crashes a process \(SIGKILL\) .* memory ran out.*\. Lower --num_workers"):
        check_survives(tmp_path / "endless.svs")


def test_a_slide_that_comes_to_no_end_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "_MOST_SECONDS", 0.5)
    os.mkfifo(tmp_path / "endless.svs")
    with pytest.raises(SlideError, match=r"takes more than \d s"):
        check_survives(tmp_path / "endless.svs")
