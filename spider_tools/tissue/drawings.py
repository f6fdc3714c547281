"""Tissue that the user has drawn: as an image, or as GeoJSON with the coordinates of QuPath."""

import json
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import numpy as np
import shapely
from PIL import Image, ImageDraw

from ..annotations.geojson import geometries
from ..images import DECODING_ERRORS, is_marked
from ..slide_files.file_check import IMAGE_FORMATS
from ..slide_files.slide_error import SlideError
from ..slide_files.view import SlideView

logger = logging.getLogger(__name__)

GEOJSON_SUFFIXES = (".geojson", ".json")
_IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")
_PHOTOMETRIC, _COMPRESSION = 262, 259  # tags of a TIFF
_WHITE_IS_ZERO = 0
_FAX = (2, 3, 4)
_JPEG_BLACK = 64  # JPEG surrounds what is white on black with values up to about 40


def drawing_for(mask: Optional[Path], slide_name: str) -> Optional[Path]:
    """The drawing of one slide: the file itself, or the one of the slide's name in a folder.

    Raises:
        SlideError: There is none, or more than one.
    """
    if mask is None or mask.is_file():
        return mask
    if not mask.is_dir():
        raise SlideError(f"--mask {mask} is neither a file nor a folder.")
    suffixes = (*GEOJSON_SUFFIXES, *_IMAGE_SUFFIXES)
    found = [path for suffix in suffixes if (path := mask / f"{slide_name}{suffix}").is_file()]
    if len(found) != 1:
        raise SlideError(
            f"Expected one drawing of the tissue of {slide_name} in {mask}, an image or GeoJSON named like the slide, "
            f"got {[path.name for path in found] or 'none'}."
        )
    return found[0]


def read_drawing(path: Path, view: SlideView, origin: Optional[tuple[int, int]] = None) -> tuple[np.ndarray, str]:
    """Which px of a view a drawing marks.

    Args:
        path: GeoJSON whose coordinates begin where QuPath's do (see `Slide.bounds`), or an image of the whole slide or
            of what QuPath shows of it.
        view: Of the slide that was drawn on.
        origin: `(x, y)` in level-0 px where the coordinates of GeoJSON begin instead.

    Returns:
        bool `(height, width)`, and what kind of drawing it is.

    Raises:
        SlideError: The drawing cannot be used.
    """
    if path.suffix.lower() in GEOJSON_SUFFIXES:
        return _mask_of_polygons(_polygons(path), view, origin or view.slide.bounds[:2]), f"polygons of {path.name}"
    return _mask_of_image(path, view), f"image {path.name}"


def marked_px(image: Image.Image) -> np.ndarray:
    """Where an image marks something, bool `(height, width)`.

    With a palette it is where the index is not 0, whatever its colour: QuPath numbers its labels so. In a TIFF whose
    white is 0 it is where the value is not 0, unless it is a fax: tifffile writes arrays of bool so. Elsewhere it is
    what is neither black nor transparent, and in a JPEG what is clearly not black.
    """
    if image.mode == "P":
        return _marked_by_index(image)
    if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO and image.mode in ("1", "L"):
        if image.tag_v2.get(_COMPRESSION) not in _FAX:  # type: ignore[attr-defined]
            return np.asarray(image.convert("L")) < 255  # Pillow has turned the values round
    if image.format in ("JPEG", "MPO") or image.info.get("compression") == "jpeg":
        return np.asarray(image.convert("RGB")).max(axis=2) >= _JPEG_BLACK
    return is_marked(image)


def _marked_by_index(image: Image.Image) -> np.ndarray:
    numbers = np.asarray(image)
    colors = np.asarray(image.convert("RGBA"))
    marked = (numbers != 0) & (colors[..., 3] > 0)
    if (colors[~marked][:, :3] > 0).any() and marked.any() and not (colors[marked][:, :3] > 0).any():
        logger.warning(
            "A mask with a palette marks what has another number than 0: here all of that is black, and the rest is "
            "not. If it is meant the other way round, save it without a palette."
        )
    return marked


def _mask_of_image(path: Path, view: SlideView) -> np.ndarray:
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            marked = Image.fromarray(marked_px(image))
    except DECODING_ERRORS as error:
        raise SlideError(f"The mask {path} is no image ({', '.join(IMAGE_FORMATS)}): {error}.") from error
    x, y, width, height = _drawn_on(path, marked.size, view)
    left, top = round(x / view.scale[0]), round(y / view.scale[1])
    right, bottom = round((x + width) / view.scale[0]), round((y + height) / view.scale[1])
    size = (max(1, right - left), max(1, bottom - top))
    mask = np.zeros(view.size[::-1], dtype=bool)
    part = np.asarray(marked.convert("L").resize(size, Image.Resampling.BOX)) >= 128
    place = mask[max(top, 0) : bottom, max(left, 0) : right]
    place[...] = part[max(-top, 0) :, max(-left, 0) :][: place.shape[0], : place.shape[1]]
    return mask


