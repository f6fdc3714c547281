"""Annotations of real tissue: the glands of GlaS, as GeoJSON."""

import json

import numpy as np
import shapely
from PIL import Image

from spider_tools.annotations.frame import Frame
from spider_tools.annotations.reading import find_annotations, read_annotations


def test_every_field_of_glas_is_read_whole(shared_folder):
    folder = shared_folder("datasets") / "GlaS-fields"
    slides = sorted(path for path in (folder / "slides").iterdir() if path.is_file())
    counts = []
    for slide in slides:
        with Image.open(slide) as image:
            size = image.size
        path = find_annotations(folder / "annotations", slide.stem)
        found = read_annotations(path, Frame(slide.name, size, (0.5, 0.5), (0, 0, *size)))
        features = json.loads(path.read_text())["features"]
        drawn = sum(shapely.from_geojson(json.dumps(row["geometry"])).area for row in features)
        # shapely's own reading of the same, which may differ where a line crosses itself
        np.testing.assert_allclose(sum(one.shape.area for one in found.annotations), drawn, rtol=1e-3)
        assert {one.number for one in found.annotations} == set(range(len(features)))
        counts.append((len(features), {one.class_name for one in found.annotations}))
    assert len(counts) > 50
    assert set().union(*(names for _, names in counts)) >= {"Gland healthy"}
