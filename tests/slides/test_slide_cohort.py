"""The table of all slides: figures of their own files, names that are never run, and a page that sorts itself."""

import base64
import csv
import io
import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image
from report_page import Page
from slide_files import draw_slide, write_pyramid

from spider_tools.cohorts import cohort_page
from spider_tools.cohorts.cohort import Cohort, require_own_table
from spider_tools.cohorts.cohort_page import keep_picture, make_page, picture_of
from spider_tools.cohorts.cohort_rows import CohortRow, class_order, cohort_csv, row_of_folder
from spider_tools.cohorts.many import segment_slides
from spider_tools.cohorts.records import Record, Records

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


def row(name, status="done", **fields):
    return CohortRow(name, status, "2025-01-31T12:00:00+00:00", **fields)


def made_up(folder, name="a", classes=None, **marker):
    """A folder of results as segment_slide.py leaves it, as far as the table reads it."""
    classes = {"Fat": 75.0, "Nerve": 25.0} if classes is None else classes
    (folder / name).mkdir(parents=True)
    content = {
        "spider_tools": "0.2.0",
        "request": {"class_names": ["Nerve", "Fat"], "stride": 28, "min_tissue": 0.1, "mpp": [0.25, 0.25]},
        "import": None,
        "facts": {"Model": "histai/x", "Backbone in": "float32", "Tissue": "drawn"},
        "seconds": {"tissue": 1.0, "embedding": 8.0, "classification": 0.5, "backbone": 6.0},
        "embedded_now": 5,
        **marker,
    }
    composition = {
        "tissue_mm2": 3.5,
        "cells_mm2": 4.0,
        "percent_left_out": 1.25,
        "percent_unfamiliar": None,
        "classes": {label: {"patches": 7, "percent_of_tissue": share} for label, share in classes.items()},
    }
    (folder / name / "slide.json").write_text(json.dumps(content))
    (folder / name / "composition.json").write_text(json.dumps(composition))
    return folder / name


def table(text):
    return list(csv.DictReader(io.StringIO(text)))


def cohort_of(folder):
    return Cohort(folder, Records(folder, "run"))


# --- The rows


def test_a_row_holds_the_figures_of_the_slides_own_files(tmp_path):
    (found,) = table(cohort_csv([row_of_folder(made_up(tmp_path), None)]))
    assert found.pop("finished").endswith("+00:00")
    assert found == {
        "slide": "a",
        "status": "done",
        "warnings": "",
        "message": "",
        "seconds": "9.5",
        "backbone_percent": "75",
        "patches": "14",
        "tissue_mm2": "3.5",
        "cells_mm2": "4",
        "percent_left_out": "1.25",
        "percent_unfamiliar": "",
        "percent: Nerve": "25",
        "percent: Fat": "75",
        "model": "histai/x",
        "dtype": "float32",
        "stride": "28",
        "min_tissue": "0.1",
        "abstain": "no",
        "um_per_px": "0.25",
        "tissue": "drawn",
        "spider_tools": "0.2.0",
        "source": "",
    }


def test_classes_are_those_of_all_slides(tmp_path):
    one = row_of_folder(made_up(tmp_path, "a"), None)
    two = row_of_folder(made_up(tmp_path, "b", {"Wart": 60.0, "Fat": 40.0, "Unfamiliar": 0.0}), None)
    assert class_order([one, two]) == ["Nerve", "Fat", "Wart", "Unfamiliar"]
    found = table(cohort_csv([one, two]))
    assert [[line[f"percent: {name}"] for name in ("Nerve", "Fat", "Wart", "Unfamiliar")] for line in found] == [
        ["25", "75", "", ""],
        ["", "40", "60", "0"],
    ]


