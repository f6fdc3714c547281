"""A file of annotations as polygons by class."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import shapely

from ..plain_text import escaped
from .asap import read_asap
from .classes import IGNORED, WITHOUT_A_CLASS, is_ignored
from .drawn import DrawnObject, Tally
from .frame import Frame
from .geojson import read_geojson
from .holes import cut_holes
from .imagescope import read_imagescope
from .ndpa import read_ndpa
from .placing import Window, clip_to_slide, doubt_about_scale
from .shapes import shape_of
from .xml_text import parse_xml

_SUFFIXES = (".geojson", ".json", ".xml", ".ndpa")
_SLIDE_SUFFIXES = (
    *(".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide", ".vms", ".vmu", ".czi", ".dcm"),
    *(".png", ".jpg", ".jpeg", ".bmp", ".webp"),
)
_MAX_BYTES = 500_000_000
_BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Annotation:
    """An area that was drawn, or one of several of a drawn object.

    Attributes:
        class_name: Never empty.
        shape: Valid and not empty, with its holes, in level-0 px from OpenSlide's corner.
        number: Of the drawn object in the file, from 0 on.
    """

    class_name: str
    shape: shapely.Polygon
    number: int


@dataclass(frozen=True)
class AnnotationFile:
    """What a file of annotations holds.

    Attributes:
        path: The file.
        annotations: In the order of the file; none where nothing that was drawn has a class and an area.
        remarks: A sentence each, with the file's name, on what was repaired, left out or looks wrong.
        ignored: Areas that were drawn without a class, or with one to be ignored, as `Annotation.shape`: nobody has
            said what is there.
    """

    path: Path
    annotations: tuple[Annotation, ...]
    remarks: tuple[str, ...]
    ignored: tuple[shapely.Polygon, ...] = ()


def read_annotations(path: Path, frame: Frame) -> AnnotationFile:
    """Read what was drawn on a slide: GeoJSON of QuPath, XML of ASAP or ImageScope, or NDPA of Hamamatsu.

    Args:
        path: The file. Its content says what it is, not its name.
        frame: Of the slide that it was drawn on.

    Raises:
        ValueError: The file cannot be read or is none of these, or most of it lies outside of the slide.
    """
    tally = Tally()
    try:
        drawn, window = _drawn_in(_content_of(path), frame, tally)
        shapes = {one.number: shape for one in drawn if (shape := shape_of(one, tally)) is not None}
        shapes = clip_to_slide(cut_holes(drawn, shapes, tally), frame, tally)
    except RecursionError as error:
        raise ValueError(f"The annotations {path} cannot be read: they are nested too deeply.") from error
    except OSError as error:
        raise ValueError(f"The annotations {path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, shapely.errors.ShapelyError) as error:
        raise ValueError(f"The annotations {path} cannot be used: {error}.") from error
    annotations, ignored = _by_class(drawn, shapes, tally)
    doubt = doubt_about_scale(shapes, window) if window else None
    remarks = _remarks(escaped(path.name), bool(annotations), tally, doubt)
    return AnnotationFile(path, annotations, tuple(remarks), ignored)


def find_annotations(folder_or_file: Path, slide_name: str) -> Optional[Path]:
    """The annotations of one slide: the file itself, or the one of the slide's name in a folder, None without one.

    Args:
        folder_or_file: A folder's files are named like their slide, with or without its suffix: a.xml, a.svs.xml.
        slide_name: Without the suffix of its file.

    Raises:
        ValueError: There is no such file or folder, or the folder has several for the slide.
    """
    if folder_or_file.is_file():
        return folder_or_file
    if not folder_or_file.is_dir():
        raise ValueError(f"The annotations {folder_or_file} are neither a file nor a folder.")
    found = sorted(path for path in folder_or_file.iterdir() if _is_named_like(path, slide_name) and path.is_file())
    if len(found) > 1:
        raise ValueError(
            f"Expected one file of annotations of {slide_name} in {folder_or_file}, got "
            f"{', '.join(path.name for path in found)}."
        )
    return found[0] if found else None


def _is_named_like(path: Path, slide_name: str) -> bool:
    if path.suffix.casefold() not in _SUFFIXES:
        return False
    named = Path(path.stem)  # pathlib knows the suffix of "a.svs" in "a.svs.xml"
    return str(named) == slide_name or (named.stem == slide_name and named.suffix.casefold() in _SLIDE_SUFFIXES)


def _by_class(
    drawn: list[DrawnObject], shapes: dict[int, Any], tally: Tally
) -> tuple[tuple[Annotation, ...], tuple[shapely.Polygon, ...]]:
    annotations: list[Annotation] = []
    ignored: list[shapely.Polygon] = []
    for one in drawn:
        parts = shapely.get_parts(shapes[one.number]).tolist() if one.number in shapes else []
        if one.class_name and not is_ignored(one.class_name):
            annotations += [Annotation(one.class_name, part, one.number) for part in parts]
        elif parts:
            tally.left_out[IGNORED if one.class_name else WITHOUT_A_CLASS] += 1
            ignored += parts
    return tuple(annotations), tuple(ignored)


def _content_of(path: Path) -> bytes:
    if not path.is_file():
        raise ValueError("there is no such file")
    if (size := path.stat().st_size) > _MAX_BYTES:
        raise ValueError(f"it has {size / 1e6:.0f} MB, expected at most {_MAX_BYTES / 1e6:.0f}")
    return path.read_bytes()


def _drawn_in(content: bytes, frame: Frame, tally: Tally) -> tuple[list[DrawnObject], Optional[Window]]:
    """The objects of a file, and the part of the slide in which it counts px, if it does."""
    if _first_character(content) in (b"{", b"["):
        return _geojson_objects(json.loads(content), frame, tally), frame.bounds
    if _first_character(content) != b"<":
        raise ValueError("it is neither GeoJSON nor XML")
    root = parse_xml(content)
    if root.tag == "annotations":
        return list(read_ndpa(root, frame, tally)), None
    if root.tag not in ("ASAP_Annotations", "Annotations"):
        raise ValueError(
            f"its XML holds {root.tag[:40]!r}, expected ASAP_Annotations of ASAP, Annotations of ImageScope, or "
            "annotations of Hamamatsu"
        )
    read = read_asap if root.tag == "ASAP_Annotations" else read_imagescope
    return list(read(root, tally)), (0, 0, *frame.size)


def _geojson_objects(content: Any, frame: Frame, tally: Tally) -> list[DrawnObject]:
    try:
        return list(read_geojson(content, frame, tally.left_out))
    except KeyError as error:
        raise ValueError(f"it is no GeoJSON of objects: {error} is missing") from error
    except (TypeError, AttributeError) as error:
        raise ValueError(f"it is no GeoJSON of objects: {error}") from error


def _first_character(content: bytes) -> bytes:
    """The first one that is no white space nor mark of an encoding, of text in UTF-8 or UTF-16."""
    start = content[:1000]
    for mark in _BYTE_ORDER_MARKS:
        start = start.removeprefix(mark)
    return start.replace(b"\0", b"").lstrip()[:1]


def _remarks(name: str, any_left: bool, tally: Tally, doubt: Optional[str]) -> Iterator[str]:
    for done, counts in (("left out", tally.left_out), ("taken with a change", tally.changed)):
        if reasons := sorted(reason for reason, count in counts.items() if count):
            yield f"{name}: {done}: {', '.join(f'{counts[reason]} {reason}' for reason in reasons)}."
    if not any_left:
        yield f"{name}: nothing that was drawn has both a class and an area."
    if doubt:
        yield f"{name}: {doubt}"