def _drawn_on(path: Path, size: tuple[int, int], view: SlideView) -> tuple[int, int, int, int]:
    """What an image shows, in level-0 px: the whole slide, or what was scanned of it, by its shape."""
    slide = view.slide
    whole = (0, 0, *slide.size)
    for candidate in (whole, slide.bounds):
        if size == candidate[2:]:
            return candidate
    fitting = [candidate for candidate in (whole, slide.bounds) if _has_shape(size, candidate[2:])]
    if not fitting:
        scanned = "" if slide.bounds == whole else ", nor of what was scanned, {2} x {3} px".format(*slide.bounds)
        raise SlideError(
            f"The mask {path} has {size[0]} x {size[1]} px, which has not the shape of the slide, "
            f"{slide.size[0]} x {slide.size[1]} px (width x height){scanned}."
        )
    if len(set(fitting)) > 1:
        raise SlideError(
            f"The mask {path} has {size[0]} x {size[1]} px, which has the shape of the whole slide, {slide.size[0]} x "
            f"{slide.size[1]} px, and of what was scanned, which QuPath shows, {slide.bounds[2]} x {slide.bounds[3]} "
            "px. Draw it as GeoJSON, or with one px per level-0 px."
        )
    return fitting[0]


def _has_shape(size: tuple[int, int], full: tuple[int, int]) -> bool:
    # Aspect ratios differ by the rounding of the smaller image, one px, at least.
    return abs(size[0] / size[1] / (full[0] / full[1]) - 1) <= max(0.02, 1.5 / min(size))


def _mask_of_polygons(polygons: list[shapely.Polygon], view: SlideView, corner0: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(view.size[::-1], dtype=bool)
    origin = np.array(corner0)
    for polygon in polygons:
        # A hole is cut out of its own polygon only: another one may lie inside. So each is drawn by itself.
        first, last = ((np.asarray(polygon.bounds[i : i + 2]) + origin) / view.scale for i in (0, 2))
        corner = np.floor(first).clip(0, view.size).astype(int)
        end = np.ceil(last).clip(0, view.size).astype(int)
        if (end > corner).all():
            canvas = Image.new("1", tuple((end - corner).tolist()))
            pencil = ImageDraw.Draw(canvas)
            for ring, ink in [(polygon.exterior, 1), *((hole, 0) for hole in polygon.interiors)]:
                # Pillow has whole numbers at the centres of px.
                points = (np.asarray(ring.coords)[:, :2] + origin) / view.scale - corner - 0.5
                pencil.polygon([(float(x), float(y)) for x, y in points], fill=ink)
            mask[corner[1] : end[1], corner[0] : end[0]] |= np.asarray(canvas)
    return mask


def _polygons(path: Path) -> list[shapely.Polygon]:
    """The polygons that are not ignored; what is left out is counted and told."""
    left_out: Counter[str] = Counter()
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))  # with or without the mark of Windows editors
        shapes = [shapely.from_geojson(json.dumps(g)) for g in geometries(content, left_out)]
        polygons = [polygon for shape in shapes for polygon in _parts(shape)]
    except RecursionError as error:
        raise SlideError(f"The mask {path} is no GeoJSON of polygons: it is nested too deeply.") from error
    except (OSError, ValueError, TypeError, KeyError, shapely.errors.ShapelyError) as error:
        raise SlideError(f"The mask {path} is no GeoJSON of polygons: {error}.") from error
    left_out["empty"] += sum(polygon.is_empty for polygon in polygons)
    polygons = [polygon for polygon in polygons if not polygon.is_empty]
    kinds = sorted(kind for kind, count in left_out.items() if count)
    if not polygons:
        raise SlideError(f"The mask {path} holds {kinds or 'nothing'}, expected polygons in level-0 px.")
    if kinds:
        counts = ", ".join(f"{left_out[kind]} {kind}" for kind in kinds)
        logger.warning("Of the mask %s the polygons are taken, and left out: %s.", path, counts)
    return polygons


def _parts(shape: Any) -> Iterator[shapely.Polygon]:
    for part in shapely.get_parts(shape).tolist():
        if part.geom_type != "Polygon":
            raise ValueError(f"a {part.geom_type} where a polygon was expected")
        yield part
