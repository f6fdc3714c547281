"""Manifests as spreadsheets of all countries write them."""

import pytest
from PIL import Image

from spider_tools.slide_sources.finding import find_slides
from spider_tools.slide_sources.manifests import read_manifest

ROWS = [("a.svs", "first", 0.25, "a.png"), ("b.svs", "b", None, None)]
MANIFESTS = {
    "commas": "slide,name,mpp,mask\na.svs,first,0.25,a.png\nb.svs,,,\n",
    "semicolons": "slide;name;mpp;mask\na.svs;first;0.25;a.png\nb.svs;;;\n",
    "semicolons and decimal commas": "slide;name;mpp;mask\na.svs;first;0,25;a.png\nb.svs;;;\n",
    "tabs": "slide\tname\tmpp\tmask\na.svs\tfirst\t0.25\ta.png\nb.svs\t\t\t\n",
    "tabs and decimal commas": "slide\tname\tmpp\tmask\na.svs\tfirst\t0,25\ta.png\nb.svs\t\t\t\n",
    "other case and spaces": "Slide, NAME , MPP,Mask \na.svs, first , 0.25 ,a.png\nb.svs,,,\n",
    "another order": "mask,mpp,slide,name\na.png,0.25,a.svs,first\n,,b.svs,\n",
    "quotes": '"slide","name","mpp","mask"\n"a.svs","first","0.25","a.png"\n"b.svs","","",""\n',
    "empty rows": "\n\nslide,name,mpp,mask\n\na.svs,first,0.25,a.png\n,,,\n  , ,\t,\nb.svs,,,\n,,,\n",
    "empty rows of a spreadsheet": "slide;name;mpp;mask\n;;;\na.svs;first;0,25;a.png\nb.svs;;;\n;;;\n",
    "short rows": "slide,name,mpp,mask\na.svs,first,0.25,a.png\nb.svs\n",
    "empty cells beyond the columns": "slide,name,mpp,mask\na.svs,first,0.25,a.png,,\nb.svs,,,,,\n",
    "Windows": "\ufeffslide;name;mpp;mask\r\na.svs;first;0,25;a.png\r\nb.svs;;;\r\n",
    "a line for Excel": "sep=;\r\nslide;name;mpp;mask\r\na.svs;first;0,25;a.png\r\nb.svs;;;\r\n",
}


@pytest.mark.parametrize("suffix", ["csv", "tsv", "CSV"])
@pytest.mark.parametrize("way", MANIFESTS)
def test_a_manifest_means_the_same_however_it_was_saved(tmp_path, way, suffix, caplog):
    path = tmp_path / f"m.{suffix}"
    path.write_bytes(MANIFESTS[way].encode())
    found = [(task.path.name, task.name, task.mpp, task.mask and task.mask.name) for task in find_slides([str(path)])]
    assert found == ROWS
    assert not caplog.messages


@pytest.mark.parametrize("separator", ",;\t")
def test_other_columns_are_ignored_with_one_warning(tmp_path, separator, caplog):
    lines = [("Patient", "slide", "Stain", "mpp"), ("7", "a.svs", "HE", "0.5"), ("8", "b.svs", "PAS", "")]
    (tmp_path / "m.csv").write_text("".join(separator.join(line) + "\n" for line in lines))
    assert [(task.path.name, task.mpp) for task in read_manifest(tmp_path / "m.csv")] == [
        ("a.svs", 0.5),
        ("b.svs", None),
    ]
    assert len(caplog.messages) == 1
    assert "the columns ['Patient', 'Stain'] are ignored" in caplog.text


def test_a_decimal_comma_between_commas_is_refused(tmp_path):
    (tmp_path / "m.csv").write_text('slide,mpp\na.svs,"0,5"\n')
    with pytest.raises(ValueError, match="'0,5', expected a number"):
        read_manifest(tmp_path / "m.csv")


def test_a_quoted_line_break_is_part_of_its_cell(tmp_path):
    (tmp_path / "m.csv").write_text('slide,remark\na.svs,"two\nlines"\nb.svs,\n')
    assert [task.path.name for task in read_manifest(tmp_path / "m.csv")] == ["a.svs", "b.svs"]


def test_an_image_beside_its_slide_is_passed_over(tmp_path, caplog):
    for name in ("a.svs", "A.png", "b.png", "c.mrxs", "c.jpeg"):
        (tmp_path / name).touch()
    assert [task.path.name for task in find_slides([str(tmp_path)])] == ["a.svs", "b.png", "c.mrxs"]
    assert len(caplog.messages) == 1
    assert "images ['A.png', 'c.jpeg'] lie beside slides of their names" in caplog.text


def test_two_slides_of_one_name_are_still_refused(tmp_path):
    for name in ("a.svs", "a.tif"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"a\.svs and .*a\.tif would both be written"):
        find_slides([str(tmp_path)])


def test_two_images_of_one_name_are_still_refused(tmp_path):
    for name in ("a.png", "a.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    with pytest.raises(ValueError, match="would both be written"):
        find_slides([str(tmp_path)])
