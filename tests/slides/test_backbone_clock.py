"""How long the backbone works: counted as it runs, written down, and told with advice."""

import contextlib
import json
import time
from dataclasses import replace

import pytest
import torch
from slide_files import draw_slide, write_pyramid

from spider_tools.slide_sources.task import SlideTask
from spider_tools.slides import backbone_clock
from spider_tools.slides.backbone_clock import BackboneClock
from spider_tools.slides.one import map_slide
from spider_tools.slides.results import SlideResult, summary


def test_time_within_counts_and_time_between_does_not(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(backbone_clock.time, "perf_counter", lambda: now[0])
    clock = BackboneClock(torch.device("cpu"))
    for within, after in ((2.0, 10.0), (3.0, 20.0)):
        with clock.running():
            now[0] += within
        now[0] += after
    with contextlib.suppress(ValueError), clock.running():
        now[0] += 1.0
        raise ValueError("broken")
    assert clock.seconds() == 6.0


class Event:
    """An event of a GPU that is at `gpu.done` seconds of its work, while its program has asked for `gpu.asked`."""

    gpu = None

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.at = self.gpu.asked

    def query(self):
        return self.gpu.done >= self.at

    def synchronize(self):
        self.gpu.done = max(self.gpu.done, self.at)
        self.gpu.waits += 1

    def elapsed_time(self, other):
        assert other.query(), "asked before it was past"
        return 1000 * (other.at - self.at)


class Gpu:
    asked, done, waits = 0.0, 0.0, 0


def test_a_gpu_is_not_waited_for_before_the_end(monkeypatch):
    gpu = Gpu()
    monkeypatch.setattr(Event, "gpu", gpu)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    clock = BackboneClock(torch.device("cuda"))
    for batch in range(100):
        with clock.running():
            gpu.asked += 0.5
        gpu.asked += 0.25  # the head, or a copy
        gpu.done = gpu.asked - 2 if batch < 50 else gpu.done
    assert gpu.waits == 0
    assert len(clock._events) < 60, "what is past is not kept"
    assert clock.seconds() == pytest.approx(50.0)
    assert clock._events == type(clock._events)()


def test_the_share_of_a_slide_is_that_of_the_time_in_its_backbone(
    tmp_path, settings, slide_model, monkeypatch, plain_pictures
):
    path = write_pyramid(tmp_path / "s.tif", draw_slide(200, 180), 0.5)
    embed, slept = slide_model.embed, []

    def slow(patches):
        time.sleep(0.05)
        slept.append(0.05)
        return embed(patches)

    monkeypatch.setattr(slide_model, "embed", slow)
    result = map_slide(SlideTask(path, "s"), slide_model, replace(settings, batch_size=5))
    seconds = json.loads((settings.output_dir / "s" / "slide.json").read_text())["seconds"]
    assert seconds["backbone"] == result.backbone_seconds
    assert seconds["embedding"] == result.embedding_seconds
    assert sum(slept) <= seconds["backbone"] <= seconds["embedding"]


@pytest.mark.parametrize(
    ("backbone", "told"),
    [
        (6.1, "The backbone worked 61% of the 10 s of embedding; more --num_workers, or --stage_dir on a fast disk"),
        (9.5, "The backbone worked 95% of the 10 s of embedding; reading the slides does not hold it up."),
    ],
)
def test_advice_follows_the_share_of_all_slides(backbone, told):
    results = [
        SlideResult("a", "done", 5, 5, 9.0, "", 8.0, backbone - 1),
        SlideResult("b", "done", 5, 5, 9.0, "", 2.0, 1.0),
    ]
    assert told in summary([*results, SlideResult("c", "skipped"), SlideResult("d", "failed")])


def test_nothing_is_said_of_a_backbone_that_had_nothing_to_do():
    idle = SlideResult("a", "done", 5, 0, 9.0, "", 0.4, 0.0)  # its embeddings were there
    assert "backbone" not in summary([idle, SlideResult("b", "skipped")])
