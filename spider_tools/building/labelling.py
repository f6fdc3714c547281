"""The class of every patch of a slide, from the polygons on it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Optional

import numpy as np
import shapely

from ..annotations.reading import Annotation, read_annotations
from ..plain_text import escaped
from ..slide_files.lattice import Lattice
from ..slide_files.reader import open_slide
from ..slide_files.slide import Slide
from ..slide_files.slide_error import SlideError
from ..slide_files.view import SlideView, model_scale
from ..suggestions import is_suggestion
from ..tissue.tissue_mask import find_tissue
from .cases import Case
from .coverage import nearest_objects, overlaps, patch_boxes, shares
from .settings import BuildSettings

CONTEXT_SIZE = 5  # of the SPIDER layout
_LEAST_SCALE = 0.5
_GLASS = 0.05  # less tissue than this in a patch is none
_NAMES_OF_GLASS = ("background", "glass", "blank", "white", "empty")


@dataclass(frozen=True, eq=False)
class Drawn:
    """What was drawn on a slide.

    Attributes:
        annotations: Areas by class.
        ignored: Areas of which nobody has said what they are.
        remarks: What a reader has to know, a sentence each.
    """

    annotations: list[Annotation]
    ignored: list[shapely.Polygon]
    remarks: list[str]


@dataclass(frozen=True, eq=False)
class LabelledSlide:
    """What is on a slide.

    Attributes:
        name: Of the slide.
        identity: What tells it from others, in the form of JSON.
        mpp: um per px of the patches, `(x, y)`.
        lattice: Where its patches lie.
        positions: int64 `(n, 2)`, `(row, column)` of patches with a class on the lattice.
        classes: Their classes, `n` names.
        objects: int64 `(n,)`, the drawn object that covers most of each, -1 for the unannotated.
        coverage: float64 `(n,)`, share of the patch that its class covers.
        corners_level0: float64 `(n, 2)`, x and y of the upper left px.
        remarks: What a reader has to know, a sentence each.
        polygons: What was drawn, by class, in level-0 px.
    """

    name: str
    identity: dict
    mpp: tuple[float, float]
    lattice: Lattice
    positions: np.ndarray
    classes: list[str]
    objects: np.ndarray
    coverage: np.ndarray
    corners_level0: np.ndarray
    remarks: tuple[str, ...] = ()
    polygons: Mapping[str, list[shapely.Polygon]] = field(default_factory=dict)


def open_case(case: Case, settings: BuildSettings) -> tuple[Slide, SlideView, Lattice]:
    """A slide, its px at the target um/px, and where its patches lie.

    Raises:
        SlideError: It cannot be opened, is coarser than the target, or smaller than a patch.
    """
    slide = open_slide(case.task.path, case.task.mpp or settings.mpp)
    view = SlideView(slide, _scale_of(slide, settings))
    lattice = Lattice(settings.patch_size, settings.central_stride, CONTEXT_SIZE, view.size, view.scale)
    if min(lattice.shape) < 1:
        raise SlideError(
            f"{slide.path} has {view.size[0]} x {view.size[1]} px (width x height) at {settings.target_mpp:g} um/px, "
            f"smaller than one patch of {settings.patch_size} px."
        )
    return slide, view, lattice


def _scale_of(slide: Slide, settings: BuildSettings) -> tuple[float, float]:
    """Level-0 px per px of a patch."""
    enlarged = (settings.target_mpp / slide.mpp[0], settings.target_mpp / slide.mpp[1])
    if settings.upsample and _LEAST_SCALE <= min(enlarged) and max(enlarged) < 1 - settings.mpp_tolerance:
        return enlarged
    if max(slide.mpp) > settings.target_mpp * (1 + settings.mpp_tolerance):
        raise SlideError(
            f"{slide.path} has {slide.mpp[0]:g} x {slide.mpp[1]:g} um/px at full resolution, which is coarser than "
            f"--target_mpp {settings.target_mpp:g}. If the slide's um/px are wrong, give the true value as --mpp; "
            "--upsample enlarges slides up to twice."
        )
    return model_scale(slide, settings.target_mpp, settings.mpp_tolerance)


def read_case(case: Case, slide: Slide) -> Drawn:
    """What was drawn on a slide, in all files of its annotations.

    Raises:
        ValueError: The annotations cannot be used.
    """
    files = [read_annotations(path, slide.frame) for path in case.annotations]
    annotations: list[Annotation] = []
    for file in files:
        first = 1 + max((a.number for a in annotations), default=-1)
        annotations += [replace(a, number=a.number + first) for a in file.annotations]
    return Drawn(annotations, [s for file in files for s in file.ignored], [r for file in files for r in file.remarks])


def label_slide(case: Case, settings: BuildSettings, mapping: Mapping[str, Optional[str]]) -> LabelledSlide:
    """Give every patch its class: the one that covers at least `min_coverage` of it, all others `max_other` at most.

    Args:
        case: With annotations.
        settings: See there.
        mapping: New name of a drawn class, None for one that is dropped; others keep theirs.

    Raises:
        SlideError, ValueError: The slide or its annotations cannot be used.
    """
    slide, view, lattice = open_case(case, settings)
    found = read_case(case, slide)
    named = [(mapping.get(a.class_name, a.class_name), a) for a in found.annotations]
    kept = [(name, a) for name, a in named if name is not None and not is_suggestion(name)]
    polygons: dict[str, list[shapely.Polygon]] = {}
    for name, annotation in kept:
        polygons.setdefault(name, []).append(annotation.shape)
    positions = np.argwhere(np.ones(lattice.shape, dtype=bool))
    corners = lattice.level0(lattice.corners(positions))
    boxes = patch_boxes(corners, tuple(lattice.level0(np.full((1, 2), float(lattice.patch_size)))[0]))
    tissue = find_tissue(slide, lattice).share(lattice)[tuple(positions.T)]
    covered = {name: shares(boxes, shapes) for name, shapes in sorted(polygons.items())}
    remarks = [*found.remarks, *_of_overlaps(case, polygons, slide)]
    if settings.unannotated is not None and case.fully_annotated:
        drawn = [*(a.shape for a in found.annotations), *found.ignored]
        rest = np.where(tissue >= 0.5, 1 - shares(boxes, drawn), 0.0)
        covered[settings.unannotated] = np.maximum(rest, covered.get(settings.unannotated, 0.0))
    classes, coverage = _classes(covered, settings)
    labelled = np.array([name is not None for name in classes], dtype=bool)
    remarks += _of_glass(case, classes, tissue)
    return LabelledSlide(
        name=case.task.name,
        identity=slide.identity,
        mpp=view.mpp,
        lattice=lattice,
        positions=positions[labelled],
        classes=[name for name in classes if name is not None],
        objects=_objects(boxes[labelled], [name for name in classes if name is not None], kept),
        coverage=coverage[labelled],
        corners_level0=corners[labelled],
        remarks=tuple(remarks),
        polygons=polygons,
    )


def _classes(covered: Mapping[str, np.ndarray], settings: BuildSettings) -> tuple[list[Optional[str]], np.ndarray]:
    """The class of each patch, None for one of none, and the share of it that the class covers."""
    if not covered:
        return [], np.empty(0)
    names = list(covered)
    table = np.stack([covered[name] for name in names])  # (classes, patches)
    best = table.argmax(axis=0)
    most = table.max(axis=0)
    others = np.where(np.arange(len(names))[:, None] == best, 0.0, table).max(axis=0)
    clear = (most >= settings.min_coverage) & (others <= settings.max_other)
    return [names[i] if ok else None for i, ok in zip(best.tolist(), clear.tolist())], most


def _objects(boxes: np.ndarray, classes: list[str], kept: list[tuple[str, Annotation]]) -> np.ndarray:
    objects = np.full(len(boxes), -1, dtype=np.int64)
    names = np.array(classes, dtype=object)
    for name in dict.fromkeys(classes):
        rows = np.flatnonzero(names == name)
        own = [annotation for other, annotation in kept if other == name]
        objects[rows] = nearest_objects(boxes[rows], [a.shape for a in own], [a.number for a in own])
    return objects


def _of_overlaps(case: Case, polygons: Mapping[str, list[shapely.Polygon]], slide: Slide) -> list[str]:
    mm2 = slide.mpp[0] * slide.mpp[1] / 1e6
    return [
        f"{escaped(case.task.name)}: {one!r} and {other!r} overlap on {area * mm2:.3g} mm2; where both cover too much "
        "of a patch, it has no class."
        for (one, other), area in overlaps(polygons).items()
    ]


def _of_glass(case: Case, classes: list[Optional[str]], tissue: np.ndarray) -> list[str]:
    counts: dict[str, int] = {}
    for name, share in zip(classes, tissue.tolist()):
        if name is not None and share < _GLASS and name.casefold() not in _NAMES_OF_GLASS:
            counts[name] = counts.get(name, 0) + 1
    return [
        f"{escaped(case.task.name)}: {count} patches of {name!r} show no tissue: look at its contact sheet."
        for name, count in counts.items()
    ]