def test_warnings_of_a_slide_are_told(tmp_path):
    facts = {"Model": "m", "Warning": "Little tissue.", "Damage": "1 patch is left out."}
    imported = {"verified": False, "sentence": "Nobody has verified the import."}
    folder = made_up(tmp_path, facts=facts, **{"import": imported})
    composition = json.loads((folder / "composition.json").read_text())
    (folder / "composition.json").write_text(json.dumps(composition | {"percent_unfamiliar": 20.0}))
    assert row_of_folder(folder, None).warnings == (
        "Nobody has verified the import.",
        "Little tissue.",
        "1 patch is left out.",
        "20% of the tissue is unfamiliar to the model.",
    )


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"seconds": 3}', '{"seconds": {"embedding": "x"}}', "\x00", None])
@pytest.mark.parametrize("file", ["slide.json", "composition.json"])
def test_a_folder_that_cannot_be_read_is_a_row_too(tmp_path, damage, file):
    made_up(tmp_path, "good")
    folder = made_up(tmp_path, "bad")
    if damage is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(damage)
    rows = {found.name: found for found in cohort_of(tmp_path).rows()}
    assert rows["good"].status == "done"
    if file == "slide.json" and damage is None:
        assert set(rows) == {"good"}, "it is not done"
    else:
        assert rows["bad"].status == "unreadable"
        assert rows["bad"].message
    assert "NaN" not in cohort_csv(list(rows.values()))


@pytest.mark.parametrize("name", ["=1+1", "@SUM(A1)", "-2", "+3", "\uff1d1", " =1"])
def test_nothing_in_the_table_is_a_formula(name):
    found = row(
        name, "failed", message=name, warnings=(name,), classes={name: 1.0}, settings={"model": name, "source": name}
    )
    (header, cells) = csv.reader(io.StringIO(cohort_csv([found])))
    for cell in (*cells[:4], cells[-9], cells[-1]):
        assert cell in ("failed", f"'{name}", f"'{name.strip()}")
    assert f"percent: {name}" in header


def test_an_error_is_one_cell_of_one_line():
    text = cohort_csv([row("a", "failed", message='it "broke",\nsays\x1b[31m x')])
    assert len(text.splitlines()) == 2
    assert table(text)[0]["message"] == 'it "broke", says\\x1b[31m x'


# --- From runs


def test_every_slide_of_every_run_is_in_it(tmp_path, settings, plain_pictures):
    for number, name in enumerate("bca"):
        write_pyramid(tmp_path / f"{name}.tif", draw_slide(220, 180, seed=number), 0.5)
    whole = (tmp_path / "b.tif").read_bytes()
    (tmp_path / "b.tif").write_bytes(whole[:3000])
    segment_slides([tmp_path / "b.tif", tmp_path / "c.tif"], settings)
    segment_slides([tmp_path / "a.tif"], settings)
    found = table((settings.output_dir / "cohort.csv").read_text())
    assert [(line["slide"], line["status"]) for line in found] == [("a", "done"), ("b", "failed"), ("c", "done")]
    assert "truncated" in found[1]["message"]
    assert found[1]["source"] == str(tmp_path / "b.tif")
    assert found[1]["patches"] == ""
    for line in (found[0], found[2]):
        composition = json.loads((settings.output_dir / line["slide"] / "composition.json").read_text())
        assert float(line["tissue_mm2"]) == pytest.approx(composition["tissue_mm2"], rel=1e-5)
        for name, figures in composition["classes"].items():
            assert float(line[f"percent: {name}"]) == pytest.approx(figures["percent_of_tissue"], rel=1e-5)
        assert 0 < float(line["backbone_percent"]) <= 100
    (tmp_path / "b.tif").write_bytes(whole)
    segment_slides([tmp_path / "b.tif"], settings)
    found = table((settings.output_dir / "cohort.csv").read_text())
    assert [(line["slide"], line["status"]) for line in found] == [("a", "done"), ("b", "done"), ("c", "done")]
    shutil.rmtree(settings.output_dir / "a")
    shutil.rmtree(settings.output_dir / ".cohort")  # what is done is known from the folders alone
    segment_slides([tmp_path / "b.tif"], settings)
    found = table((settings.output_dir / "cohort.csv").read_text())
    assert [(line["slide"], line["status"]) for line in found] == [("b", "done"), ("c", "done")]


def test_a_link_that_is_mended_fails_no_longer(tmp_path, settings, plain_pictures):
    write_pyramid(tmp_path / "a.tif", draw_slide(220, 180), 0.5)
    folder = tmp_path / "slides"
    folder.mkdir()
    (folder / "s.tif").symlink_to("nowhere")
    write_pyramid(folder / "good.tif", draw_slide(220, 180, seed=1), 0.5)
    segment_slides([folder], settings)
    (folder / "s.tif").unlink()
    (folder / "s.tif").symlink_to(tmp_path / "a.tif")
    segment_slides([folder], settings)
    found = table((settings.output_dir / "cohort.csv").read_text())
    assert [(line["slide"], line["status"]) for line in found] == [("good", "done"), ("s", "done")]


