"""Folders of images: which part of a path is the split, the class and the slide is decided here, or refused in words.

Taken are `<class>/image` and `<class>/<slide>/image`, both also below folders named for the splits. `datasets` would
guess splits from words inside file names, and drop the images that do not fit.
"""

import logging
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

import datasets

from .listing import mentions_split, split_of_folder

logger = logging.getLogger(__name__)

_EXPECTED = (
    "Expected <class>/image or <class>/<slide>/image, or either below folders named train, validation and test; or a "
    "table that names every image and its label: metadata.csv with the columns file_name and label."
)


def open_image_folder(folder: Path, images: list[str], others: list[str]) -> dict[str, Any]:
    """The images of a folder as data sets, one row for every image.

    Args:
        folder: The folder.
        images: All images below it, relative to it, in order.
        others: The other files.

    Returns:
        Split name -> data set with the columns `image`, a path relative to the folder, `label`, and `slide_id` where
        there is a level of slides; one without splits is all `"train"`.

    Raises:
        ValueError: The layout is another one or ambiguous; the message names an image.
    """
    split_of, rest = _without_splits(folder, [PurePosixPath(image).parts for image in images])
    depth = _depth_below_splits(folder, images, rest)
    classes = sorted({parts[0] for parts in rest})
    if len(classes) == 1:
        raise ValueError(
            f"{folder}: all images lie in one folder, {classes[0]!r}, and so are of one class. {_EXPECTED}"
        )
    if depth == 3:
        _warn_if_upside_down(folder, rest)
    _warn_of_others(others)
    rows: dict[str, dict[str, list]] = {}
    for image, split, parts in zip(images, split_of, rest):
        columns = rows.setdefault(split, {"image": [], "label": [], **({"slide_id": []} if depth == 3 else {})})
        columns["image"].append(image)
        columns["label"].append(classes.index(parts[0]))
        if depth == 3:
            columns["slide_id"].append(parts[1])
    features = {"image": datasets.Value("string"), "label": datasets.ClassLabel(names=classes)}
    features |= {"slide_id": datasets.Value("string")} if depth == 3 else {}
    return {
        split: datasets.Dataset.from_dict(columns, features=datasets.Features(features))
        for split, columns in rows.items()
    }


def _without_splits(folder: Path, paths: list[tuple[str, ...]]) -> tuple[list[str], list[tuple[str, ...]]]:
    """The split of every path, and its parts below the split."""
    bare = [parts[0] for parts in paths if len(parts) == 1]
    if bare:
        raise ValueError(f"{folder}: the image {bare[0]} lies in no folder of a class. {_EXPECTED}")
    tops = sorted({parts[0] for parts in paths})
    below = {parts[1] for parts in paths if len(parts) > 2}
    if len(tops) == 1 and below and all(map(split_of_folder, below)):
        return _without_splits(folder / tops[0], [parts[1:] for parts in paths])  # a folder around the splits
    split_of = {top: split_of_folder(top) for top in tops}
    named = [top for top in tops if mentions_split(top)]
    if all(split_of.values()):
        twice = [split for split, count in Counter(split_of.values()).items() if count > 1]
        if twice:
            same = [top for top in tops if split_of[top] == twice[0]]
            raise ValueError(f"{folder} has several folders for the split {twice[0]!r}: {same}. Expected one.")
        return [split_of[parts[0]] or "" for parts in paths], [parts[1:] for parts in paths]
    if named:
        others = [top for top in tops if not split_of[top]]
        raise ValueError(
            f"{folder} is ambiguous: {named} are named for splits, {others} are not. Name all folders for splits, one "
            "each, or rename a class that is called like one."
        )
    if len(tops) == 1 and len(below) > 1:
        raise ValueError(
            f"{folder} is ambiguous: its only folder {tops[0]!r} may be a class, or hold the classes {sorted(below)}. "
            f"In the second case name {folder / tops[0]} itself."
        )
    return ["train"] * len(paths), paths


def _depth_below_splits(folder: Path, images: list[str], rest: list[tuple[str, ...]]) -> int:
    """2 for `<class>/image`, 3 for `<class>/<slide>/image`; every image has the same."""
    examples = {len(parts): image for image, parts in zip(images, rest)}
    if 1 in examples:
        raise ValueError(f"{folder}: the image {examples[1]} lies in no folder of a class. {_EXPECTED}")
    if max(examples) > 3:
        raise ValueError(f"{folder}: the image {examples[max(examples)]} lies in too many folders. {_EXPECTED}")
    if len(examples) > 1:
        raise ValueError(
            f"{folder} is ambiguous: {examples[2]} lies in its class's folder, {examples[3]} in a folder within it. "
            f"{_EXPECTED}"
        )
    inner = sorted({parts[1] for parts in rest if len(parts) == 3 and split_of_folder(parts[1])})
    if inner:
        raise ValueError(f"{folder} has the splits {inner} below the classes. {_EXPECTED}")
    return next(iter(examples))


def _warn_if_upside_down(folder: Path, rest: list[tuple[str, ...]]) -> None:
    classes, slides = sorted({parts[0] for parts in rest}), sorted({parts[1] for parts in rest})
    if len(slides) < len(classes):
        logger.warning(
            "%s is read as <class>/<slide>/image: %d classes (%s, ...) with %d slides (%s, ...). If the slides are the "
            "outer folders, turn the two levels round.",
            *(folder, len(classes), classes[0], len(slides), slides[0]),
        )


def _warn_of_others(others: list[str]) -> None:
    """Files among the images that cannot be opened as one are no rows; a whole class may be of such files."""
    left_out = [file for file in others if "/" in file]
    if left_out:
        logger.warning(
            "%d files are no images that can be opened and are left out, the first is %s.", len(left_out), left_out[0]
        )
