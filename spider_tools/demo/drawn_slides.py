"""Whole synthetic slides with annotations as a pathologist draws them, for the loop from slides to a model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..files import replacing, write_text
from .synthetic import CONTEXT_RADIUS, SlidePlan, SyntheticSettings

MPP = 0.5


def write_slides(folder: Path, settings: SyntheticSettings, share: float = 1.0) -> None:
    """Draw slides as PNG files, outline some of what they show, and write `slides.csv`.

    Two neighbouring slides are of one patient. `annotations/` holds GeoJSON as QuPath exports it, a square for each
    outlined patch; `truth/<slide>.json` the class of every patch, by rows.

    Args:
        folder: Written to; made if absent.
        settings: How much to draw; all `train_slides + test_slides` are slides like any other.
        share: Of the patches that are outlined, chosen at random; the demo's records are what there is to choose from.
    """
    rows = ["slide,patient,mpp,annotations"]
    for number in range(settings.train_slides + settings.test_slides):
        name = f"slide_{number:03d}"
        plan = SlidePlan.draw(settings, number)
        cells = range(settings.lattice)
        truth = [[plan.tissue_at(row, column) for column in cells] for row in cells]
        inner = cells[CONTEXT_RADIUS:-CONTEXT_RADIUS]
        classes = {(r, c): found for r in inner for c in inner if (found := plan.class_of(r, c)) is not None}
        outlined = np.random.default_rng([settings.seed, number, 1]).random(len(classes)) < share
        kept = {place: name for (place, name), keep in zip(classes.items(), outlined) if keep}
        for part in ("slides", "annotations", "truth"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        write_text(folder / "annotations" / f"{name}.geojson", json.dumps(annotations_of(kept, settings.patch_size)))
        write_text(folder / "truth" / f"{name}.json", json.dumps(truth))
        with replacing(folder / "slides" / f"{name}.png") as unfinished:
            Image.fromarray(plan.paint()).save(unfinished, format="png", compress_level=1)
        rows.append(f"slides/{name}.png,patient_{number // 2:02d},{MPP},annotations/{name}.geojson")
    write_text(folder / "slides.csv", "\n".join(rows) + "\n")


def annotations_of(classes: Mapping[tuple[int, int], str], size: int) -> dict[str, Any]:
    """Squares of patches, by `(row, column)`, as a GeoJSON FeatureCollection of QuPath."""
    return {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [_square(row * size, column * size, size)]},
                "properties": {"objectType": "annotation", "classification": {"name": name}},
            }
            for (row, column), name in classes.items()
        ],
    }


def _square(top: int, left: int, size: int) -> list[list[int]]:
    return [[left, top], [left + size, top], [left + size, top + size], [left, top + size], [left, top]]
