"""What a slide leaves behind runs in no spreadsheet, moves no cursor, and says nothing of the author's folders."""

import csv
import io
import json
import shutil
from dataclasses import replace

import pytest
import torch
from slide_predictions import CLASSES, make_predictions

from spider_tools.cohorts.many import segment_slides
from spider_tools.plain_text import escaped, spreadsheet_cell
from spider_tools.slides.composition import composition_csv, make_composition
from spider_tools.slides.facts import model_name
from spider_tools.slides.results import SlideResult, results_table

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "\uff1d1", "=cmd|' /C calc'!A0"]
CONTROLS = {"a\x00b": r"a\x00b", "a\x1b[2Jb": r"a\x1b[2Jb", "a\x9bb": r"a\x9bb", "a\nb": r"a\nb", "a\rb": r"a\rb"} | {
    "a\tb": r"a\tb",
    "a\x7fb": r"a\x7fb",
    "a\u202eb": r"a\u202eb",
    "a\u2028b": r"a\u2028b",
    "a\udcffb": r"a\udcffb",
}
HARMLESS = ["Stroma", "Fat & <oil>", "a=b", "a-b", "1", "H\u00e4matom", "\u7d44\u7e54", "a\u00a0b", "'a", ""]


@pytest.mark.parametrize("name", FORMULAS)
def test_what_a_spreadsheet_would_run_stands_behind_an_apostrophe(name):
    cell = spreadsheet_cell(name)
    assert cell[0] == "'"
    assert cell == "'" + escaped(name)
    assert cell.isprintable()


@pytest.mark.parametrize("name", CONTROLS)
def test_control_characters_are_named(name):
    assert escaped(name) == spreadsheet_cell(name) == CONTROLS[name]


@pytest.mark.parametrize("name", HARMLESS)
def test_other_names_stay_as_they_are(name):
    assert escaped(name) == spreadsheet_cell(name) == name


def test_the_composition_as_csv_holds_no_formula_and_no_control_character():
    names = ("=1+1", "a\x1b[31mb", "@x", "Never")
    composition = make_composition(replace(make_predictions(CLASSES), class_names=names))
    text = composition_csv(composition)
    rows = list(csv.reader(io.StringIO(text)))
    assert {row[0] for row in rows[1:]} == {"'=1+1", r"a\x1b[31mb", "'@x", "Never"}
    assert all(line.isprintable() for line in text.splitlines())
    assert not any(cell.startswith(("=", "+", "-", "@", "\t")) for row in rows for cell in row)
    assert set(composition["classes"]) == set(names)


def test_the_table_of_a_run_holds_no_control_character():
    table = results_table([SlideResult("a\x1b[2J", "failed", message="no file b\x9b1m\udcff\n\tc")])
    assert all(line.isprintable() for line in table.split("\n"))
    assert r"a\x1b[2J  failed" in table
    assert r"no file b\x9b1m\udcff c" in table


@pytest.mark.parametrize("given", ["absolute", "relative", "with dots", "with a slash"])
def test_a_model_folder_is_called_by_its_last_part(tmp_path, monkeypatch, given):
    folder = tmp_path / "of the author" / "my-model"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    ways = {
        "absolute": str(folder),
        "relative": "of the author/my-model",
        "with dots": f"{folder}/../my-model/.",
        "with a slash": f"{folder}/",
    }
    assert model_name(ways[given]) == "my-model"


def test_a_model_of_the_hub_is_called_by_its_id():
    assert model_name("histai/SPIDER-colorectal-model") == "histai/SPIDER-colorectal-model"


@pytest.mark.usefixtures("fresh_accelerator")
def test_no_file_of_a_slide_holds_a_path_of_the_author(settings, slide_file, model_folder, tmp_path):
    folder = tmp_path / "secret place" / "my-model"
    shutil.copytree(model_folder, folder)
    segment_slides([slide_file], replace(settings, model=str(folder)))
    for path in (settings.output_dir / "slide").iterdir():
        content = path.read_bytes()
        assert b"secret place" not in content, path
        assert str(tmp_path).encode() not in content, path
    facts = json.loads((settings.output_dir / "slide" / "slide.json").read_text())["facts"]
    assert facts["Model"] == "my-model"


@pytest.mark.usefixtures("fresh_accelerator")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("part", ["weight", "bias"])
def test_a_head_that_gives_no_numbers_fails_the_slide_in_words(
    settings, slide_file, make_model, processor, tmp_path, value, part
):
    model = make_model()
    with torch.no_grad():
        getattr(model.classifier, part)[1] = value
    model.save_pretrained(tmp_path / "broken")
    processor.save_pretrained(tmp_path / "broken")
    (result,) = segment_slides([slide_file], replace(settings, model=str(tmp_path / "broken")))
    assert result.status == "failed"
    assert "The logits of" in result.message
    assert "are NaN or infinite" in result.message
    assert not (settings.output_dir / "slide" / "slide.json").exists()
