"""Which of the labelled patches become regions, and in which split."""

import logging
from collections.abc import Sequence

import numpy as np

from ..data.splits import cut_validation
from ..plain_text import escaped
from .cases import Case
from .labelling import LabelledSlide
from .settings import BuildSettings

logger = logging.getLogger(__name__)


def spread(points: np.ndarray, count: int) -> np.ndarray:
    """Choose points that lie far from each other: from the middle on, always the one farthest from all chosen ones.

    This is greedy k-center (Gonzalez 1985).

    Args:
        points: `(n, 2)`.
        count: Of points to choose; all if there are no more.

    Returns:
        Their sorted indices.
    """
    if len(points) <= count:
        return np.arange(len(points))
    points = points.astype(np.float64)
    chosen = [int(((points - points.mean(axis=0)) ** 2).sum(axis=1).argmin())]
    distance = ((points - points[chosen[0]]) ** 2).sum(axis=1)
    while len(chosen) < count:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, ((points - points[chosen[-1]]) ** 2).sum(axis=1))
    return np.sort(chosen)


def even_shares(counts: Sequence[int], total: int) -> list[int]:
    """How many to take of each, `total` in all, so that the largest takes are equal."""
    shares, left = [0] * len(counts), total
    order = sorted(range(len(counts)), key=lambda i: counts[i])
    for place, i in enumerate(order):
        shares[i] = min(counts[i], left // (len(counts) - place))
        left -= shares[i]
    return shares


def choose(slides: Sequence[LabelledSlide], settings: BuildSettings) -> list[np.ndarray]:
    """The rows of each slide's patches that become regions."""
    rows = [_per_object(slide, settings.max_per_annotation) for slide in slides]
    limit = settings.max_regions_per_class
    if limit is None:
        return rows
    kept: list[list[int]] = [[] for _ in slides]
    for name in sorted({name for slide in slides for name in slide.classes}):
        of_class = [
            np.array([row for row in own.tolist() if slide.classes[row] == name], dtype=np.int64)
            for slide, own in zip(slides, rows)
        ]
        for i, share in enumerate(even_shares([len(own) for own in of_class], limit)):
            kept[i] += of_class[i][spread(slides[i].positions[of_class[i]], share)].tolist() if share else []
    return [np.array(sorted(own), dtype=np.int64) for own in kept]


def _per_object(slide: LabelledSlide, limit: int | None) -> np.ndarray:
    if limit is None:
        return np.arange(len(slide.classes))
    kept: list[int] = []
    for number in np.unique(slide.objects).tolist():
        rows = np.flatnonzero(slide.objects == number)
        kept += rows.tolist() if number < 0 else rows[spread(slide.positions[rows], limit)].tolist()
    return np.array(sorted(kept), dtype=np.int64)


def choose_splits(
    cases: Sequence[Case], slides: Sequence[LabelledSlide], rows: Sequence[np.ndarray], settings: BuildSettings
) -> list[str]:
    """The split of each slide: what the manifest says, or cut by patient, stratified by class.

    Raises:
        ValueError: A class of test or validation is not in train, or no patient can be spared for testing.
    """
    given = [case.split for case in cases]
    splits = [split or "train" for split in given]
    if None in given:
        splits = _cut(cases, slides, rows, settings)
    classes: dict[str, set[str]] = {"train": set()}
    for split, slide, own in zip(splits, slides, rows):
        classes.setdefault(split, set()).update(slide.classes[row] for row in own.tolist())
    for split, names in classes.items():
        untrained = sorted(names - classes["train"])
        if untrained:
            raise ValueError(f"The classes {untrained} are in {split} and not in train: nothing can learn them.")
    alone = sorted(classes["train"] - classes.get("test", classes["train"]))
    if alone:
        logger.warning("The classes %s are in train and not in test: nothing measures them.", alone)
    return splits


def _cut(
    cases: Sequence[Case], slides: Sequence[LabelledSlide], rows: Sequence[np.ndarray], settings: BuildSettings
) -> list[str]:
    names = sorted({name for slide in slides for name in slide.classes})
    groups = sorted({case.group for case in cases})
    group = np.concatenate([np.full(len(own), groups.index(case.group)) for case, own in zip(cases, rows)])
    label = np.array([names.index(slide.classes[r]) for slide, own in zip(slides, rows) for r in own.tolist()], int)
    split_of = dict.fromkeys(groups, "train")
    left = np.ones(len(group), dtype=bool)
    for split, fraction in (("test", settings.test_fraction), ("validation", settings.validation_fraction)):
        if fraction == 0:
            continue
        chosen = cut_validation(group[left], label[left], fraction, settings.seed)
        if not chosen.any():
            raise ValueError(
                f"No patient or slide can be spared for {split}: each is the only one left with some class. Annotate "
                f"more slides, merge classes with --class_mapping, or set --{split}_fraction 0."
            )
        for number in np.unique(group[left][chosen]).tolist():
            split_of[groups[number]] = split
        left &= ~np.isin(group, np.unique(group[left][chosen]))
    for case, own in zip(cases, rows):
        if not len(own):
            logger.warning("%s has no patch of a class.", escaped(case.task.name))
    return [split_of[case.group] for case in cases]
