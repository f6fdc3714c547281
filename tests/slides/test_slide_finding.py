"""Which slides files, folders and manifests name."""

import pytest

from spider_tools.slide_sources.finding import find_slides


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.csv", "path\na.svs\n", "has the columns .*expected `slide`"),
        ("m.csv", "slide,Slide \na.svs,b.svs\n", r"has the columns \['slide'\] twice"),
        ("m.csv", "", "has the columns"),
        ("m.tsv", "name\tmpp\na\t1\n", "has the columns .*expected `slide`"),
        ("m.csv", "slide\n", "names no slides"),
        ("m.txt", "\n\n", "names no slides"),
        ("m.csv", "slide,mpp\na.svs,fine\n", "slide 1 of .*'fine', expected a number"),
        ("m.csv", "slide,mpp\na.svs,0.5\n,0.5\n", "slide 2 of .* has no path"),
        ("m.csv", "slide,mpp\na.svs,0.5,7\n", "more cells than columns"),
        ("m.csv", "slide,name\na.svs,../b\n", "name '../b' for its folder"),
        ("m.csv", "slide,name\na.svs,/tmp/b\n", "name '/tmp/b' for its folder"),
        ("m.csv", "slide,name\na.svs,..\n", "name '..' for its folder"),
        ("m.csv", "slide,name\na.svs,b\\c\n", "for its folder"),
        ("m.csv", "slide\na/x.svs\nb/X.tif\n", "x.svs and .*X.tif would both be written"),
    ],
)
def test_wrong_manifests_are_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        find_slides([str(tmp_path / name)])


def test_names_of_files_never_leave_the_output_folder(tmp_path):
    (tmp_path / "...svs").touch()  # its name without extension is ..
    with pytest.raises(ValueError, match=r"the name '\.\.' for its folder"):
        find_slides([str(tmp_path / "...svs")])


def test_a_folder_gives_its_slides_in_order(tmp_path):
    for name in ("b.svs", "a.ndpi", "c.txt", ".hidden.svs", "d.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "e.svs").touch()
    assert [task.name for task in find_slides([str(tmp_path)])] == ["a", "b", "d"]


def test_files_that_belong_to_one_slide_are_one_slide(tmp_path):
    for folder, names in {"vms": ["v.vms", "v(1,0).jpg"], "series": ["1.dcm", "2.dcm", "3.dcm"]}.items():
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).touch()
    found = find_slides([str(tmp_path / "vms"), str(tmp_path / "series")])
    assert [(task.name, task.path.name) for task in found] == [("v", "v.vms"), ("series", "1.dcm")]


def test_a_folder_without_slides_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no slides"):
        find_slides([str(tmp_path)])
