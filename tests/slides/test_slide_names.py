"""Names and numbers that cannot be used are refused with their row, or take one slide of a folder and no other."""

import os

import pytest
from slide_files import draw_slide, write_dicom, write_pyramid

from spider_tools.cohorts.many import segment_slide, segment_slides
from spider_tools.slide_files.reader import SlideError
from spider_tools.slide_sources.finding import find_slides
from spider_tools.slide_sources.manifests import read_manifest
from spider_tools.slide_sources.task import checked_name
from spider_tools.slides.results import results_table
from spider_tools.slides.settings import SlideSettings

pytestmark = [pytest.mark.usefixtures("fresh_accelerator"), pytest.mark.slow]

UNUSABLE = {
    "con": "Windows cannot have",
    "NUL": "Windows cannot have",
    "aux.old": "Windows cannot have",
    "Com1": "Windows cannot have",
    "lpt9.a.b": "Windows cannot have",
    "name.": "Windows cannot have",
    ".lock": "is hidden",
    ".run-1": "is hidden",
    "x" * 201: "has 201 bytes, expected 200 at most",
    "\u00e4" * 101: "has 202 bytes",
    "x" * 3000: "has 3000 bytes",
    "a\x1b[31mb": "cannot be printed",
    "a\u202eb": "cannot be printed",
    "a\x7fb": "cannot be printed",
    "..": "is no folder below another one",
    "a/b": "is no folder below another one",
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_manifest_with_an_unusable_name_is_refused_with_its_row(tmp_path, name):
    (tmp_path / "m.csv").write_text(f"slide,name\na.svs,first\nb.svs,{name}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=f"slide 2 of .*m.csv gives the name .*{UNUSABLE[name]}") as refusal:
        read_manifest(tmp_path / "m.csv")
    assert len(str(refusal.value)) < 400
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize(
    "name", ["console", "null", "com", "com10", "x" * 200, "\u00e4" * 100, "a.b", "a=b", "-a", "1"]
)
def test_names_that_look_like_those_are_taken(name):
    assert checked_name(name, "here") == name


@pytest.mark.parametrize("mpp", ["0", "-0", "0.0", "-0.5", "nan", "NaN", "inf", "-inf", "1e999", "Infinity"])
@pytest.mark.parametrize("separator", ",;\t")
def test_a_manifest_with_an_impossible_mpp_is_refused_with_its_row(tmp_path, mpp, separator):
    rows = [("slide", "mpp"), ("a.svs", "0.5"), ("b.svs", mpp)]
    (tmp_path / "m.csv").write_text("".join(separator.join(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=rf"slide 2 of .*m\.csv has the mpp '{mpp}', expected a number of um/px above"):
        read_manifest(tmp_path / "m.csv")


def small(path, seed=0):
    return write_pyramid(path, draw_slide(200, 180, seed=seed), 0.5)


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31mb", os.fsdecode(b"Pr\xe4parat"), "con", "NUL", "x" * 220])
def test_an_unusable_name_takes_one_slide_of_a_folder(tmp_path, settings, name, caplog):
    small(tmp_path / "good.tif")
    small(tmp_path / f"{name}.tif", seed=1)
    results = segment_slides([tmp_path], settings)
    assert sorted(result.status for result in results) == ["done", "failed"]
    failed = next(result for result in results if result.status == "failed")
    assert "for its folder of results" in failed.message
    assert {path.name for path in settings.output_dir.iterdir() if path.is_dir()} == {"good", ".cohort"}
    table = results_table(results)
    assert table.replace("\n", "").isprintable()
    assert table.endswith("1 done, 0 skipped, 1 failed")
    assert all(message.isprintable() for message in caplog.messages)
    with pytest.raises(ValueError, match="names 2 slides"):
        segment_slide(tmp_path, settings)


def test_the_only_slide_of_a_folder_is_refused_before_the_model_is_loaded(tmp_path):
    small(tmp_path / "con.tif")
    with pytest.raises(SlideError, match="'con' for its folder"):
        segment_slide(tmp_path, SlideSettings("no-such-model", tmp_path / "R"))


@pytest.mark.parametrize("suffix", [".svs", ".tif", ".mrxs", ".png", ".dcm"])
@pytest.mark.parametrize("kind", ["link to nowhere", "link to itself", "pipe"])
def test_what_is_no_file_in_a_folder_is_reported(tmp_path, settings, suffix, kind):
    small(tmp_path / "good.tif")
    bad = tmp_path / f"bad{suffix}"
    if kind == "pipe":
        os.mkfifo(bad)
    else:
        bad.symlink_to("nowhere.tif" if kind == "link to nowhere" else bad.name)
    results = segment_slides([tmp_path], settings)
    assert {result.name: result.status for result in results} == {"good": "done", "bad": "failed"}
    assert f"bad{suffix}" in results[1].message


def test_a_dangling_link_of_the_name_of_a_slide_is_reported_beside_it(tmp_path):
    small(tmp_path / "a.tif")
    (tmp_path / "a.svs").symlink_to("nowhere")
    found = [(task.path.name, bool(task.problem)) for task in find_slides([str(tmp_path)])]
    assert found == [("a.tif", False), ("a.svs", True)]


def test_a_dangling_link_in_a_series_leaves_the_name_of_the_series(tmp_path):
    folder = tmp_path / "case"
    folder.mkdir()
    write_dicom(folder / "1.dcm", draw_slide(128, 128), "1.2.3")
    (folder / "2.dcm").symlink_to("nowhere")
    found = [(task.name, bool(task.problem)) for task in find_slides([str(folder)])]
    assert found == [("case", False), ("2", True)]


def test_folders_with_the_suffix_of_a_slide_are_passed_over(tmp_path):
    small(tmp_path / "a.tif")
    (tmp_path / "b.tif").mkdir()
    (tmp_path / "c.svs").symlink_to("b.tif")
    assert [task.name for task in find_slides([str(tmp_path)])] == ["a"]


@pytest.mark.parametrize("suffix", [".csv", ".txt"])
def test_a_file_whose_name_is_no_utf8_can_stand_in_a_manifest(tmp_path, settings, suffix):
    raw = b"Pr\xe4parat.tif"
    small(tmp_path / "plain.tif").rename(os.fsdecode(os.fsencode(tmp_path) + b"/" + raw))
    if suffix == ".txt":
        (tmp_path / "m.txt").write_bytes(raw + b"\n")
        with pytest.raises(ValueError, match=r"slide 1 of .*m\.txt gives the name .*cannot be printed"):
            read_manifest(tmp_path / "m.txt")
        return
    (tmp_path / "m.csv").write_bytes(b"slide,name\n" + raw + b",first\n")
    (result,) = segment_slides([tmp_path / "m.csv"], settings)
    assert (result.name, result.status, result.message) == ("first", "done", "")
    assert r"Pr\udce4parat.tif" in (settings.output_dir / "first" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("row", [b"Pr\xe4parat.svs,a,\n", b"good.tif,a,Pr\xe4parat.png\n", b"good.tif,Pr\xe4parat,\n"])
def test_bytes_that_are_no_utf8_and_no_file_are_refused_with_their_row(tmp_path, row):
    small(tmp_path / "good.tif")
    (tmp_path / "m.csv").write_bytes(b"slide,name,mask\n" + b"good.tif,b,\n" + row)
    with pytest.raises(ValueError, match=r"slide 2 of .*Pr\\udce4parat") as refusal:
        read_manifest(tmp_path / "m.csv")
    assert str(refusal.value).isprintable()


def test_a_quote_that_nothing_closes_is_refused_in_words(tmp_path):
    (tmp_path / "m.csv").write_text('slide\n"' + "a.svs\n" * 50_000)
    with pytest.raises(ValueError, match=r"m\.csv cannot be read: field larger than field limit"):
        read_manifest(tmp_path / "m.csv")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_a_manifest_of_wide_characters_is_refused(tmp_path, encoding):
    (tmp_path / "m.csv").write_bytes("slide\na.svs\n".encode(encoding))
    with pytest.raises(ValueError, match=r"m\.csv cannot be read: .*expected text in UTF-8"):
        read_manifest(tmp_path / "m.csv")
