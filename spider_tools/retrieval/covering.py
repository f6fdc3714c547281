"""Which patches of a slide lie under what was drawn on it."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import shapely

from ..annotations.reading import Annotation, AnnotationFile, find_annotations, read_annotations
from ..suggestions import is_suggestion
from .patches import Patches
from .result_folder import SlideFacts

logger = logging.getLogger(__name__)

_LEAST_SHARE = 0.5


def drawn_on(path: Path, name: str, facts: SlideFacts) -> AnnotationFile:
    """What a pathologist has drawn on a slide; what was suggested and not renamed is left out.

    Raises:
        ValueError: See `read_annotations`.
    """
    read = read_annotations(path, facts.frame(name))
    checked = tuple(one for one in read.annotations if not is_suggestion(one.class_name))
    return AnnotationFile(read.path, checked, read.remarks)


def covered(patches: Patches, slide: str, annotations: Sequence[Annotation]) -> np.ndarray:
    """Rows of the patches of a slide under annotations, int64, ascending.

    A patch is under an annotation that covers at least half of it. An annotation that covers no patch by half counts
    for the one that it covers most of: small structures are drawn too.
    """
    rows = patches.on_slide(slide)
    if not len(rows):
        return rows
    x, y, width, height = patches.boxes[rows].T
    boxes = shapely.box(x, y, x + width, y + height)
    tree = shapely.STRtree(boxes)
    under: set[int] = set()
    for annotation in annotations:
        near = tree.query(annotation.shape, predicate="intersects")
        shares = shapely.area(shapely.intersection(boxes[near], annotation.shape)) / shapely.area(boxes[near])
        enough = near[shares >= _LEAST_SHARE]
        if not len(enough) and len(near) and shares.max() > 0:
            enough = near[[shares.argmax()]]
        under.update(enough.tolist())
    return rows[sorted(under)]


def annotated(patches: Patches, slides: dict[str, SlideFacts], folder: Path) -> tuple[np.ndarray, list[str]]:
    """Patches under the annotations of a folder, whose files are named like the slides.

    Args:
        patches: Of all slides.
        slides: By name.
        folder: Of the annotations.

    Returns:
        Rows, int64, and a remark for each file that says something of itself.

    Raises:
        ValueError: There is no such folder, a file cannot be used, or there is none for any slide.
    """
    found = {name: path for name in slides if (path := find_annotations(folder, name)) is not None}
    if not folder.is_dir() or not found:
        raise ValueError(f"--annotated {folder} has to be a folder of annotations named like the slides: got none.")
    rows: list[np.ndarray] = []
    remarks: list[str] = []
    for name, path in found.items():
        drawn = drawn_on(path, name, slides[name])
        rows.append(covered(patches, name, drawn.annotations))
        remarks += drawn.remarks
    return np.concatenate(rows), remarks
