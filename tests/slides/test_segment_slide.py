"""The script: flags, exit codes, a killed run, several processes, and the real slide."""

import json
import os
import signal
import subprocess
import sys
import time

import launched
import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
import warm_python
from safetensors import safe_open
from slide_files import draw_slide, write_pyramid

import segment_slide
from spider_tools import remote_code

pytestmark = [pytest.mark.usefixtures("fresh_accelerator"), pytest.mark.slow]
ROOT = remote_code.REPOSITORY_ROOT


def environment():
    """That of now: libraries that other tests import change it."""
    return os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def command(model, slides, output_dir, **flags):
    words = [sys.executable, "segment_slide.py", "--slide", *map(str, slides)]
    flags = {"model": model, "output_dir": output_dir, "num_workers": 0, **flags}
    return words + [f"--{name}={value}" for name, value in flags.items()]


def table_of(folder):
    return pq.read_table(folder / "predictions.parquet")


def test_flags_are_the_settings():
    values = segment_slide.parse_args(
        [
            "--model",
            "m",
            "--slide",
            "a.svs",
            "b.svs",
            "--output_dir",
            "R",
            "--stride",
            "112",
            "--tiles",
            "--mpp",
            "0.25",
        ]
    )
    assert values["slide"] == ["a.svs", "b.svs"]
    settings = segment_slide.take(segment_slide.SlideSettings, values)
    assert (settings.stride, settings.tiles, settings.mpp, settings.dtype) == (112, True, 0.25, "float32")


@pytest.mark.parametrize("missing", ["--model", "--slide", "--output_dir"])
def test_flags_without_a_default_must_be_given(missing, capsys):
    flags = {"--model": "m", "--slide": "s", "--output_dir": "o"}
    with pytest.raises(SystemExit):
        segment_slide.parse_args([word for flag in flags if flag != missing for word in (flag, flags[flag])])
    assert missing in capsys.readouterr().err


def test_the_exit_code_says_whether_a_slide_failed(tmp_path, model_folder, capsys):
    write_pyramid(tmp_path / "good.tif", draw_slide(200, 180), 0.5)
    (tmp_path / "bad.svs").write_bytes(b"no slide")
    flags = ["--model", str(model_folder), "--output_dir", str(tmp_path / "R"), "--num_workers", "0", "--slide"]
    run = [*flags, str(tmp_path / "good.tif"), str(tmp_path / "bad.svs")]
    assert segment_slide.main(segment_slide.parse_args(run)) == 1
    assert "1 done, 0 skipped, 1 failed" in capsys.readouterr().out
    assert segment_slide.main(segment_slide.parse_args(run[:-1])) == 0
    assert "0 done, 1 skipped, 0 failed" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_where_it_was(tmp_path, model_folder):
    slide = write_pyramid(tmp_path / "s.tif", draw_slide(900, 700, seed=4), 0.5)
    flags = {"batch_size": 1, "save_every": 0}
    parts = tmp_path / "killed" / "s" / "embeddings.unfinished"
    run = warm_python.start(
        command(model_folder, [slide], tmp_path / "killed", **flags),
        cwd=ROOT,
        env=environment(),
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while len(list(parts.glob("part-*"))) < 50:
        assert run.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert {path.name for path in parts.parent.iterdir()} == {".lock", "embeddings.unfinished", "tissue.png"}
    saved = len(list(parts.glob("part-*")))

    assert segment_slide.main(segment_slide.parse_args(command(model_folder, [slide], tmp_path / "killed")[2:])) == 0
    resumed = json.loads((tmp_path / "killed" / "s" / "slide.json").read_text())
    assert resumed["embedded_now"] == resumed["facts"]["Patches embedded, context included"] - saved
    assert not parts.exists()
    assert segment_slide.main(segment_slide.parse_args(command(model_folder, [slide], tmp_path / "whole")[2:])) == 0
    one, two = (table_of(tmp_path / name / "s") for name in ("killed", "whole"))
    assert one.column("class").equals(two.column("class"))
    assert one.column("is_familiar").null_count == len(one), "the tiny model does not know"
    for name in one.drop_columns(["is_familiar"]).column_names[5:]:
        np.testing.assert_allclose(one.column(name).to_numpy(), two.column(name).to_numpy(), atol=1e-5)


@pytest.mark.slow
def test_two_processes_share_the_slides(tmp_path, model_folder):
    names = [f"s{number}" for number in range(4)]
    (tmp_path / "slides").mkdir()
    for number, name in enumerate(names):
        write_pyramid(tmp_path / "slides" / f"{name}.tif", draw_slide(260, 200, seed=number), 0.5)
    (tmp_path / "slides" / "broken.svs").write_bytes(b"no slide")
    script = command(model_folder, [tmp_path / "slides"], tmp_path / "R")
    runs = launched.start(script, env=environment(), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    processes, deadline = 0, time.monotonic() + 300
    while any(run.poll() is None for run in runs) and time.monotonic() < deadline:
        processes = max(processes, len(list((tmp_path / "R").glob(".run-*/process-*"))))
        time.sleep(0.02)
    for run in runs:
        run.kill()
    output = "".join(run.communicate()[0] for run in runs)
    assert processes == 2
    assert sorted(run.returncode for run in runs) == [0, 1]
    assert "4 done, 0 skipped, 1 failed" in output
    assert output.count("s2") == 1, "only one process prints the table"
    files = {path.name for path in (tmp_path / "R").iterdir()}
    assert files == {*names, "cohort.csv", "cohort.html", ".cohort"}
    assert all((tmp_path / "R" / name / "slide.json").exists() for name in names)


@pytest.fixture
def real_slide(shared_folder):
    return shared_folder("slides") / "CMU-1-Small-Region.svs"


def test_a_real_slide_gets_a_map_on_the_right_grid(tmp_path, real_slide, make_model, make_processor):
    """With patches of 224 px; the slide has 2220 x 2967 px of 0.499 um."""
    model = make_model(
        patch_size=224,
        backbone_config={
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 224,
            "patch_size": 56,
        },
    )
    model.save_pretrained(tmp_path / "m")
    make_processor(patch_size=224).save_pretrained(tmp_path / "m")
    flags = ["--model", str(tmp_path / "m"), "--slide", str(real_slide), "--output_dir", str(tmp_path / "R")]
    assert segment_slide.main(segment_slide.parse_args([*flags, "--num_workers", "1", "--tiles"])) == 0
    folder = tmp_path / "R" / "CMU-1-Small-Region"
    table = table_of(folder)
    assert 50 < table.num_rows < 13 * 9
    assert (np.asarray(table["x_level0"]) == 224 * np.asarray(table["column"])).all()
    composition = json.loads((folder / "composition.json").read_text())
    assert composition["cells_mm2"] == pytest.approx(table.num_rows * (224 * 0.499e-3) ** 2)
    assert 0.6 < composition["tissue_mm2"] / composition["cells_mm2"] < 0.9
    features = json.loads((folder / "prediction.geojson").read_text())["features"]
    shapes = [shapely.geometry.shape(f["geometry"]) for f in features if f["properties"]["objectType"] == "annotation"]
    assert sum(shape.area for shape in shapes) == pytest.approx(table.num_rows * 224**2)
    assert len(features) - len(shapes) == table.num_rows
    with safe_open(folder / "embeddings.safetensors", framework="np") as file:
        assert file.get_tensor("embeddings").shape[1] == 16
        assert (file.get_tensor("xy_level0") <= (2220 - 224, 2967 - 224)).all()
