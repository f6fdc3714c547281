"""Runs: slides are done, skipped, resumed, and fail one by one."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from filelock import FileLock
from PIL import Image
from safetensors import safe_open
from slide_files import GLASS, draw_slide, write_pyramid

from spider_tools import __version__
from spider_tools.cohorts.many import segment_slide, segment_slides
from spider_tools.slide_files.reader import SlideError
from spider_tools.slide_sources.finding import SlideTask
from spider_tools.slides import embedding, one
from spider_tools.slides.one import map_slide
from spider_tools.slides.results import SlideResult, results_table
from spider_tools.slides.settings import SlideSettings

pytestmark = [pytest.mark.usefixtures("fresh_accelerator"), pytest.mark.slow]


FILES = {
    "prediction.geojson",
    "predictions.parquet",
    "embeddings.safetensors",
    "overview.png",
    "heatmaps.png",
    "tissue.png",
    "composition.csv",
    "composition.json",
    "report.html",
    "slide.json",
}


@pytest.fixture(scope="module")
def slide_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    write_pyramid(folder / "one.tif", draw_slide(300, 230, seed=1), 0.5)
    write_pyramid(folder / "two.svs", draw_slide(310, 220, seed=2), 0.499, description="aperio")
    return folder


def statuses(results):
    return [(result.name, result.status) for result in results]


def test_every_slide_gets_a_folder_with_everything(slide_folder, settings):
    results = segment_slides([str(slide_folder)], settings)
    assert statuses(results) == [("one", "done"), ("two", "done")]
    for name in ("one", "two"):
        files = {path.name for path in (settings.output_dir / name).iterdir()}
        assert files - {".lock"} == FILES
        marker = json.loads((settings.output_dir / name / "slide.json").read_text())
        assert set(marker["outputs"]) == FILES - {"slide.json"}
        assert marker["facts"]["Patch"] == "28 px, with 5 x 5 patches of context"
    files = {path.name for path in settings.output_dir.iterdir()}
    assert files == {"one", "two", "cohort.csv", "cohort.html", ".cohort"}


def test_what_is_done_is_skipped_until_something_changes(slide_folder, settings, make_model, processor, tmp_path):
    segment_slides([str(slide_folder / "one.tif")], settings)
    again = segment_slides([str(slide_folder)], settings)
    assert statuses(again) == [("one", "skipped"), ("two", "done")]
    finer = segment_slides([str(slide_folder / "one.tif")], replace(settings, stride=14))
    assert statuses(finer) == [("one", "done")]
    model = make_model()
    with torch.no_grad():
        model.classifier.bias += 1  # another head on the same backbone: nothing is embedded
    model.save_pretrained(tmp_path / "other")
    processor.save_pretrained(tmp_path / "other")
    other = segment_slides([str(slide_folder / "two.svs")], replace(settings, model=str(tmp_path / "other")))
    assert [(r.status, r.embedded) for r in other] == [("done", 0)]


def test_a_broken_slide_does_not_stop_the_others(slide_folder, settings, tmp_path):
    whole = (slide_folder / "one.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "list.txt").write_text(f"cut.tif\nabsent.svs\n{slide_folder / 'one.tif'}\n")
    results = segment_slides([str(tmp_path / "list.txt")], settings)
    assert statuses(results) == [("cut", "failed"), ("absent", "failed"), ("one", "done")]
    assert "truncated" in results[0].message or "damaged" in results[0].message
    assert "There is no file" in results[1].message
    assert not (settings.output_dir / "cut").exists()


def test_unforeseen_errors_fail_one_slide_only(slide_folder, settings, monkeypatch, caplog):
    draw = one.pictures.draw_overview

    def fail_for_one(thumbnail, predictions, title):
        if title == "one":
            raise ZeroDivisionError("unforeseen")
        return draw(thumbnail, predictions, title)

    monkeypatch.setattr(one.pictures, "draw_overview", fail_for_one)
    results = segment_slides([str(slide_folder)], settings)
    assert statuses(results) == [("one", "failed"), ("two", "done")]
    assert results[0].message == "ZeroDivisionError: unforeseen"
    assert "Traceback" in caplog.text
    assert not (settings.output_dir / "one" / "slide.json").exists()
    assert not (settings.output_dir / "one" / "prediction.geojson").exists()


def test_results_do_not_depend_on_an_interruption(slide_folder, settings, slide_model, monkeypatch, tmp_path):
    task = SlideTask(slide_folder / "one.tif", "one")
    settings = replace(settings, batch_size=10, save_every=0.0)
    whole = map_slide(task, slide_model, replace(settings, output_dir=tmp_path / "whole"))

    embed, calls = slide_model.embed, []

    def killed_in_the_fourth_batch(patches):
        calls.append(len(patches))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return embed(patches)

    monkeypatch.setattr(slide_model, "embed", killed_in_the_fourth_batch)
    with pytest.raises(KeyboardInterrupt):
        map_slide(task, slide_model, settings)
    assert not (settings.output_dir / "one" / "slide.json").exists()
    monkeypatch.setattr(slide_model, "embed", embed)
    resumed = map_slide(task, slide_model, settings)
    assert resumed.embedded == whole.embedded - 30
    tables = [
        pq.read_table(folder / "one" / "predictions.parquet") for folder in (tmp_path / "whole", settings.output_dir)
    ]
    for column in tables[0].drop_columns(["is_familiar"]).column_names[5:]:  # null of a model that does not know
        np.testing.assert_allclose(*(table.column(column).to_numpy() for table in tables), atol=1e-6)


def test_a_slide_that_another_run_writes_is_left_alone(slide_folder, settings, slide_model):
    (settings.output_dir / "one").mkdir(parents=True)
    with FileLock(settings.output_dir / "one" / ".lock"), pytest.raises(OSError, match="written by another run"):
        map_slide(SlideTask(slide_folder / "one.tif", "one"), slide_model, settings)


def test_no_tissue_is_said_and_the_preview_shows_it(settings, slide_model, tmp_path):
    pixels = np.empty((200, 300, 3), dtype=np.uint8)
    pixels[:] = GLASS
    Image.fromarray(pixels).save(tmp_path / "glass.png")
    with pytest.raises(SlideError, match="No tissue was found"):
        map_slide(SlideTask(tmp_path / "glass.png", "glass", mpp=0.5), slide_model, settings)
    assert {path.name for path in (settings.output_dir / "glass").iterdir()} <= {"tissue.png", ".lock"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mpp": 0.0}, "0 x 0 um/px is absurd"),
        ({"mpp": 1.0}, "finer by more than the tolerance"),
        ({"mpp": 0.02}, "smaller than one patch"),
        ({"mask": "absent.png"}, "neither a file nor a folder"),
    ],
)
def test_slides_that_do_not_fit_are_refused_before_anything_is_written(
    slide_folder, settings, slide_model, changes, message
):
    if "mask" in changes:
        changes = {"mask": slide_folder / changes["mask"]}
    with pytest.raises(SlideError, match=message):
        map_slide(SlideTask(slide_folder / "one.tif", "one"), slide_model, replace(settings, **changes))
    assert not settings.output_dir.exists()


def test_an_output_folder_that_cannot_be_written_is_refused_before_the_model_is_loaded(slide_folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        segment_slides([str(slide_folder)], SlideSettings("no-such-model", tmp_path / "file" / "R"))


def test_a_mask_and_um_per_px_of_a_manifest_are_those_of_one_slide(settings, tmp_path, slide_folder):
    Image.fromarray(draw_slide(300, 230, seed=1)).save(tmp_path / "plain.png")
    drawn = np.zeros((230, 300), dtype=np.uint8)
    drawn[28:84, 56:140] = 255
    Image.fromarray(drawn).save(tmp_path / "drawn.png")
    (tmp_path / "m.csv").write_text(
        f"slide,name,mpp,mask\nplain.png,first,0.5,drawn.png\n{slide_folder}/two.svs,second,,\n"
    )
    results = segment_slides([str(tmp_path / "m.csv")], settings)
    assert statuses(results) == [("first", "done"), ("second", "done")]
    assert results[0].predicted == 6
    table = pq.read_table(settings.output_dir / "first" / "predictions.parquet")
    assert sorted(zip(table["row"].to_pylist(), table["column"].to_pylist())) == [
        (r, c) for r in (1, 2) for c in (2, 3, 4)
    ]


def test_the_table_says_what_became_of_every_slide():
    table = results_table(
        [
            SlideResult("a", "done", 1200, 1500, 3.21),
            SlideResult("longer name", "failed", message="it\nbroke " + "x" * 300),
        ]
    )
    lines = table.splitlines()
    assert lines[1].split() == ["a", "done", "1,200", "1,500", "3.2"]
    assert lines[2].startswith("longer name  failed")
    assert "it broke xxx" in lines[2]
    assert len(lines[2]) < 260
    assert lines[3] == "1 done, 0 skipped, 1 failed"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stride": 0}, "--stride must be at least 1, got 0"),
        ({"batch_size": 0}, "--batch_size must be at least 1"),
        ({"num_workers": -1}, "--num_workers must be at least 0"),
        ({"min_tissue": 0.0}, "--min_tissue must be above 0 and at most 1, got 0.0"),
        ({"min_tissue": 1.1}, "--min_tissue"),
        ({"mpp_tolerance": -0.1}, "--mpp_tolerance"),
        ({"save_every": float("nan")}, "--save_every"),
    ],
)
def test_settings_out_of_range_are_refused(settings, changes, message):
    with pytest.raises(ValueError, match=message):
        replace(settings, **changes)


def test_a_stride_must_divide_the_patch(slide_folder, settings):
    with pytest.raises(ValueError, match=r"--stride must be one of \[28, 14, 7\] for patches of 28 px, got 112"):
        segment_slides([str(slide_folder)], replace(settings, stride=112))
    assert not list(settings.output_dir.iterdir())


def test_memory_is_bounded_by_saving_as_it_goes(slide_folder, settings, slide_model, monkeypatch):
    monkeypatch.setattr(embedding, "_MOST_UNSAVED", 20)
    added = []
    add = one.SavedEmbeddings.add
    monkeypatch.setattr(one.SavedEmbeddings, "add", lambda self, c, e: (added.append(len(c)), add(self, c, e))[1])
    settings = replace(settings, batch_size=8)
    result = map_slide(SlideTask(slide_folder / "one.tif", "one"), slide_model, settings)
    assert max(added) <= 24
    assert sum(added) == result.embedded


def test_one_slide_by_its_path_gets_what_a_run_gives_it(slide_folder, settings):
    result = segment_slide(slide_folder / "one.tif", settings)
    assert (result.name, result.status) == ("one", "done")
    assert FILES <= {path.name for path in (settings.output_dir / "one").iterdir()}
    marker = json.loads((settings.output_dir / "one" / "slide.json").read_text())
    assert marker["spider_tools"] == __version__
    again = segment_slides([slide_folder / "one.tif"], settings)
    assert statuses(again) == [("one", "skipped")]


def test_one_slide_means_one_and_its_error_is_raised(slide_folder, settings, tmp_path):
    with pytest.raises(ValueError, match=r"names 2 slides: expected one"):
        segment_slide(slide_folder, settings)
    with pytest.raises(SlideError, match=r"There is no file .*none\.svs"):
        segment_slide(tmp_path / "none.svs", settings)


@pytest.mark.parametrize(("mpp", "resampled"), [(0.5, False), (0.31, True)])
def test_embeddings_of_resampled_px_say_how_these_were_made(slide_model, settings, tmp_path, mpp, resampled):
    path = write_pyramid(tmp_path / "s.tif", draw_slide(300, 230, seed=1), mpp)
    map_slide(SlideTask(path, "s"), slide_model, settings)
    with safe_open(settings.output_dir / "s" / "embeddings.safetensors", "pt") as file:
        source = json.loads(file.metadata()["content"])["source"]
    assert ("resampling" in source) == resampled
