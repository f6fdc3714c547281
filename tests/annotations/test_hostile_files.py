"""Files that are damaged, or made to do harm."""

import json
import os
from dataclasses import replace

import pytest
from annotation_files import (
    FRAME,
    TRIANGLE,
    areas,
    asap,
    feature,
    imagescope,
    layer,
    ndpa,
    read_features,
    read_text,
    region,
    view_state,
)

from spider_tools.annotations.reading import read_annotations

LAUGHS = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>'
OUTSIDE_FILE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
BARE = asap(("Polygon", "Tumor", TRIANGLE)).split("\n")[1]


DEEP = "[" * 500 + "1" + "]" * 500


def polygon_of(coordinates):
    return json.dumps(feature({"type": "Polygon", "coordinates": coordinates}))


BROKEN = {
    "nothing": ("", "neither GeoJSON nor XML"),
    "an image": ("\x89PNG\r\n", "neither GeoJSON nor XML"),
    "half of JSON": ('{"type": "FeatureCollection", "features": [', "cannot be used"),
    "half of XML": (BARE[:-30], "it is no XML"),
    "JSON without a type": ("{}", "no GeoJSON of objects: 'type' is missing"),
    "a feature without a geometry": ('{"type": "Feature", "properties": {}}', "'geometry' is missing"),
    "numbers": ("[1, 2]", "no GeoJSON of objects"),
    "properties as text": ('{"type": "Feature", "properties": "x", "geometry": null}', "no GeoJSON of objects"),
    "a collection of nothing": ('{"type": "GeometryCollection"}', "'geometries' is missing"),
    "an unknown geometry": ('{"type": "Circle", "coordinates": []}', "object 0 is a 'Circle', expected a Polygon"),
    "coordinates as text": (polygon_of([[["1", "2"], ["3", "4"], ["5", "6"]]]), "object 0 are no rings of points"),
    "coordinates of different lengths": (polygon_of([[[1, 2], [3], [4, 5]]]), "object 0 are no rings of points"),
    "coordinates without a ring": (polygon_of([[1, 2], [3, 4], [4, 5]]), "object 0 are no rings of points"),
    "coordinates of null": (polygon_of([[[1, None], [3, 4], [4, 5]]]), "object 0 are no rings of points"),
    "a number of 5,000 digits": (polygon_of([[[1, 2], [3, 4], [4, 5]]]).replace("3", "9" * 5000), "cannot be used"),
    "a number of 400 digits": (polygon_of([[[1, 2], [3, 4], [4, 5]]]).replace("3", "9" * 400), "no rings of points"),
    "JSON of 100,000 lists": ("[" * 100_000, "nested too deeply"),
    "collections in collections": ('{"type": "GeometryCollection", "geometries": [' * 5000, "nested too deeply"),
    "coordinates of 500 dimensions": (polygon_of("x").replace('"x"', DEEP), "no rings of points"),
    "laughs": (LAUGHS + BARE, "has a DOCTYPE"),
    "the content of another file": (OUTSIDE_FILE + BARE, "has a DOCTYPE"),
    "an entity of nowhere": (BARE.replace("Tumor", "&a;"), "it is no XML: undefined entity"),
    "an encoding of nowhere": (f'<?xml version="1.0" encoding="klingon"?>{BARE}', "it is no XML"),
    "another XML": ("<svg/>", "its XML holds 'svg', expected ASAP_Annotations"),
    "a corner that is no number": (BARE.replace('"700"', '"left"'), "X of annotation 0 is 'left', expected a number"),
    "a corner without a number": (BARE.replace('Y="300"', ""), "Y of annotation 0 is '', expected a number"),
    "an order that is none": (BARE.replace('Order="1"', 'Order="b"'), "Order of annotation 0 is 'b'"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_refused_by_name(tmp_path, what):
    text, words = BROKEN[what]
    with pytest.raises(ValueError, match=rf"The annotations .*s\.xml .*({words})"):
        read_text(tmp_path, text)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-8-sig"])
def test_a_doctype_is_seen_in_every_encoding(tmp_path, encoding):
    with pytest.raises(ValueError, match=r"has a DOCTYPE|is no XML"):
        read_text(tmp_path, LAUGHS + BARE, encoding=encoding)


def test_xml_of_a_million_levels_comes_to_an_end(tmp_path):
    inner = "<a>" * 200_000 + "</a>" * 200_000
    assert areas(read_text(tmp_path, BARE.replace("<AnnotationGroups>", f"<AnnotationGroups>{inner}"))) == [
        ("Tumor", 30_000)
    ]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_geojson_with_coordinates_that_are_no_places_is_left_out_and_counted(tmp_path, value):
    corners = [[float(value), 2], [300, 4], [4, 500]]
    found = read_features(tmp_path, feature(corners), feature(TRIANGLE, "inside"))
    assert areas(found) == [("inside", 30_000)]
    assert found.remarks == ("s.geojson: left out: 1 with coordinates that are not finite.",)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999"])
@pytest.mark.parametrize("kind", [0, 1, 2])
def test_xml_with_coordinates_that_are_no_places_is_left_out_and_counted(tmp_path, value, kind):
    text = imagescope(layer(region([(value, 5), (7, value), (9, 4)], kind), region(TRIANGLE), name="Tumor"))
    found = read_text(tmp_path, text)
    assert areas(found) == [("Tumor", 30_000)]
    assert found.remarks == ("s.xml: left out: 1 with coordinates that are not finite.",)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("radius", "reason"),
    [
        ("inf", "with coordinates that are not finite"),
        ("nan", "with coordinates that are not finite"),
        ("0", "without an area"),
    ],
)
def test_a_circle_without_a_size_is_left_out(tmp_path, radius, reason):
    frame = replace(FRAME, center_offset_nm=(0.0, 0.0))
    circle = f'<annotation type="circle"><x>0</x><y>0</y><radius>{radius}</radius></annotation>'
    found = read_text(tmp_path, ndpa(view_state("Tumor", circle)), frame)
    assert found.annotations == ()
    assert found.remarks[0] == f"s.xml: left out: 1 {reason}."


def test_a_file_of_more_than_500_mb_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "s.xml"
    path.touch()
    os.truncate(path, 500_000_001)  # a file of holes takes no room
    with pytest.raises(ValueError, match=r"s\.xml cannot be used: it has 500 MB, expected at most 500"):
        read_annotations(path, FRAME)


def test_a_folder_a_pipe_and_nothing_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.xml")
    for path in (tmp_path, tmp_path / "pipe.xml", tmp_path / "absent.xml"):
        with pytest.raises(ValueError, match="there is no such file"):
            read_annotations(path, FRAME)


def test_the_name_of_a_file_cannot_control_a_terminal(tmp_path):
    (tmp_path / "s\x1b[31m.xml").write_text(asap())
    (remark,) = read_annotations(tmp_path / "s\x1b[31m.xml", FRAME).remarks
    assert remark == "s\\x1b[31m.xml: nothing that was drawn has both a class and an area."
