"""The class map as GeoJSON that QuPath opens."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from scipy import ndimage

from ..probabilities import probability_name
from .colors import looks_of
from .predictions import SlidePredictions

_DECIMALS = 3  # of level-0 px


def write_geojson(
    path: Path,
    predictions: SlidePredictions,
    slide_name: str,
    tiles: bool = False,
    origin: tuple[float, float] = (0, 0),
) -> None:
    """Write a FeatureCollection: one annotation per connected area of a class, then, with `tiles`, one tile per cell.

    Coordinates are level-0 px from `origin`, x and y, where QuPath's begin (see `Slide.bounds`). Areas carry their
    class with its colour, their size and the tissue in them, the mean probability of every class and, if the model
    knows, how much of them is unfamiliar; tiles carry the probabilities, the entropy and the unfamiliarity of their own
    prediction. The ids of two files for the same slide are the same.
    """
    looks = looks_of(predictions)
    with path.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        separator = "\n"
        for feature in _features(predictions, tiles, origin):
            name = feature["properties"]["classification"]
            feature["properties"]["classification"] = {"name": name, "color": list(looks[name].color)}
            identity = json.dumps([slide_name, feature["properties"]["objectType"], name, feature["geometry"]])
            feature["id"] = str(uuid.uuid5(uuid.NAMESPACE_OID, identity))
            # One feature after the other: a map with a fine stride has a million tiles.
            file.write(separator + json.dumps(feature, ensure_ascii=False, allow_nan=False))
            separator = ",\n"
        file.write("\n]}\n")


def _features(predictions: SlidePredictions, tiles: bool, origin: tuple[float, float]) -> Iterator[dict[str, Any]]:
    x_edges, y_edges = (edges - start for edges, start in zip(predictions.lattice.cell_edges_level0(), origin))
    index = predictions.map_of(np.arange(len(predictions.positions)), -1)
    shown = predictions.shown
    classes = predictions.map_of(shown, -1)
    for number, name in enumerate(predictions.shown_names):
        areas, count = ndimage.label(classes == number)
        for area, window in enumerate(ndimage.find_objects(areas, max_label=count), start=1):
            inside = areas[window] == area
            members = index[window][inside]
            polygon = cells_to_polygon(inside, x_edges[window[1].start :], y_edges[window[0].start :])
            measurements = {
                "area mm2": float(len(members) * predictions.cell_area_mm2),
                "tissue mm2": float(predictions.tissue_mm2[members].sum()),
                "patches": len(members),
                **_probabilities(predictions, predictions.probabilities[members].mean(axis=0, dtype=np.float64)),
                **_unfamiliarity(predictions, members),
            }
            yield _feature(polygon, "annotation", name, measurements)
    entropies = predictions.entropy if tiles else ()
    for member, entropy in enumerate(entropies):
        row, column = predictions.positions[member]
        square = shapely.box(x_edges[column], y_edges[row], x_edges[column + 1], y_edges[row + 1])
        measurements = {**_probabilities(predictions, predictions.probabilities[member]), "entropy": float(entropy)}
        if predictions.unfamiliarity is not None:
            measurements["unfamiliarity"] = round(float(predictions.unfamiliarity[member]), 6)
        yield _feature(square, "tile", predictions.shown_names[shown[member]], measurements)


def _unfamiliarity(predictions: SlidePredictions, members: np.ndarray) -> dict[str, float]:
    """Measurements of an area; none if the model does not know."""
    found = {}
    if predictions.unfamiliarity is not None:
        found["unfamiliarity"] = round(float(predictions.unfamiliarity[members].mean(dtype=np.float64)), 6)
    if predictions.is_unfamiliar is not None:
        found["unfamiliar %"] = round(float(100 * predictions.is_unfamiliar[members].mean()), 3)
    return found


def cells_to_polygon(cells: np.ndarray, x_edges: np.ndarray, y_edges: np.ndarray) -> shapely.Polygon:
    """The outline, with holes, of cells that are connected by their sides.

    Args:
        cells: bool `(rows, columns)`.
        x_edges: Edges of the columns, at least `(columns + 1,)`.
        y_edges: Edges of the rows, at least `(rows + 1,)`.
    """
    padded = np.pad(cells, ((0, 0), (1, 1))).astype(np.int8)
    row, start = np.nonzero(np.diff(padded, axis=1) == 1)
    _, end = np.nonzero(np.diff(padded, axis=1) == -1)
    # United in whole numbers, so that edges that meet are the same to the last digit.
    union = shapely.union_all(shapely.box(start, row, end, row + 1)).simplify(0)
    return shapely.transform(
        union, lambda points: np.stack([_at(x_edges, points[:, 0]), _at(y_edges, points[:, 1])], 1)
    )


def _at(edges: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    return edges[np.rint(numbers).astype(np.int64)]


def _probabilities(predictions: SlidePredictions, probabilities: np.ndarray) -> dict[str, float]:
    return {probability_name(name): round(float(p), 6) for name, p in zip(predictions.class_names, probabilities)}


def _feature(shape: Any, kind: str, class_name: str, measurements: dict[str, Any]) -> dict[str, Any]:
    geometry = shapely.geometry.mapping(shape)
    rounded = [[[round(x, _DECIMALS), round(y, _DECIMALS)] for x, y in ring] for ring in geometry["coordinates"]]
    return {
        "type": "Feature",
        "geometry": {"type": geometry["type"], "coordinates": rounded},
        "properties": {"objectType": kind, "classification": class_name, "measurements": measurements},
    }
