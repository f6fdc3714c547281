"""Drawn fields with known annotations, for the tests of building."""

import json

import numpy as np
from PIL import Image

MPP = 0.5
PATCH = 32


def field(seed, size=(320, 256)):
    """A field of tissue-coloured noise, uint8 `(height, width, 3)`; size is (width, height)."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 60, (size[1], size[0], 3)) + np.array([170, 90, 150])
    return pixels.clip(0, 255).astype(np.uint8)


def box(x0, y0, x1, y1):
    return [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]]


def feature(name, coordinates, kind="Polygon"):
    return {
        "type": "Feature",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": {"objectType": "annotation", "classification": {"name": name, "color": [200, 0, 0]}},
    }


def write_geojson(path, features):
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def write_field(folder, name, features, seed=0, size=(320, 256)):
    """A slide and its annotations; returns the slide's path."""
    (folder / "slides").mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    Image.fromarray(field(seed, size)).save(folder / "slides" / f"{name}.png")
    write_geojson(folder / "annotations" / f"{name}.geojson", features)
    return folder / "slides" / f"{name}.png"
