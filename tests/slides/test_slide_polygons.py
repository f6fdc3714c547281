"""The class map as GeoJSON: areas, holes, tiles, what they carry, and ids that stay."""

import json

import numpy as np
import pytest
import shapely
from slide_predictions import CLASS_NAMES, CLASSES, MPP, SCALE, make_predictions

from spider_tools.slides.colors import class_colors
from spider_tools.slides.polygons import cells_to_polygon, write_geojson


def features_of(predictions, tmp_path, tiles=False):
    write_geojson(tmp_path / "p.geojson", predictions, "slide", tiles)
    content = json.loads((tmp_path / "p.geojson").read_text())
    assert content["type"] == "FeatureCollection"
    return content["features"]


def test_areas_are_merged_and_keep_their_holes(predictions, tmp_path):
    features = features_of(predictions, tmp_path)
    shapes = [(f["properties"]["classification"]["name"], shapely.geometry.shape(f["geometry"])) for f in features]
    width, height = 28 * SCALE[0], 28 * SCALE[1]
    assert [name for name, _ in shapes] == ["Stroma", "Fat & <oil>", "Fat & <oil>", "Vessels"]
    ring = shapes[0][1]
    assert ring.exterior.bounds == (0, 0, 3 * width, 3 * height)
    assert [shapely.Polygon(hole).bounds for hole in ring.interiors] == [(width, height, 2 * width, 2 * height)]
    assert shapes[1][1].equals(shapely.box(width, height, 2 * width, 2 * height))
    corner = shapely.Polygon([(168, 168), (224, 168), (224, 252), (280, 252), (280, 336), (168, 336)])
    assert shapes[2][1].equals(corner)
    assert len(shapes[2][1].exterior.coords) == 7, "points on straight lines are left out"
    assert shapes[3][1].bounds == (4 * width, 0, 5 * width, 2 * height)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("stride", [28, 7])
def test_polygons_cover_exactly_the_cells_of_their_class(tmp_path, seed, stride):
    classes = np.random.default_rng(seed).integers(-1, 3, (13, 17))
    predictions = make_predictions(classes, stride)
    areas = {name: [] for name in CLASS_NAMES}
    for feature in features_of(predictions, tmp_path):
        shape = shapely.geometry.shape(feature["geometry"])
        assert shape.is_valid
        measurements = feature["properties"]["measurements"]
        assert measurements["area mm2"] == pytest.approx(shape.area * MPP[0] * MPP[1] / 1e6, rel=1e-6)
        assert measurements["patches"] * stride**2 * 6 == pytest.approx(shape.area)
        areas[feature["properties"]["classification"]["name"]].append(shape)
    x_edges, y_edges = predictions.lattice.cell_edges_level0()
    for number, name in enumerate(CLASS_NAMES):
        whole = shapely.union_all(areas[name])
        for row, column in np.ndindex(classes.shape):
            middle = ((x_edges[column] + x_edges[column + 1]) / 2, (y_edges[row] + y_edges[row + 1]) / 2)
            assert shapely.contains_xy(whole, *middle) == (classes[row, column] == number)


def test_an_area_carries_the_mean_probabilities_of_its_patches(predictions, tmp_path):
    first = features_of(predictions, tmp_path)[0]["properties"]
    members = [i for i, (row, column) in enumerate(predictions.positions) if CLASSES[row][column] == 0]
    for number, name in enumerate(CLASS_NAMES):
        expected = predictions.probabilities[members, number].mean()
        assert first["measurements"][f"probability: {name}"] == pytest.approx(expected, abs=1e-5)
    assert first["objectType"] == "annotation"
    assert first["classification"]["color"] == list(class_colors(CLASS_NAMES)["Stroma"])


def test_tiles_are_one_square_per_prediction(predictions, tmp_path):
    features = features_of(predictions, tmp_path, tiles=True)
    tiles = [f for f in features if f["properties"]["objectType"] == "tile"]
    assert len(tiles) == len(predictions.positions)
    for tile, (row, column), probabilities, entropy in zip(
        tiles, predictions.positions, predictions.probabilities, predictions.entropy
    ):
        bounds = shapely.geometry.shape(tile["geometry"]).bounds
        assert bounds == (column * 56, row * 84, (column + 1) * 56, (row + 1) * 84)
        assert tile["properties"]["classification"]["name"] == CLASS_NAMES[CLASSES[row][column]]
        measured = tile["properties"]["measurements"]
        assert [measured[f"probability: {n}"] for n in CLASS_NAMES] == pytest.approx(probabilities.tolist(), abs=1e-6)
        assert measured["entropy"] == pytest.approx(entropy)


def test_ids_are_unique_and_stay(predictions, tmp_path):
    first = [f["id"] for f in features_of(predictions, tmp_path, tiles=True)]
    assert len(set(first)) == len(first)
    assert first == [f["id"] for f in features_of(predictions, tmp_path, tiles=True)]


def test_cells_that_touch_at_a_corner_make_a_valid_polygon():
    cells = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], dtype=bool)
    polygon = cells_to_polygon(cells, np.arange(4.0), np.arange(4.0))
    assert polygon.is_valid
    assert (polygon.geom_type, polygon.area) == ("Polygon", 7)
