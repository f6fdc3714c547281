"""GeoJSON as QuPath exports it."""

import json
from dataclasses import replace

import pytest
import shapely
from annotation_files import FRAME, TRIANGLE, areas, feature, read_features, read_text

# Two objects as QuPath 0.5 exports them with "Export as FeatureCollection", pretty-printed.
EXPORT = """{
  "type": "FeatureCollection",
  "features": [
    {
      "type": "Feature",
      "id": "9d1b6e3c-2f0a-4e8e-9f0b-3f6f3f1c8a11",
      "geometry": {
        "type": "Polygon",
        "coordinates": [
          [ [400, 300], [700, 300], [700.5, 499.5], [400, 300] ]
        ]
      },
      "properties": {
        "objectType": "annotation",
        "name": "the doubtful one",
        "classification": { "name": "Tumor", "color": [200, 0, 0] },
        "isLocked": true,
        "measurements": { "Area µm^2": 7500.0 }
      }
    },
    {
      "type": "Feature",
      "id": "b1d0c3de-9f43-4c4f-8a1d-58a2b0a0f001",
      "geometry": { "type": "Point", "coordinates": [150, 260] },
      "properties": { "objectType": "annotation", "classification": { "name": "Stroma", "color": [150, 200, 150] } }
    },
    {
      "type": "Feature",
      "id": "b1d0c3de-9f43-4c4f-8a1d-58a2b0a0f002",
      "geometry": {
        "type": "MultiPolygon",
        "coordinates": [
          [
            [ [100, 500], [300, 500], [300, 600], [100, 600], [100, 500] ],
            [ [120, 520], [120, 570], [150, 570], [150, 520], [120, 520] ]
          ],
          [ [ [600, 700], [650, 700], [600, 720], [600, 700] ] ]
        ]
      },
      "properties": {
        "objectType": "annotation",
        "classification": { "names": ["Immune cells", "Positive"], "color": [160, 90, 160] }
      }
    }
  ]
}
"""


def test_an_export_of_qupath_is_read_with_holes_classes_and_numbers(tmp_path):
    found = read_text(tmp_path, EXPORT, name="s.geojson")
    first, ring, piece = found.annotations
    assert first.class_name == "Tumor"
    assert list(first.shape.exterior.coords) == [(400, 300), (700, 300), (700.5, 499.5), (400, 300)]
    assert [ring.class_name, piece.class_name] == ["Immune cells: Positive"] * 2
    assert [one.number for one in found.annotations] == [0, 2, 2]
    assert (ring.shape.area, piece.shape.area) == (200 * 100 - 30 * 50, 50 * 20 / 2)
    assert [shapely.Polygon(hole).bounds for hole in ring.shape.interiors] == [(120, 520, 150, 570)]
    assert found.remarks == ("s.geojson: left out: 1 Point.",)
    assert found.ignored == ()


def test_qupath_counts_from_the_corner_of_what_was_scanned(tmp_path):
    frame = replace(FRAME, bounds=(150, 20, 800, 600))
    found = read_features(tmp_path, feature(TRIANGLE), frame=frame)
    assert list(found.annotations[0].shape.exterior.coords)[:3] == [(550, 320), (850, 320), (850, 520)]


@pytest.mark.parametrize(
    "classification",
    [
        {"name": " Tumor \n", "color": [1, 2, 3]},
        {"names": ["Tumor"]},
        {"names": ["Tumor"], "name": "another"},
        {"names": [], "name": "Tumor"},
        "Tumor",
    ],
)
def test_a_class_is_read_in_every_way_that_qupath_has_written_it(tmp_path, classification):
    row = feature(TRIANGLE, None)
    row["properties"]["classification"] = classification
    assert areas(read_features(tmp_path, row)) == [("Tumor", 30_000)]


@pytest.mark.parametrize(
    "wrap", [lambda row: [row], lambda row: row, lambda row: [{"type": "FeatureCollection", "features": [row]}]]
)
def test_lists_and_single_objects_are_read_as_collections_are(tmp_path, wrap):
    text = json.dumps(wrap(feature(TRIANGLE)))
    assert areas(read_text(tmp_path, text, name="s.json")) == [("Tumor", 30_000)]
    assert areas(read_text(tmp_path, text, name="s.txt", encoding="utf-8-sig")) == [("Tumor", 30_000)]


@pytest.mark.parametrize("classification", ["Ignore*", "ignore", {"names": ["Ignore*", "x"]}, None, "", {"name": " "}])
def test_what_has_no_class_or_is_ignored_is_kept_apart(tmp_path, classification):
    found = read_features(tmp_path, feature(TRIANGLE, classification), feature([(0, 0), (500, 0), (0, 500)], "Stroma"))
    assert areas(found) == [("Stroma", 125_000)]
    assert [one.number for one in found.annotations] == [1]
    assert [shape.area for shape in found.ignored] == [30_000]
    (remark,) = found.remarks
    assert remark in ("s.geojson: left out: 1 of the class Ignore.", "s.geojson: left out: 1 without a class.")


def test_points_lines_and_empty_objects_are_left_out_and_counted(tmp_path):
    collection = {
        "type": "GeometryCollection",
        "geometries": [feature(TRIANGLE)["geometry"], {"type": "Point", "coordinates": [1, 2]}],
    }
    found = read_features(
        tmp_path,
        feature(collection),
        feature({"type": "LineString", "coordinates": [[0, 0], [5, 5]]}),
        feature(None),
        feature({"type": "Polygon", "coordinates": []}),
        feature({"type": "MultiPolygon", "coordinates": []}),
        feature([(0, 0), (500, 0)]),
        feature([(0, 0), (500, 0), (900, 0)]),
    )
    assert areas(found) == [("Tumor", 30_000)]
    assert found.remarks == ("s.geojson: left out: 1 LineString, 1 Point, 1 without a geometry, 4 without an area.",)


def test_a_file_in_which_nothing_was_drawn_says_so(tmp_path):
    found = read_features(tmp_path)
    assert found.annotations == ()
    assert found.remarks == ("s.geojson: nothing that was drawn has both a class and an area.",)


def test_names_of_classes_cannot_control_a_terminal(tmp_path):
    found = read_features(tmp_path, feature(TRIANGLE, "Tu\x1b[31mmor\u202e"), feature(TRIANGLE, "a\n b\u00a0c"))
    assert [one.class_name for one in found.annotations] == ["Tu\\x1b[31mmor\\u202e", "a b c"]
