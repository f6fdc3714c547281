"""Which cells of a slide hold tissue: found by Otsu's threshold on saturation, or drawn by the user."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np
import shapely
from PIL import Image, ImageDraw
from scipy import ndimage

from ..images import DECODING_ERRORS, is_marked
from .lattice import Lattice
from .reader import Slide, SlideError
from .view import SlideView

# One px of the mask is a fourteenth of a patch, 8 um for a patch of 112 um.
_MASK_PX_PER_PATCH = 14
_LARGEST_MASK = 4096
# A slide without glass, or without tissue, has no valley between two peaks for Otsu to find. Glass is less saturated
# than the first value even if it is yellowish, stained tissue more than the second even if it is pale.
_SATURATION_RANGE = (0.05, 0.12)
_BLACK = 0.1  # below this brightness it is a marker's ink or unscanned, and its saturation means nothing
_CLOSING_RADIUS = 4  # px: closes fat cells and the lumina of glands
_SMALLEST_AREA = 40  # px: smaller is dust
_MASK_SUFFIXES = (".geojson", ".json", ".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")


@dataclass(frozen=True, eq=False)
class TissueMask:
    """Tissue at low magnification.

    Attributes:
        mask: bool `(height, width)`.
        scale: `(x, y)`, level-0 px per px of the mask.
        origin: How it was found, for the report.
    """

    mask: np.ndarray
    scale: tuple[float, float]
    origin: str

    def share(self, lattice: Lattice) -> np.ndarray:
        """Share of tissue in every cell, float64 of the lattice's shape, 0 to 1."""
        sums = np.pad(np.cumsum(np.cumsum(self.mask, axis=0, dtype=np.int64), axis=1), ((1, 0), (1, 0)))
        (left, right), (top, bottom) = (
            _nearest_px(edges / scale, length)
            for edges, scale, length in zip(lattice.cell_edges_level0(), self.scale, self.mask.shape[::-1])
        )
        counts = (
            sums[np.ix_(bottom, right)]
            - sums[np.ix_(top, right)]
            - sums[np.ix_(bottom, left)]
            + sums[np.ix_(top, left)]
        )
        return counts / np.outer(bottom - top, right - left)

    def cells(self, lattice: Lattice, min_tissue: float) -> np.ndarray:
        """Cells with at least this share of tissue, bool of the lattice's shape.

        Raises:
            SlideError: There are none.
        """
        share = self.share(lattice)
        cells = share >= min_tissue
        if not cells.any():
            raise SlideError(
                f"No tissue was found ({self.origin}): no cell has a share of {min_tissue:g}, the largest is "
                f"{share.max():.3f}. Draw the tissue yourself with --mask, or lower --min_tissue."
            )
        return cells


def find_tissue(slide: Slide, lattice: Lattice, drawn: Optional[Path] = None) -> TissueMask:
    """The tissue of a slide.

    Args:
        slide: Is read at low magnification.
        lattice: Says how large a patch is.
        drawn: An image whose px that are not black are tissue, or GeoJSON polygons in level-0 px.

    Raises:
        SlideError: The slide or the drawing cannot be used.
    """
    patch = [lattice.patch_size * factor / _MASK_PX_PER_PATCH for factor in lattice.scale]
    coarser = max(1.0, *(side / factor / _LARGEST_MASK for side, factor in zip(slide.size, patch)))
    # Neither finer than the slide nor so coarse that nothing is left of it.
    scale = tuple(min(max(1.0, factor * coarser), float(side)) for factor, side in zip(patch, slide.size))
    view = SlideView(slide, (scale[0], scale[1]))
    if drawn is None:
        mask, threshold = tissue_of(view.read_all())
        return TissueMask(mask, view.scale, f"saturation above {threshold:.3f}")
    if drawn.suffix.lower() in (".geojson", ".json"):
        return TissueMask(_mask_of_geojson(drawn, view), view.scale, f"polygons of {drawn.name}")
    return TissueMask(_mask_of_image(drawn, view), view.scale, f"image {drawn.name}")


def drawing_for(mask: Optional[Path], slide_name: str) -> Optional[Path]:
    """The drawing of one slide: the file itself, or the one of the slide's name in a folder.

    Raises:
        SlideError: There is none, or more than one.
    """
    if mask is None or mask.is_file():
        return mask
    if not mask.is_dir():
        raise SlideError(f"--mask {mask} is neither a file nor a folder.")
    found = [path for suffix in _MASK_SUFFIXES if (path := mask / f"{slide_name}{suffix}").is_file()]
    if len(found) != 1:
        raise SlideError(
            f"Expected one drawing of the tissue of {slide_name} in {mask}, an image or GeoJSON named like the slide, "
            f"got {[path.name for path in found] or 'none'}."
        )
    return found[0]


