"""The notebooks of examples/, run as they stand."""

import json
import os
import sys

import pytest
import warm_python
from tiny_spider import ROOT

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