@pytest.mark.parametrize("name", ["cohort.csv", "cohort.html"])
def test_files_of_others_are_never_replaced(tmp_path, name, settings):
    settings.output_dir.mkdir()
    write_pyramid(tmp_path / "a.tif", draw_slide(220, 180), 0.5)
    (settings.output_dir / name).write_text("slide,name\n../a.tif,a\n")
    with pytest.raises(ValueError, match=f"{name} is to hold the table of all slides, and holds something else"):
        segment_slides([tmp_path / "a.tif"], settings)
    with pytest.raises(ValueError, match="is the table that this run writes: copy it"):
        segment_slides([settings.output_dir / name], settings)
    (settings.output_dir / name).unlink()
    (settings.output_dir / name).mkdir()
    with pytest.raises(ValueError, match="holds something else"):
        require_own_table(settings.output_dir)


def test_a_table_that_cannot_be_written_takes_no_slide_with_it(tmp_path, caplog):
    made_up(tmp_path)
    cohort = cohort_of(tmp_path)
    cohort.write()
    (tmp_path / "cohort.csv").unlink()
    (tmp_path / "cohort.csv").mkdir()
    cohort.write()
    assert "cohort.csv cannot be written: " in caplog.text


def test_tables_are_written_as_slides_end_but_not_all_the_time(tmp_path, monkeypatch):
    records, cohort = Records(tmp_path, "run"), cohort_of(tmp_path)
    from spider_tools.slide_sources.task import SlideTask

    made_up(tmp_path, "a")
    cohort.slide_ended(SlideTask(tmp_path / "a.svs", "a"))
    assert len(table((tmp_path / "cohort.csv").read_text())) == 1
    made_up(tmp_path, "b")
    cohort.slide_ended(SlideTask(tmp_path / "b.svs", "b"))
    assert len(table((tmp_path / "cohort.csv").read_text())) == 1, "five seconds have not gone by"
    cohort.write()
    assert len(table((tmp_path / "cohort.csv").read_text())) == 2
    assert records.all() == []


def test_rows_are_read_once_as_long_as_they_stay_the_same(tmp_path, monkeypatch):
    made_up(tmp_path, "a")
    cohort = cohort_of(tmp_path)
    first = cohort.rows()
    assert cohort.rows()[0] is first[0]
    marker = tmp_path / "a" / "slide.json"
    marker.write_text(marker.read_text().replace("histai/x", "other"))
    assert cohort.rows()[0].settings["model"] == "other"


def test_a_failure_counts_more_than_an_older_result(tmp_path):
    made_up(tmp_path, "a")
    records = Records(tmp_path, "run")
    records.folder.mkdir()
    from spider_tools.slide_sources.task import SlideTask

    records.write(SlideTask(tmp_path / "a.svs", "a"), Record("a", "failed", "a.svs", "no", 1.0, 2.0, "run", ""))
    assert [(found.name, found.status) for found in cohort_of(tmp_path).rows()] == [("a", "failed")]


# --- The page


