"""Ctrl-C ends a script with one sentence that says what is kept, and all its processes without a word."""

import json
import sys
import time
from pathlib import Path

import pytest
from ctrl_c import start, stop, told, wait_until
from slide_files import draw_slide, write_pyramid
from tiny_spider import PATCH_SIZE

from spider_tools.demo.synthetic import SyntheticSettings, write_dataset

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]

# Ctrl-C comes as soon as a script has begun to read its flags: before the imports that take seconds.
SCRIPT = """
import argparse, os, runpy, signal, sys, time
def interrupted(*arguments):
    print("begun", flush=True)
    time.sleep(60)
argparse.ArgumentParser.parse_args = interrupted
{run}
"""
SENTENCES = {
    "train.py": "Embeddings and checkpoints saved so far are kept: --resume_from_checkpoint latest goes on",
    "evaluate.py": "Patch embeddings saved so far are kept; the same command goes on from them.",
    "segment_slide.py": "Slides that are done and patch embeddings saved so far are kept; the same command goes on",
    "spider_tools.publishing": "On the Hub there is all of the model or nothing; the same command goes on",
    "spider_tools.weights": "Files are written whole or not at all; the same command starts again.",
    "spider_tools.demo": "A data set that was drawn whole is kept",
}


def run_at_its_flags(name, *words, **environment):
    call = f"runpy.run_path({name!r}, run_name='__main__')"
    if not name.endswith(".py"):
        call = f"runpy.run_module({name!r}, run_name='__main__')"
    process = start([sys.executable, "-c", SCRIPT.format(run=call), *words], **environment)
    assert process.stdout.readline() == "begun\n"
    return stop(process)


@pytest.mark.parametrize("name", SENTENCES)
def test_every_script_says_what_is_kept(name):
    code, output, error = run_at_its_flags(name)
    assert (code, output) == (130, "")
    assert error.count("\n") == 2  # the line that was open, and the sentence
    assert f": stopped by Ctrl-C. {SENTENCES[name]}" in told(error)


def test_with_debug_the_traceback_is_shown():
    code, _, error = run_at_its_flags("evaluate.py", "--debug")
    assert code in (-2, 130)
    assert "Traceback" in error
    assert error.rstrip().endswith("KeyboardInterrupt")


def test_of_processes_that_were_launched_together_one_speaks():
    assert [run_at_its_flags("evaluate.py", RANK=rank)[2].count("stopped") for rank in "01"] == [1, 0]


@pytest.fixture(scope="module")
def tissue(tmp_path_factory):
    settings = SyntheticSettings(train_slides=3, test_slides=3, lattice=13, patch_size=PATCH_SIZE, seed=5)
    folder = tmp_path_factory.mktemp("data") / "tissue"
    write_dataset(folder, settings)
    return folder


@pytest.fixture
def model_of_tissue(tissue, tmp_path, make_model, processor):
    records = json.loads((tissue / "metadata.json").read_text())
    make_model(class_names=sorted({record["class"] for record in records})).save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_evaluation_stops_while_it_fills_its_store(tissue, model_of_tissue, tmp_path):
    """While its workers start or read, as the machine has it."""
    flags = {"model": model_of_tissue, "dataset": tissue, "cache_dir": tmp_path / "cache", "output_dir": tmp_path / "R"}
    flags |= {"num_workers": 2, "embedding_batch_size": 1, "split": "test"}
    command = [sys.executable, "evaluate.py", "--allow_subset", *(f"--{k}={v}" for k, v in flags.items())]
    process = start(command, warm=True)
    wait_until(lambda: list((tmp_path / "R").glob("embeddings/*/claims/*.lock")), process)
    time.sleep(0.3)
    code, output, error = stop(process)
    assert (code, output) == (130, "")
    assert told(error) == f"evaluate.py: stopped by Ctrl-C. {SENTENCES['evaluate.py']}"
    for word in ("Traceback", "Exception ignored", "worker"):
        assert word not in error


def test_a_slide_stops_and_the_same_command_goes_on_from_what_is_saved(model_folder, tmp_path):
    slide = write_pyramid(tmp_path / "s.tif", draw_slide(500, 400, seed=4), 0.5)
    flags = {"model": model_folder, "slide": slide, "output_dir": tmp_path / "R", "num_workers": 2}
    flags |= {"batch_size": 1, "save_every": 0}
    command = [sys.executable, "segment_slide.py", *(f"--{name}={value}" for name, value in flags.items())]
    process = start(command, warm=True)
    parts = tmp_path / "R" / "s" / "embeddings.unfinished"
    wait_until(lambda: len(list(parts.glob("part-*"))) > 20, process)
    code, output, error = stop(process)
    assert (code, output) == (130, "")
    assert SENTENCES["segment_slide.py"] in told(error)
    for word in ("Traceback", "Exception ignored", "worker"):
        assert word not in error
    saved = len(list(parts.glob("part-*")))

    again = start(command, warm=True)
    assert again.communicate(timeout=120)[0]
    assert again.returncode == 0
    done = json.loads((tmp_path / "R" / "s" / "slide.json").read_text())
    assert done["embedded_now"] == done["facts"]["Patches embedded, context included"] - saved


DRAW = """
import sys
import time
from pathlib import Path
from spider_tools.demo.synthetic import SyntheticSettings, write_dataset
from spider_tools.scripts import run_script
settings = SyntheticSettings(train_slides=40, test_slides=1, lattice=20, patch_size=56)
run_script(lambda argv: write_dataset(Path(argv[0]), settings, workers=2), kept="Nothing is.")
"""


def test_a_pool_of_processes_stops_without_a_word(tmp_path):
    process = start([sys.executable, "-c", DRAW, tmp_path / "drawn"])
    wait_until(lambda: len(list(Path(tmp_path, "drawn", "images").glob("*"))) > 100, process)
    code, output, error = stop(process)
    assert (code, output, error) == (130, "", "\n-c: stopped by Ctrl-C. Nothing is.\n")
    assert not (tmp_path / "drawn" / "metadata.json").exists()
