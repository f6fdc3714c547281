"""The examples of a query: drawn on a slide, predicted or labelled as a class, named by their place, or images."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .covering import covered, drawn_on
from .image_examples import embed_images
from .patch_index import PatchIndex
from .settings import QuerySettings

MOST = 256


@dataclass(frozen=True, eq=False)
class Examples:
    """What to search for.

    Attributes:
        vectors: Unit vectors, float32 `(n, hidden)`, at least one.
        rows: Of those that are patches of the index, int64.
        name: The class that they are examples of, "" if nobody said.
        remarks: A sentence each on what was left out or looks wrong.
    """

    vectors: np.ndarray
    rows: np.ndarray
    name: str
    remarks: tuple[str, ...] = ()


def find_examples(index: PatchIndex, settings: QuerySettings) -> Examples:
    """The examples that the settings name.

    Raises:
        ValueError: There are none, or they cannot be used.
        OSError: An image or the model cannot be read.
    """
    if settings.images:
        vectors = embed_images(settings.images, str(settings.model), settings.revision, index)
        return Examples(vectors, np.empty(0, dtype=np.int64), "")
    find: Callable[[PatchIndex, QuerySettings], tuple[np.ndarray, str, list[str]]] = _named
    if settings.annotation is not None:
        find = _drawn
    elif settings.predictions or settings.labels:
        find = _of_class
    rows, name, remarks = find(index, settings)
    used = rows
    if settings.combine == "max" and len(rows) > MOST:
        used = np.sort(np.random.default_rng(settings.seed).choice(rows, MOST, replace=False))
        remarks.append(f"Of {len(rows):,} examples {MOST} were drawn, as --combine max compares with each of them.")
    return Examples(index.vectors(used), rows, name, tuple(remarks))


def _drawn(index: PatchIndex, settings: QuerySettings) -> tuple[np.ndarray, str, list[str]]:
    path, slide = Path(str(settings.annotation)), str(settings.slide)
    if slide not in index.slides:
        raise ValueError(f"The index has no slide {slide!r}, expected one of {_some(sorted(index.slides))}.")
    drawn = drawn_on(path, slide, index.slides[slide])
    classes = sorted({one.class_name for one in drawn.annotations})
    if settings.class_name is None and len(classes) > 1:
        raise ValueError(f"{path} has annotations of the classes {_some(classes)}: choose one with --class.")
    wanted = settings.class_name if settings.class_name is not None else "".join(classes)
    chosen = [one for one in drawn.annotations if one.class_name == wanted]
    if not chosen:
        raise ValueError(f"{path} has no annotations of the class {wanted!r}; it has {_some(classes) or 'none'}.")
    rows = covered(index.patches, slide, chosen)
    if not len(rows):
        raise ValueError(f"The {len(chosen)} annotations of {path} cover no patch of the slide {slide} in the index.")
    return rows, wanted, list(drawn.remarks)


def _of_class(index: PatchIndex, settings: QuerySettings) -> tuple[np.ndarray, str, list[str]]:
    """All patches of a label, or those that the model is surest of; a label has no probability."""
    name = str(settings.class_name)
    rows, probabilities = index.patches.of_class(name), index.patches.column("probability")
    labelled = np.isnan(probabilities[rows])
    rows = rows[labelled if settings.labels else ~labelled]
    if not len(rows):
        what = "labelled" if settings.labels else "predicted"
        raise ValueError(f"The index has no patch {what} as {name!r}; its classes are {_some(index.classes)}.")
    if settings.labels or len(rows) <= MOST:
        return rows, name, []
    surest = rows[np.argsort(-probabilities[rows], kind="stable")[:MOST]]
    return np.sort(surest), name, [f"Of {len(rows):,} patches predicted as {name} the {MOST} surest are the examples."]


def _named(index: PatchIndex, settings: QuerySettings) -> tuple[np.ndarray, str, list[str]]:
    rows = [_patch_at(index, text) for text in settings.patches]
    return np.unique(np.array(rows, dtype=np.int64)), settings.class_name or "", []


def _patch_at(index: PatchIndex, text: str) -> int:
    """The patch of a text SLIDE:X,Y whose centre is nearest to the point, which lies in it."""
    slide, _, point = text.rpartition(":")
    try:
        x, y = (float(number) for number in point.split(","))
    except ValueError as error:
        raise ValueError(f"--patch must be SLIDE:X,Y with X and Y in level-0 px, got {text!r}.") from error
    rows = index.patches.on_slide(slide)
    if not len(rows):
        raise ValueError(f"--patch {text}: the index has no slide {slide!r}, expected {_some(sorted(index.slides))}.")
    boxes = index.patches.boxes[rows]
    distance = np.abs(boxes[:, :2] + boxes[:, 2:] / 2 - (x, y))
    nearest = int(np.argmin(distance.max(axis=1)))
    if not (distance[nearest] <= boxes[nearest, 2:] / 2).all():
        raise ValueError(f"--patch {text}: there is no patch of the index at this place; is there tissue?")
    return int(rows[nearest])


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:20])) + (f" and {len(names) - 20} others" if len(names) > 20 else "")