BAD_NAMES = ["<script>alert(1)</script>", "a & b", '"><img src=x onerror=alert(1)>', "javascript:alert(1)", "100%#?x"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_never_become_part_of_the_page(name, tmp_path):
    fields = {"message": name, "warnings": (name,), "classes": {name: 3.0}, "settings": {"model": name}}
    page = Page(make_page([row(name, **fields), row(name, "failed", **fields)], tmp_path))
    fields = {"message": "m", "warnings": ("w",), "classes": {"c": 3.0}, "settings": {"model": "m"}}
    tame = Page(make_page([row("t", **fields), row("t", "failed", **fields)], tmp_path))
    assert page.tags == tame.tags
    assert page.texts.count(name) == tame.texts.count("c") + 14 - 2
    links = [text for text in page.texts if text and text.endswith("report.html")]
    assert len(links) == 1
    assert re.fullmatch(r"\./[\w.%~-]+/report\.html", links[0])


def test_the_page_holds_small_pictures_and_says_what_failed_in_words(tmp_path):
    folder = made_up(tmp_path, "a")
    Image.fromarray(draw_slide(900, 500)).save(folder / "overview.png")
    made_up(tmp_path, "b")
    cohort = cohort_of(tmp_path)
    cohort.write()
    page = (tmp_path / "cohort.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    content = base64.b64decode(re.findall(r"data:image/webp;base64,([\w+/=]+)", page)[0])
    assert Image.open(io.BytesIO(content)).size == (200, 111)
    assert page.count("<img") == 1
    assert "2 done, 0 failed" in page
    assert not re.search(r"(src|href)=\"(https?:)?//", page), "it needs no other file"


def test_what_cannot_be_printed_is_escaped_on_the_page(tmp_path):
    name = "Pr\udce4parat\x1b[31m\u202e"
    page = make_page([row(name, "failed", message=name, classes={name: 1.0})], tmp_path)
    assert "Pr\\udce4parat\\x1b[31m\\u202e" in page
    assert page.replace("\n", "").isprintable()


@pytest.mark.parametrize("noise", [True, False])
def test_a_picture_has_a_bounded_size(tmp_path, noise):
    folder = tmp_path / "a"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256 if noise else 1, (400, 600, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "overview.png")
    (tmp_path / ".cohort").mkdir()
    keep_picture(folder, tmp_path / ".cohort")
    assert 0 < picture_of("a", tmp_path / ".cohort").stat().st_size <= 8192


def test_a_picture_follows_its_overview_and_a_broken_one_is_told(tmp_path, caplog):
    folder, kept = tmp_path / "a", tmp_path / ".cohort"
    folder.mkdir()
    kept.mkdir()
    Image.new("RGB", (300, 300), "red").save(folder / "overview.png")
    keep_picture(folder, kept)
    first = picture_of("a", kept).read_bytes()
    Image.new("RGB", (300, 300), "blue").save(folder / "overview.png")
    os.utime(folder / "overview.png", (2e9, 2e9))
    keep_picture(folder, kept)
    assert picture_of("a", kept).read_bytes() != first
    (folder / "overview.png").write_bytes(b"no picture")
    os.utime(folder / "overview.png", (3e9, 3e9))
    keep_picture(folder, kept)
    assert "a has no small picture" in caplog.text


def test_pictures_that_would_make_the_page_too_large_are_left_out_and_that_is_said(tmp_path, monkeypatch):
    for name in "abc":
        picture_of(name, tmp_path).write_bytes(bytes(3000))
    monkeypatch.setattr(cohort_page, "_MOST_BYTES_OF_PICTURES", 9000)
    page = make_page([row(name) for name in "abc"], tmp_path)
    assert page.count("<img") == 2
    assert "1 of the slides are shown without a picture" in page


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CLICK = """
<script>
const told = [];
function click(title) {
  const button = Array.from(document.querySelectorAll("thead button")).find(b => b.textContent === title);
  button.click();
  const names = Array.from(document.querySelectorAll("tbody tr")).map(r => r.cells[0].textContent);
  told.push(`${title} ${button.parentElement.getAttribute("aria-sort")}: ${names.join(" ")}`);
}
for (const title of ["Slide", "Slide", "Patches", "Patches", "Fat", "Status"]) click(title);
document.title = told.join(" | ") + " | " + document.querySelectorAll("[aria-sort]").length;
</script></body>
"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_the_page_sorts_itself_in_a_browser(tmp_path):
    rows = [
        row("s1", figures={"patches": 9}, classes={"Fat": 2.5}),
        row("s2", figures={"patches": 100}, classes={"Fat": 10.0}),
        row("s10", "failed", message="broken"),
        row("s11", figures={"patches": 20}, classes={"Fat": 0.0}),
    ]
    page = make_page(rows, tmp_path).replace("</body>", CLICK)
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'user'}", "--dump-dom"]
    dom = subprocess.run([BROWSER, *flags, f"file://{tmp_path}/page.html"], capture_output=True, text=True, timeout=120)
    title = re.search(r"<title>(.*?)</title>", dom.stdout)[1]
    assert title.split(" | ") == [
        "Slide descending: s11 s10 s2 s1",
        "Slide ascending: s1 s2 s10 s11",
        "Patches ascending: s1 s11 s2 s10",
        "Patches descending: s2 s11 s1 s10",
        "Fat ascending: s11 s1 s2 s10",
        "Status ascending: s11 s1 s2 s10",
        "1",
    ]