def tissue_of(pixels: np.ndarray) -> tuple[np.ndarray, float]:
    """Tissue by its saturation.

    Args:
        pixels: uint8 `(height, width, 3)` at about 8 um/px.

    Returns:
        The mask, bool `(height, width)`, and the threshold, saturation in [0, 1].
    """
    brightest = pixels.max(axis=2).astype(np.float32)
    spread = brightest - pixels.min(axis=2)
    saturation = np.divide(spread, brightest, out=np.zeros_like(brightest), where=brightest > 255 * _BLACK)
    threshold = float(np.clip(otsu_threshold(saturation), *_SATURATION_RANGE))
    mask = ndimage.median_filter(saturation, size=3) > threshold
    y, x = np.ogrid[-_CLOSING_RADIUS : _CLOSING_RADIUS + 1, -_CLOSING_RADIUS : _CLOSING_RADIUS + 1]
    # Padded, so that closing does not eat tissue at the edge of the slide.
    padded = np.pad(mask, _CLOSING_RADIUS, mode="edge")
    disk = x**2 + y**2 <= _CLOSING_RADIUS**2
    closed = ndimage.binary_closing(padded, disk)[_CLOSING_RADIUS:-_CLOSING_RADIUS, _CLOSING_RADIUS:-_CLOSING_RADIUS]
    pieces, _ = ndimage.label(closed)
    large = np.bincount(pieces.ravel()) >= min(_SMALLEST_AREA, mask.size)
    large[0] = False
    return large[pieces], threshold


def otsu_threshold(values: np.ndarray, bins: int = 256) -> float:
    """The threshold between two classes of values in [0, 1] with the largest variance between them (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=bins, range=(0, 1))
    centers = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    mass = np.cumsum(counts * centers)
    mean_below = mass / np.maximum(below, 1)
    mean_above = (mass[-1] - mass) / np.maximum(above, 1)
    return float(edges[1 + np.argmax(below * above * (mean_below - mean_above) ** 2)])


def _nearest_px(edges: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """First px of every cell, and one beyond its last, at least one px for each."""
    px = np.rint(edges).astype(np.int64)
    first = np.clip(px[:-1], 0, length - 1)
    return first, np.clip(np.maximum(px[1:], first + 1), 1, length)


def _mask_of_image(path: Path, view: SlideView) -> np.ndarray:
    try:
        with Image.open(path) as image:
            marked = Image.fromarray(is_marked(image))
    except DECODING_ERRORS as error:
        raise SlideError(f"The mask {path} is no image that Pillow reads: {error}.") from error
    # Aspect ratios differ by the rounding of the smaller image, one px, at least.
    expected, got = view.slide.size[0] / view.slide.size[1], marked.width / marked.height
    if abs(got / expected - 1) > max(0.02, 1.5 / min(marked.size)):
        raise SlideError(
            f"The mask {path} has {marked.width} x {marked.height} px, which has not the shape of the slide, "
            f"{view.slide.size[0]} x {view.slide.size[1]} px (width x height)."
        )
    return np.asarray(marked.convert("L").resize(view.size, Image.Resampling.BOX)) >= 128


def _mask_of_geojson(path: Path, view: SlideView) -> np.ndarray:
    mask = np.zeros(view.size[::-1], dtype=bool)
    for polygon in _polygons(path):
        # A hole is cut out of its own polygon only: another one may lie inside. So each is drawn by itself.
        corner = np.floor(np.asarray(polygon.bounds[:2]) / view.scale).astype(int).clip(0)
        end = np.ceil(np.asarray(polygon.bounds[2:]) / view.scale).astype(int).clip(max=view.size)
        if (end > corner).all():
            canvas = Image.new("1", tuple((end - corner).tolist()))
            pencil = ImageDraw.Draw(canvas)
            for ring, ink in [(polygon.exterior, 1), *((hole, 0) for hole in polygon.interiors)]:
                # Pillow has whole numbers at the centres of px.
                points = np.asarray(ring.coords)[:, :2] / view.scale - corner - 0.5
                pencil.polygon([(float(x), float(y)) for x, y in points], fill=ink)
            mask[corner[1] : end[1], corner[0] : end[0]] |= np.asarray(canvas)
    return mask


def _polygons(path: Path) -> list[Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        shapes = shapely.get_parts([shapely.from_geojson(json.dumps(g)) for g in _geometries(content)]).tolist()
    except (OSError, ValueError, TypeError, KeyError, shapely.errors.ShapelyError) as error:
        raise SlideError(f"The mask {path} is no GeoJSON of polygons: {error}.") from error
    wrong = sorted({shape.geom_type for shape in shapes} - {"Polygon"})
    if wrong or not shapes:
        raise SlideError(f"The mask {path} holds {wrong or 'nothing'}, expected polygons in level-0 px.")
    return shapes


def _geometries(content: Any) -> list[dict[str, Any]]:
    """The geometries of GeoJSON: of a FeatureCollection, a Feature, a list of these as QuPath writes it, or itself."""
    if isinstance(content, list):
        return [geometry for part in content for geometry in _geometries(part)]
    if content["type"] == "FeatureCollection":
        return _geometries(content["features"])
    return _geometries(content["geometry"]) if content["type"] == "Feature" else [content]
