"""The notebooks of examples/, run as they stand."""

import json
import os
import re
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import warm_python
from made_up_limits import random_state
from tiny_spider import PATCH_SIZE, ROOT

from spider_tools.demo import run as demo
from spider_tools.demo.synthetic import SlidePlan, SyntheticSettings

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def code_of(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_saved_without_results_and_compiles(notebook):
    content = json.loads(notebook.read_text(encoding="utf-8"))
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert content["nbformat"] == 4
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
    compile(code_of(notebook), notebook.name, "exec")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_says_first_how_it_runs_on_colab(notebook):
    first = json.loads(notebook.read_text(encoding="utf-8"))["cells"][0]
    lines = "".join(first["source"]).splitlines()
    assert first["cell_type"] == "markdown"
    start = lines.index("!git clone <this repository> spider")
    assert lines[start + 1] == "%cd spider"
    extras = re.fullmatch(r'!pip install -q -e "\.\[(.+)\]"', lines[start + 2])[1].split(",")
    project = (ROOT / "pyproject.toml").read_text()
    assert all(f"\n{extra} = [" in project for extra in extras)


@pytest.fixture(scope="module")
def knowing_model(make_model, processor, tmp_path_factory):
    """A folder of the tiny model with what it remembers of its limits, and the model."""
    folder = tmp_path_factory.mktemp("knowing") / "knowing-spider"
    model = make_model(familiarity_means=4, conformal_scores=19)
    random_state(model)
    slide = SlidePlan.draw(SyntheticSettings(lattice=8, patch_size=PATCH_SIZE, seed=1), 11).paint()
    places, side = range(0, 4 * PATCH_SIZE, PATCH_SIZE), 5 * PATCH_SIZE
    regions = [slide[top : top + side, left : left + side] for top in places for left in places]
    with torch.no_grad():
        doubts = model(**processor(images=regions, return_tensors="pt")).unfamiliarity
    model.config.unfamiliarity_threshold = doubts.median().item()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder, model


@pytest.fixture
def run_cells(monkeypatch, knowing_model, tmp_path):
    """`run_cells(name)`: what the cells of a notebook leave, and the sizes of their figures, with the tiny model."""
    monkeypatch.setenv("SPIDER_EXAMPLE_MODEL", str(knowing_model[0]))
    monkeypatch.setenv("SPIDER_EXAMPLE_FOLDER", str(tmp_path / "work"))
    monkeypatch.setenv("SPIDER_EXAMPLE_LATTICE", "8")
    shown = []

    def show():
        plt.gcf().canvas.draw()
        shown.append(np.asarray(plt.gcf().canvas.buffer_rgba()).std())

    monkeypatch.setattr(plt, "show", show)
    monkeypatch.setattr(demo, "run_demo", lambda *_: pytest.fail("a model was trained"))
    plt.switch_backend("agg")

    def run(name):
        cells = {"__name__": "__main__"}
        exec(code_of(ROOT / "examples" / f"{name}.ipynb"), cells)
        return cells, shown

    yield run
    plt.close("all")


def test_a_region_is_classified(run_cells, knowing_model, processor, capsys):
    cells, shown = run_cells("classify_a_region")
    printed = capsys.readouterr().out
    with torch.no_grad():
        outputs = knowing_model[1](**processor(images=cells["region"], return_tensors="pt"))
    assert cells["told"](cells["outputs"]) == {
        "name": outputs.predicted_class_names[0],
        "probability": pytest.approx(outputs.logits.softmax(-1).max().item(), abs=1e-3),
        "is_familiar": bool(outputs.is_familiar[0]),
        "unfamiliarity": pytest.approx(outputs.unfamiliarity[0].item(), rel=1e-2),
        "prediction_set": outputs.prediction_sets(0.1)[0],
    }
    assert len(shown) == 1
    assert shown[0] > 10, "a picture of something"
    assert len(set(map(str, cells["batch"].logits.tolist()))) == 6
    assert printed.count("drawn as") == 7
    assert "refused: The image is 84x84 px (height x width), expected at least 140x140 px." in printed
    assert "9 of 25 patches are there" in printed


def test_a_slide_is_mapped(run_cells, capsys):
    pytest.importorskip("openslide")
    cells, shown = run_cells("map_a_slide")
    printed = capsys.readouterr().out
    assert len(shown) == 2
    assert min(shown) > 10
    table, composition = cells["predictions"], cells["composition"].set_index("class")
    assert len(table) > 50
    for name, area in cells["areas"].items():
        assert composition.loc[name, "area_mm2"] == pytest.approx(area, rel=1e-3)
    assert f"{len(table)} tiles" in printed
    assert sorted(table["is_familiar"].unique()) == [False, True]
    unfamiliar = (table["tissue_share"] * cells["square"])[~table["is_familiar"]].sum()
    abstained = cells["pd"].read_csv(cells["folder"] / "composition.csv").set_index("class")
    assert abstained.loc["Unfamiliar", "area_mm2"] == pytest.approx(unfamiliar, rel=1e-3)
    assert (cells["folder"] / "report.html").is_file()


@pytest.mark.parametrize("name", ["classify_a_region", "map_a_slide"])
def test_without_a_model_the_demos_is_trained(name, monkeypatch, tmp_path):
    def run_demo(folder, settings):
        raise InterruptedError(f"training in {folder}")

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPIDER_EXAMPLE_MODEL", raising=False)
    monkeypatch.setattr(demo, "run_demo", run_demo)
    with pytest.raises(InterruptedError, match=r"^training in demo$"):
        exec(code_of(ROOT / "examples" / f"{name}.ipynb"), {"__name__": "__main__"})


@pytest.mark.slow
def test_the_loop_from_slides_to_a_model_and_back_closes(tmp_path):
    """Annotate, build, train, evaluate, map, suggest, check, build again: on drawn slides whose truth is known."""
    loop = tmp_path / "loop"
    environment = os.environ | {"SPIDER_EXAMPLE_FOLDER": str(loop), "PYTHONPATH": str(ROOT)}
    # Smaller than a reader has it, and every step is the same.
    smaller = {"SLIDES": 10, "LATTICE": 9, "EPOCHS": 10, "PATCH": 56}
    environment |= {f"SPIDER_EXAMPLE_{name}": str(value) for name, value in smaller.items()}
    lines = code_of(ROOT / "examples" / "your_own_slides.ipynb")
    # Processes of the build import this file anew, and must not run it.
    (tmp_path / "cells.py").write_text(f"if __name__ == '__main__':\n    exec({lines!r})\n")
    run = warm_python.run([sys.executable, "cells.py"], cwd=tmp_path, env=environment, timeout=900)
    assert run.returncode == 0, run.stderr[-3000:]
    figures = json.loads((loop / "figures.json").read_text())
    assert figures["agreement"] > 0.6, "of eight classes"
    assert 0 < figures["first"] <= 1
    assert 0 < figures["second"] <= 1
    records, before = (json.loads((loop / name / "metadata.json").read_text()) for name in ("dataset2", "dataset"))
    added = {record["image_name"] for record in records} - {record["image_name"] for record in before}
    assert len(added) > 5
    truth = {path.stem: json.loads(path.read_text()) for path in (loop / "truth").iterdir()}
    for record in records:
        row, column = (int(part) for part in record["image_name"].split(".")[0].rsplit("_", 2)[1:])
        assert record["class"] == truth[record["slide_id"]][row][column]
