"""Which outputs a slide has: what is asked for, what an earlier run left, and nothing that is of neither."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import shapely
from matplotlib.figure import Figure
from tool_readers import clam_bag, trident_batch

import segment_slide
from spider_tools.cohorts.many import segment_slides
from spider_tools.retrieval.sources import find_results
from spider_tools.scripts import run_script
from spider_tools.slide_files.slide_error import SlideError
from spider_tools.slide_sources.task import SlideTask
from spider_tools.slides import one, tool_outputs
from spider_tools.slides import settings as settings_module
from spider_tools.slides.one import map_slide
from spider_tools.slides.settings import OUTPUTS, SlideSettings
from spider_tools.slides.tool_outputs import bytes_for

anndata = pytest.importorskip("anndata")
pytest.importorskip("h5py")

ALWAYS = {"embeddings.safetensors", "overview.png", "heatmaps.png", "tissue.png", "composition.csv", "composition.json"}
ALWAYS |= {"report.html", "slide.json", ".lock"}
SHARED = {"h5_files/s.h5", "patches/s.h5"}


@pytest.fixture(autouse=True)
def _quick_pictures(monkeypatch):
    """They take most of the time, and nothing here looks at them."""
    for name in ("draw_overview", "draw_heatmaps", "draw_tissue"):
        monkeypatch.setattr(one.pictures, name, lambda *_: Figure(figsize=(1, 1)))


@pytest.fixture
def run(settings, slide_model, slide_file):
    """`run(*outputs, **settings)`: status and embedded patches of a run on one slide."""

    def map_it(*outputs, **changes):
        asked = {"outputs": outputs} if outputs else {}
        result = map_slide(SlideTask(slide_file, "s"), slide_model, replace(settings, **asked, **changes))
        return result.status, result.embedded

    return map_it


@pytest.fixture
def output_dir(settings):
    return settings.output_dir


def files_in(output_dir):
    """What there is beside what there always is; a folder of zarr by its name."""
    own = {path.name for path in (output_dir / "s").iterdir()}
    assert own >= ALWAYS
    shared = {str(path.relative_to(output_dir)) for path in output_dir.glob("*/s.h5")}
    return (own - ALWAYS) | shared


def marker_of(output_dir):
    return json.loads((output_dir / "s" / "slide.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_asking_for_more_embeds_nothing_and_takes_nothing_away(run, output_dir):
    assert run()[0] == "done"
    assert "outputs" not in marker_of(output_dir)["request"], "so that what earlier versions wrote stays valid"
    assert files_in(output_dir) == {"prediction.geojson", "predictions.parquet"}
    before = (output_dir / "s" / "predictions.parquet").read_bytes()

    assert run("h5", "zarr") == ("done", 0)
    assert files_in(output_dir) == {"prediction.geojson", "predictions.parquet", "predictions.zarr"} | SHARED
    assert marker_of(output_dir)["request"]["outputs"] == ["geojson", "parquet", "h5", "zarr"]
    assert (output_dir / "s" / "predictions.parquet").read_bytes() == before
    for outputs in [(), ("h5",), ("zarr", "geojson"), ("parquet", "h5", "zarr")]:
        assert run(*outputs) == ("skipped", 0)

    table = pq.read_table(output_dir / "s" / "predictions.parquet")
    read = anndata.read_zarr(output_dir / "s" / "predictions.zarr")
    assert read.obs["class"].tolist() == table["class"].to_pylist()
    features, _ = clam_bag(output_dir, "s")
    assert (read.X == features.numpy()).all()
    assert trident_batch(output_dir / "h5_files" / "s.h5")["attributes"]["name"] == "s"
    areas = json.loads((output_dir / "s" / "prediction.geojson").read_text())["features"]
    assert sum(shapely.geometry.shape(area["geometry"]).area for area in areas) == len(table) * 28**2


@pytest.mark.slow
def test_what_is_of_another_request_goes_with_it(run, output_dir):
    run("h5", "h5ad", "zarr")
    assert files_in(output_dir) == {"predictions.h5ad", "predictions.zarr"} | SHARED
    assert run("geojson", stride=14)[0] == "done"
    assert files_in(output_dir) == {"prediction.geojson"}
    assert set(marker_of(output_dir)["outputs"]) == {"prediction.geojson", *ALWAYS} - {"slide.json", ".lock"}


@pytest.mark.slow
def test_a_file_that_was_removed_by_hand_comes_back_only_if_it_is_asked_for(run, output_dir):
    run("parquet", "h5")
    (output_dir / "h5_files" / "s.h5").unlink()
    assert run("parquet") == ("done", 0)
    assert files_in(output_dir) == {"predictions.parquet"}
    assert run("h5") == ("done", 0)
    assert files_in(output_dir) == {"predictions.parquet"} | SHARED
    (output_dir / "h5_files" / "s.h5").write_bytes(b"cut")  # as by a disk that failed; slide.json says whose it is
    assert run("h5") == ("done", 0)
    assert clam_bag(output_dir, "s")[0].shape[1] == 32


@pytest.mark.slow
def test_a_link_in_the_place_of_the_slides_folder_leads_no_shared_file_away(run, output_dir, tmp_path):
    (tmp_path / "disk" / "s").mkdir(parents=True)
    output_dir.mkdir()
    (output_dir / "s").symlink_to(tmp_path / "disk" / "s")
    run("h5")
    assert files_in(output_dir) == SHARED
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["s"]
    assert run("h5") == ("skipped", 0)


@pytest.mark.slow
def test_a_disk_that_fills_up_leaves_the_earlier_result_whole(run, output_dir, monkeypatch):
    run("h5")
    before = {path: path.read_bytes() for path in output_dir.rglob("*") if path.is_file()}

    def full(path, features):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tool_outputs, "write_h5ad", full)
    with pytest.raises(OSError, match="No space left"):
        run("h5ad")
    assert {path: path.read_bytes() for path in output_dir.rglob("*") if path.is_file()} == before
    assert run("h5") == ("skipped", 0)


@pytest.mark.slow
def test_a_run_that_is_killed_between_two_files_is_written_again_and_embeds_nothing(run, output_dir, monkeypatch):
    run("geojson", "h5")
    replace_file = os.replace

    def killed_after_one_shared_file(source, target):
        if Path(target).parent.name == "patches":
            raise KeyboardInterrupt
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", killed_after_one_shared_file)
    with pytest.raises(KeyboardInterrupt):
        run("h5", "h5ad", stride=14)
    monkeypatch.setattr(os, "replace", replace_file)
    assert not (output_dir / "s" / "slide.json").exists()
    assert run("h5", stride=14) == ("done", 0)
    assert files_in(output_dir) == SHARED
    assert len(clam_bag(output_dir, "s")[0]) == marker_of(output_dir)["facts"]["Predictions"]


@pytest.mark.slow
def test_copies_of_the_embeddings_count_as_needed_space(run, output_dir, monkeypatch):
    asked = []
    monkeypatch.setattr(one.outputs, "check_space", lambda *values: asked.append(values))
    run("parquet", "h5", "h5ad")
    assert asked[0][3] == 2 * 4 * 32 * pq.read_metadata(output_dir / "s" / "predictions.parquet").num_rows > 2000
    assert bytes_for(("geojson", "parquet"), 10, 32) == 0
    assert bytes_for(OUTPUTS, 10, 32) == 3 * 10 * 32 * 4


@pytest.mark.parametrize("name", ["h5_files", "patches", "PATCHES"])
def test_no_slide_has_the_name_of_a_folder_of_all_slides(settings, slide_model, slide_file, name):
    with pytest.raises(SlideError, match=rf"A slide cannot be called '{name}' with --outputs h5.* column `name`"):
        map_slide(SlideTask(slide_file, name), slide_model, replace(settings, outputs=("h5",)))
    assert not settings.output_dir.exists()


def test_the_results_of_a_slide_are_not_mixed_with_files_of_all_slides(run, output_dir):
    (output_dir / "patches").mkdir(parents=True)
    (output_dir / "patches" / "slide.json").write_text("{}")
    with pytest.raises(SlideError, match=r"R/patches holds the results of a slide of that name"):
        run("h5")


def test_a_file_of_another_program_is_not_written_over(run, output_dir):
    (output_dir / "h5_files").mkdir(parents=True)
    (output_dir / "h5_files" / "s.h5").write_bytes(b"features that took a week")
    with pytest.raises(SlideError, match=r"h5_files/s\.h5 is not of segment_slide\.py, and --outputs h5 would"):
        run("h5")
    assert (output_dir / "h5_files" / "s.h5").read_bytes() == b"features that took a week"


@pytest.mark.slow
def test_nor_is_it_removed(run, output_dir):
    (output_dir / "h5_files").mkdir(parents=True)
    (output_dir / "h5_files" / "s.h5").write_bytes(b"features that took a week")
    run()
    run(stride=14)
    assert files_in(output_dir) == {"prediction.geojson", "predictions.parquet", "h5_files/s.h5"}


@pytest.mark.parametrize(
    ("output", "package"), [("h5", "h5py"), ("h5ad", "anndata"), ("zarr", "anndata"), ("zarr", "zarr")]
)
def test_an_absent_package_is_named_before_the_work_and_only_if_it_is_needed(monkeypatch, output, package):
    monkeypatch.setattr(settings_module, "find_spec", lambda name: None if name == package else object())
    with pytest.raises(ValueError, match=rf"--outputs {output} needs the package {package}.*pip install .*\[outputs\]"):
        SlideSettings("m", "R", outputs=("geojson", output))
    assert SlideSettings("m", "R").outputs == ("geojson", "parquet")


@pytest.mark.parametrize(
    ("words", "outputs"),
    [
        ([], ("geojson", "parquet")),
        (["--outputs", "h5"], ("h5",)),
        (["--outputs", "zarr", "geojson", "zarr"], ("geojson", "zarr")),
        (["--outputs", "h5ad,h5", "parquet"], ("parquet", "h5", "h5ad")),
        (["--outputs=geojson,parquet,h5,h5ad,zarr"], OUTPUTS),
    ],
)
def test_the_flag_takes_words_and_lists(words, outputs):
    values = segment_slide.parse_args(["--model", "m", "--output_dir", "R", "--slide", "s", *words])
    assert segment_slide.take(SlideSettings, values).outputs == outputs


@pytest.mark.parametrize("words", [["pdf"], ["h5", "H5"], ["anndata"], [","], [""], ["h5;zarr"], ["../h5"]])
def test_other_words_are_refused_with_exit_code_2(words, capsys, tmp_path):
    flags = ["--model", "m", "--output_dir", str(tmp_path / "R"), "--slide", "s", "--outputs", *words]
    with pytest.raises(SystemExit) as raised:
        run_script(lambda argv: segment_slide.main(segment_slide.parse_args(argv)), flags)
    assert raised.value.code == 2
    assert "--outputs must be one or more of geojson, parquet, h5, h5ad, zarr, got" in capsys.readouterr().err
    assert not (tmp_path / "R").exists()


def test_a_class_that_zarr_cannot_name_is_refused_before_the_work(settings, slide_model, slide_file, monkeypatch):
    monkeypatch.setattr(slide_model.config, "class_names", ["a" * 300, *slide_model.config.class_names[1:]])
    with pytest.raises(ValueError, match=r"--outputs zarr makes a folder of the name of every class.* Take h5ad\."):
        map_slide(SlideTask(slide_file, "s"), slide_model, replace(settings, outputs=("zarr",)))


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_accelerator")
def test_retrieval_passes_over_the_shared_folders_and_says_what_it_lacks(slide_file, settings, caplog):
    segment_slides([slide_file], replace(settings, outputs=("h5",)))
    caplog.clear()
    with pytest.raises(ValueError, match=r"R/slide was made without predictions\.parquet\..* with --outputs parquet\."):
        find_results([str(settings.output_dir)])
    assert not caplog.messages
