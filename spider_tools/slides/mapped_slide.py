"""A slide that is classified, and what its folder gets of that: pictures, tables, report, and what slide.json says."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .. import __version__
from ..files import Writer, bytes_writer, replacing, text_writer
from ..tissue.tissue_mask import TissueMask
from . import outputs, pictures
from .colors import looks_of
from .composition import composition_csv, make_composition
from .facts import limits, make_facts, unfamiliar_warning, warnings
from .html_report import SlideMap, make_report
from .output_files import GEOJSON_NAME, TABLE_NAME
from .polygons import write_geojson
from .predictions import SlidePredictions
from .preparing import PreparedSlide
from .report_map import make_map
from .report_patches import patch_pictures
from .report_tiles import make_tiles


def save_preview(prepared: PreparedSlide, thumbnail: pictures.Thumbnail, mask: TissueMask) -> bytes:
    """The picture of the tissue, which is there to look at before the long work, unless an earlier result is."""
    settings = prepared.settings
    cells = mask.share(prepared.lattice) >= settings.min_tissue
    preview = outputs.as_png(pictures.draw_tissue(thumbnail, mask, cells, prepared.lattice, prepared.slide.mpp))
    if not (prepared.folder / outputs.MARKER_NAME).exists():
        with replacing(prepared.folder / outputs.TISSUE_NAME) as unfinished:
            unfinished.write_bytes(preview)
    return preview


@dataclass(frozen=True, eq=False)
class MappedSlide:
    """A slide whose tissue is classified.

    Attributes:
        prepared: The slide.
        thumbnail: What pictures show of it.
        mask: Its tissue.
        preview: The picture of that, of `save_preview`.
        predictions: The classes.
        embedded: Number of patches with an embedding.
        damage: What could not be read, as a sentence, "" if all could.
    """

    prepared: PreparedSlide
    thumbnail: pictures.Thumbnail
    mask: TissueMask
    preview: bytes
    predictions: SlidePredictions
    embedded: int
    damage: str

    @cached_property
    def facts(self) -> Mapping[str, Any]:
        """What was done, by title."""
        return {
            **make_facts(self.prepared, self.mask, self.predictions),
            "Patches embedded, context included": self.embedded,
            **({"Damage": self.damage} if self.damage else {}),
        }

    @property
    def warnings(self) -> list[str]:
        """What a reader must know before the map, a sentence each."""
        told = [*warnings(self.prepared), *self.mask.warnings, *unfamiliar_warning(self.predictions)]
        return [*told, self.damage] if self.damage else told

    def marker(self) -> dict[str, Any]:
        """The content of slide.json, but for how long it took."""
        prepared, left_out = self.prepared, self.mask.left_out
        return {
            "spider_tools": __version__,
            "request": prepared.request,
            "geojson_origin_level0": prepared.slide.bounds[:2],
            # What Hamamatsu's annotations count from and by, for those who read them without the slide.
            "center_offset_nm": prepared.slide.center_offset_nm,
            "own_mpp": prepared.slide.own_mpp,
            "import": prepared.imported,
            "facts": self.facts,
            "warnings": self.warnings,
            "left_out": None if left_out is None else left_out.as_json(),
        }

    def writers(self) -> dict[str, Writer]:
        """By name of the file, what writes it."""
        name, predictions = self.prepared.task.name, self.predictions
        composition = make_composition(predictions)
        images = {
            "overview.png": outputs.as_png(pictures.draw_overview(self.thumbnail, predictions, name)),
            "heatmaps.png": outputs.as_png(pictures.draw_heatmaps(self.thumbnail, predictions, name)),
            outputs.TISSUE_NAME: self.preview,
        }
        told = (self.facts, limits(predictions), images, self.warnings, looks_of(predictions))
        report = make_report(name, composition, *told, self._map(composition))
        return {
            **self._usual_writers(),
            "composition.csv": text_writer(composition_csv(composition)),
            "composition.json": text_writer(json.dumps(composition, indent=1, ensure_ascii=False) + "\n"),
            "report.html": text_writer(report),
            **{file: bytes_writer(content) for file, content in images.items()},
        }

    def _map(self, composition: dict[str, Any]) -> SlideMap:
        prepared, predictions = self.prepared, self.predictions
        cells = predictions.map_of(np.ones(len(predictions.positions), dtype=bool), False)
        tiles = make_tiles(prepared.slide, prepared.lattice, cells, max(prepared.view.mpp))
        data = make_map(prepared.slide, predictions, tiles, looks_of(predictions))
        return SlideMap(data, patch_pictures(prepared.view, predictions), composition)

    def _usual_writers(self) -> dict[str, Writer]:
        prepared, predictions = self.prepared, self.predictions
        name, tiles, origin = prepared.task.name, prepared.settings.tiles, prepared.slide.bounds[:2]
        writers: dict[str, tuple[str, Writer]] = {
            "geojson": (GEOJSON_NAME, lambda path: write_geojson(path, predictions, name, tiles, origin)),
            "parquet": (TABLE_NAME, outputs.table_writer(predictions)),
        }
        return dict(writers[output] for output in writers if output in prepared.outputs)
