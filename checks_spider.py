"""What values the fields of SPIDER may have, and tensors the model takes."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, Optional


def nearest(name: str, fields: Iterable[str]) -> Optional[str]:
    """The field that a name is likely to be a misspelling of; None if it is one, or resembles none."""
    near = [] if name in fields else get_close_matches(name, fields, n=1, cutoff=0.8)
    return near[0] if near else None


def is_number(value: Any) -> bool:
    """Whether this is an integer or a float; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_type(field: str, value: Any, kind: Any = bool, words: str = "True or False") -> None:
    """Raise `ValueError`, in these words, unless the value of a field is of this kind."""
    if not isinstance(value, kind):
        raise ValueError(f"`{field}` must be {words}, got {value!r}.")


def check_integer(field: str, value: Any, least: int, largest: int) -> None:
    """Raise `ValueError` unless the value of a field is an integer in this range."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least or least == largest != value:
        kind = f"{least}" if least == largest else "a positive integer" if least else f"an integer from 0 to {largest}"
        raise ValueError(f"`{field}` must be {kind}, got {value!r}.")
    if value > largest:
        raise ValueError(f"`{field}` must be at most {largest}, got {value}.")


def check_number(field: str, value: Any, low: float, high: float, kind: str = "a number") -> None:
    """Raise `ValueError` unless the value of a field is a number in this range; NaN is in none."""
    if not is_number(value) or not low <= value <= high:
        raise ValueError(f"`{field}` must be {kind}, got {value!r}; {low} to {high} are possible.")


def check_optional_number(field: str, value: Any, low: float, high: float) -> None:
    """Like `check_number`; None passes too."""
    if value is not None:
        check_number(field, value, low, high, "a number or None")


def are_three_numbers(values: Any, low: float, high: float) -> bool:
    """Whether these are three numbers in this range, in a list or tuple; NaN is in none."""
    are_three = isinstance(values, (list, tuple)) and len(values) == 3
    return are_three and all(is_number(value) and low <= value <= high for value in values)


def check_channels(field: str, values: Any, low: float, high: float) -> None:
    """Raise `ValueError` unless the value of a field is None, or a number in this range for each of three channels."""
    if values is not None and not are_three_numbers(values, low, high):
        raise ValueError(f"`{field}` must be None or three numbers from {low} to {high}, got {values!r}.")


def check_choice(field: str, value: Any, *choices: Optional[str]) -> None:
    """Raise `ValueError` unless the value of a field is one of these."""
    if value not in choices:
        raise ValueError(f"`{field}` must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def check_probability(field: str, value: Any) -> None:
    """Raise `ValueError` unless the value of a field lies in [0, 1)."""
    if not is_number(value) or not 0 <= value < 1:
        raise ValueError(f"`{field}` must lie in [0, 1), got {value!r}.")


def check_values(checks: dict[str, tuple], values: dict[str, Any], owner: str = "") -> None:
    """Raise `ValueError` unless the values that are there pass the checks of their fields."""
    for field, (check, *limits) in checks.items():
        if field in values:
            check(owner + field, values[field], *limits)


def fits(tensor: Any, *shape: int) -> bool:
    """Whether a batch of floats has this shape after its first axis."""
    return tensor.dtype.is_floating_point and tensor.ndim == len(shape) + 1 and tuple(tensor.shape[1:]) == shape


def describe(tensor: Any) -> str:
    """Type and shape of a tensor, for a message."""
    return f"{tensor.dtype} {tuple(tensor.shape)}"


def agreed_class_names(class_names: Any, id2label: Any, label2id: Any, num_labels: Any) -> list[str]:
    """The class names in logit order; raises `ValueError` unless every field that is given says the same."""
    candidates: dict[str, list[str]] = {}
    if class_names is not None:
        check_type("class_names", class_names, (list, tuple), "a list of strings")
        candidates["class_names"] = list(class_names)
    if id2label is not None:
        candidates["id2label"] = _in_logit_order("id2label", _items("id2label", id2label))
    if label2id is not None:
        pairs = [(index, name) for name, index in _items("label2id", label2id)]
        candidates["label2id"] = _in_logit_order("label2id", pairs)
    if num_labels is not None:
        check_integer("num_labels", num_labels, 1, 10_000)
    if not candidates:
        candidates["num_labels"] = [f"LABEL_{i}" for i in range(num_labels or 2)]

    first, names = next(iter(candidates.items()))
    for field, other in candidates.items():
        if other != names:
            raise ValueError(f"`{field}` contradicts `{first}`: {other} against {names}.")
    if num_labels is not None and num_labels != len(names):
        raise ValueError(f"`num_labels` is {num_labels}, but `{first}` names {len(names)} classes: {names}.")
    if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) != len(names):
        raise ValueError(f"`{first}` must name at least one class, each by a different, non-empty string, got {names}.")
    return names


def _items(field: str, mapping: Any) -> list[tuple[Any, Any]]:
    check_type(field, mapping, dict, "a dict")
    return list(mapping.items())


def _in_logit_order(field: str, pairs: list[tuple[Any, str]]) -> list[str]:
    """The names of `(index, name)` pairs by index; JSON makes strings of the indices that are keys."""
    names = {}
    for index, name in pairs:
        number = int(index) if isinstance(index, str) and index.isdecimal() else index
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < len(pairs) or number in names:
            got = [index for index, _ in pairs]
            raise ValueError(f"`{field}` must number its classes 0 to {len(pairs) - 1}, got {got}.")
        names[number] = name
    return [names[i] for i in range(len(names))]
