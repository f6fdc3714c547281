"""Which file holds the annotations of a slide."""

import pytest

from spider_tools.annotations.reading import find_annotations


@pytest.mark.parametrize("name", ["a.geojson", "a.json", "a.xml", "a.ndpa", "a.svs.geojson", "a.ndpi.ndpa", "a.XML"])
def test_a_file_is_found_by_the_name_of_its_slide(tmp_path, name):
    for other in (name, "a.b.xml", "ab.xml", "b.xml", "a.txt", "a.png", "._a.xml", "a.tar.xml"):
        (tmp_path / other).touch()
    (tmp_path / "a.svs.json").mkdir()
    assert find_annotations(tmp_path, "a") == tmp_path / name


def test_names_with_points_are_told_apart(tmp_path):
    for name in ("TCGA.1.xml", "TCGA.xml", "TCGA.1.svs.json"):
        (tmp_path / name).touch()
    assert find_annotations(tmp_path, "TCGA") == tmp_path / "TCGA.xml"
    with pytest.raises(
        ValueError, match=r"one file of annotations of TCGA\.1 in .*, got TCGA\.1\.svs\.json, TCGA\.1\.xml"
    ):
        find_annotations(tmp_path, "TCGA.1")


def test_a_file_is_for_any_slide_and_nothing_is_found_where_there_is_none(tmp_path):
    (tmp_path / "x.xml").touch()
    assert find_annotations(tmp_path / "x.xml", "a") == tmp_path / "x.xml"
    assert find_annotations(tmp_path, "a") is None
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        find_annotations(tmp_path / "absent", "a")
