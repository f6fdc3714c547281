"""Which columns of a data set of whole regions hold images, labels, slides and patients, by their names and types."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import datasets

PATH_COLUMNS = ("file_name", "filename", "file", "path", "file_path", "filepath", "image", "image_path", "image_name")
"""What a column of paths may be called, in any case."""

LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "target")
"""What a column of labels may be called, in any case."""

SPLIT_COLUMN = "split"
SLIDE_COLUMN = "slide_id"
PATIENT_COLUMN = "patient_id"

_TEXTS = ("string", "large_string")
_BYTES = ("binary", "large_binary")
_WHOLE_NUMBERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_LABEL_TYPES = "names (string), a ClassLabel, or whole numbers (integers); to use others, convert them to names"
_IMAGE_TYPES = "an Image, encoded bytes (binary), structs of {bytes, path}, or paths (string) relative to the data set"


@dataclass(frozen=True)
class Columns:
    """Names of the columns to read; None to find them by their names and types.

    Attributes:
        image: A column of images: of `datasets`, encoded bytes, structs of `{bytes, path}`, or paths.
        label: A column of class labels, strings or integers.
        slide: A column that says which slide a region is from.
        patient: A column that says which patient it is from.
    """

    image: str | None = None
    label: str | None = None
    slide: str | None = None
    patient: str | None = None


def image_column(features: Any, wanted: str | None) -> str:
    """The column of images: the one that is named, else the one called `image`, else the only one that fits.

    Raises:
        ValueError: There is none, or several, or it has another type.
    """
    if wanted is None and "image" not in features:
        fitting = [name for name, feature in features.items() if is_image(feature) and not is_text(feature)]
        paths = named_like([name for name, feature in features.items() if is_text(feature)], None, PATH_COLUMNS)
        return _only("image", fitting or ([paths] if paths else []), features)
    return _checked("image", wanted or "image", features, is_image, _IMAGE_TYPES)


def label_column(features: Any, wanted: str | None, others: Iterable[str | None]) -> str:
    """The column of labels: the one that is named, else one with a usual name, else the only one that fits.

    Args:
        features: Of the data set.
        wanted: Its name.
        others: Columns that it is not.

    Raises:
        ValueError: There is none, or several, or it has another type.
    """
    free = {name: feature for name, feature in features.items() if name not in {*others, SPLIT_COLUMN}}
    name = wanted or named_like(free, None, LABEL_COLUMNS[:1])
    if name is not None:
        return _checked("label", name, features, _is_label, _LABEL_TYPES)
    for fits in (lambda feature: isinstance(feature, datasets.ClassLabel), is_text, is_whole_number):
        fitting = [name for name, feature in free.items() if fits(feature)]
        usual = named_like(fitting, None, LABEL_COLUMNS)
        if usual or len(fitting) == 1:
            return usual or fitting[0]
        if fitting:
            return _only("label", fitting, features)
    return _only("label", [], features)


def slide_column(features: Any, wanted: str | None) -> str | None:
    """The column of slides: the one that is named, else `slide_id`, else None.

    Raises:
        ValueError: There is none of the name.
    """
    return _named("slide", features, wanted, SLIDE_COLUMN)


def patient_column(features: Any, wanted: str | None) -> str | None:
    """The column of patients: the one that is named, else `patient_id`, else None.

    Raises:
        ValueError: There is none of the name.
    """
    return _named("patient", features, wanted, PATIENT_COLUMN)


def _named(kind: str, features: Any, wanted: str | None, usual: str) -> str | None:
    if wanted is not None and wanted not in features:
        raise ValueError(f"There is no {kind} column {wanted!r}, the columns are {list(features)}.")
    return wanted or (usual if usual in features else None)


def named_like(names: Iterable[str], wanted: str | None, usual: Iterable[str]) -> str | None:
    """The wanted one of the names if it is there; without a wish the first that has a usual name, in any case."""
    names = list(names)
    if wanted is not None:
        return wanted if wanted in names else None
    lower = {name.lower(): name for name in reversed(names)}
    return next((lower[name] for name in usual if name in lower), None)


def is_image(feature: Any) -> bool:
    """Whether a column can hold images: of `datasets`, encoded bytes, `{bytes, path}`, or paths."""
    if isinstance(feature, dict):
        fits = {"bytes": _BYTES, "path": _TEXTS}
        return bool(feature) and all(name in fits and _dtype(part) in fits[name] for name, part in feature.items())
    return isinstance(feature, datasets.Image) or _dtype(feature) in (*_BYTES, *_TEXTS)


def is_text(feature: Any) -> bool:
    """Whether a column holds texts."""
    return _dtype(feature) in _TEXTS


def is_whole_number(feature: Any) -> bool:
    """Whether a column holds integers without names."""
    return _dtype(feature) in _WHOLE_NUMBERS


def _is_label(feature: Any) -> bool:
    return isinstance(feature, datasets.ClassLabel) or is_text(feature) or is_whole_number(feature)


def _dtype(feature: Any) -> str:
    return feature.dtype if isinstance(feature, datasets.Value) else ""


def _checked(kind: str, name: str, features: Any, fits: Callable[[Any], bool], types: str) -> str:
    if name not in features:
        raise ValueError(f"There is no column {name!r} of {kind}s (--{kind}_column), the columns are {list(features)}.")
    if not fits(features[name]):
        raise ValueError(
            f"The column {name!r} of {kind}s (--{kind}_column) holds {_dtype(features[name]) or features[name]}. "
            f"Expected {types}."
        )
    return name


def _only(kind: str, fitting: list[str], features: Any) -> str:
    if len(fitting) != 1:
        types = {"image": _IMAGE_TYPES, "label": _LABEL_TYPES}[kind]
        raise ValueError(
            f"Name the column of {kind}s with --{kind}_column: {fitting} of {features} could be it. Expected {types}."
        )
    return fitting[0]
