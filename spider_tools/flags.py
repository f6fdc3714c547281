"""Settings as dataclasses: a setting is written down once, and is a flag, a line of a YAML file and a checked value."""

import argparse
import dataclasses
import functools
import inspect
import math
import operator
import os
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Optional

# Bounds of a number, with how messages call them.
_BOUNDS: dict[str, tuple[Any, str]] = {
    "at_least": (operator.ge, "at least"),
    "at_most": (operator.le, "at most"),
    "above": (operator.gt, "above"),
    "below": (operator.lt, "below"),
}


def setting(default: Any = dataclasses.MISSING, *, help: Optional[str] = None, **bounds: float) -> Any:
    """A dataclass field with what its flag needs: `setting(0, at_least=0, help="same seed, same weights")`.

    Args:
        default: Value without the flag; a field without one is required.
        help: What the flag's help says. A field without it has no flag.
        **bounds: `at_least`, `at_most`, `above` and `below`, of a number.
    """
    metadata = {"bounds": {**bounds}} | ({} if help is None else {"help": help})
    return dataclasses.field(default=default, metadata=metadata)


class Settings:
    """Base of dataclasses whose values are checked wherever an object is made.

    Fields may be `str`, `int`, `float`, `bool`, `Path`, a `Literal` of strings, a tuple of strings or of a `Literal`,
    each also Optional. A text becomes a number or a path where the field is one, and a list a tuple. Of a tuple of a
    `Literal` at least one is chosen, and each stands in it once, in the order of the choices.

    Raises:
        ValueError: A value is of another type, not finite, out of bounds, or none of the choices.
    """

    def __post_init__(self) -> None:
        """Bring every value to the type of its field, or refuse it."""
        settings_class: Any = type(self)
        hints = _type_hints(settings_class)
        for field in dataclasses.fields(settings_class):
            # Messages call a flag what the user calls it.
            name = f"--{field.name}" if "help" in field.metadata else f"`{field.name}`"
            value = _fitting(name, hints[field.name], getattr(self, field.name))
            _check_bounds(name, field.metadata.get("bounds", {}), value)
            object.__setattr__(self, field.name, value)


def add_flags(parser: Any, settings_class: type, without: Sequence[str] = ()) -> None:
    """Add one flag for every field that was made by `setting`.

    `bool` becomes `--name` and `--no-name`, a tuple is separated by commas, one of choices also by spaces. A flag that
    is not given is absent from the parsed namespace, so that the caller can tell it from its default; none is required
    here, see `required_flags`.

    Args:
        parser: Gets the flags: an `argparse.ArgumentParser` or a group of one.
        settings_class: A dataclass.
        without: Names of the fields that get no flag.
    """
    hints = _type_hints(settings_class)
    for field in _own_fields_first(settings_class):
        if "help" not in field.metadata or field.name in without:
            continue
        options: dict[str, Any] = {"help": _help_of(field), "default": argparse.SUPPRESS}
        kind, choices = _plain_type(hints[field.name]), choices_of(hints[field.name])
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif choices:
            options["choices"] = choices
        elif several_choices_of(hints[field.name]):
            options |= {"nargs": "+", "metavar": "X"}
        else:
            options |= {"type": _PARSERS.get(kind, kind), "metavar": "X"}
        parser.add_argument(f"--{field.name}", **options)


def required_flags(settings_class: type) -> list[str]:
    """Names of the fields that have no default."""
    return [field.name for field in _own_fields_first(settings_class) if field.default is dataclasses.MISSING]


def take(settings_class: type, values: Mapping[str, Any]) -> Any:
    """Make a settings object from the values that it has fields for."""
    names = {field.name for field in dataclasses.fields(settings_class)}
    return settings_class(**{name: value for name, value in values.items() if name in names})


def as_json(settings: Any) -> dict[str, Any]:
    """The fields of a settings object, with paths as strings."""
    values = dataclasses.asdict(settings)
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def choices_of(hint: Any) -> tuple[str, ...]:
    """The strings of a `Literal`, Optional or not; none for other types."""
    hint = _without_none(hint)
    return typing.get_args(hint) if typing.get_origin(hint) is Literal else ()


def several_choices_of(hint: Any) -> tuple[str, ...]:
    """The strings of a `tuple[Literal[...], ...]`, Optional or not; none for other types."""
    parts = typing.get_args(_without_none(hint))
    return choices_of(parts[0]) if parts and _plain_type(hint) is tuple else ()


def _own_fields_first(settings_class: type) -> list[dataclasses.Field]:
    """Fields in the order of help and files: what a class shares with others comes after what is its own."""
    own = inspect.get_annotations(settings_class)
    return sorted(dataclasses.fields(settings_class), key=lambda field: field.name not in own)


@functools.cache
def _type_hints(settings_class: type) -> dict[str, Any]:
    return typing.get_type_hints(settings_class)


def _fitting(name: str, hint: Any, value: Any) -> Any:
    """A value in the type of its field."""
    if value is None and type(None) in typing.get_args(hint):
        return None
    choices, kind = choices_of(hint), _plain_type(hint)
    if choices:
        if value is False and "no" in choices:  # what YAML makes of a plain no
            return "no"
        _expect(isinstance(value, str) and value in choices, name, f"one of {', '.join(choices)}", value)
        return value
    if kind is tuple:
        _expect(_are_strings(value), name, "a list of texts", value)
        if choices := several_choices_of(hint):
            return _chosen(name, choices, [value] if isinstance(value, str) else value)
        return _comma_separated(value) if isinstance(value, str) else tuple(value)
    if kind is Path:
        _expect(isinstance(value, (str, os.PathLike)), name, "a path", value)
        return Path(value)
    if kind in (int, float):
        return _number(name, kind, value)
    if kind in (str, bool):
        _expect(isinstance(value, kind), name, {str: "a text", bool: "true or false"}[kind], value)
    return value


def _chosen(name: str, choices: tuple[str, ...], texts: Sequence[str]) -> tuple[str, ...]:
    words = [word for text in texts for word in _comma_separated(text)]
    wrong = [word for word in words if word not in choices]
    _expect(bool(words) and not wrong, name, f"one or more of {', '.join(choices)}", wrong[0] if wrong else list(texts))
    return tuple(choice for choice in choices if choice in words)


def _number(name: str, kind: type, value: Any) -> Any:
    expected = {int: "a whole number", float: "a finite number"}[kind]
    try:
        number = kind(value) if isinstance(value, str) or value == kind(value) else None
    except (TypeError, ValueError, OverflowError):
        number = None
    _expect(number is not None and not isinstance(value, bool) and math.isfinite(number), name, expected, value)
    return number


def _check_bounds(name: str, bounds: Mapping[str, float], value: Any) -> None:
    if value is not None and not all(_BOUNDS[kind][0](value, bound) for kind, bound in bounds.items()):
        expected = " and ".join(f"{_BOUNDS[kind][1]} {bound:g}" for kind, bound in bounds.items())
        _expect(False, name, expected, value)


def _are_strings(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value))


def _expect(holds: bool, name: str, expected: str, value: Any) -> None:
    if not holds:
        raise ValueError(f"{name} must be {expected}, got {value!r}.")


def _help_of(field: dataclasses.Field) -> str:
    default: Any = " ".join(field.default) if isinstance(field.default, tuple) else field.default
    shown = {dataclasses.MISSING: " (required)", None: ""}.get(default, f" (default: {default})")
    return (field.metadata["help"] + shown).replace("%", "%%")


def _without_none(hint: Any) -> Any:
    """`int` of `Optional[int]`."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(part for part in typing.get_args(hint) if part is not type(None))
    return hint


def _plain_type(hint: Any) -> Any:
    """`int` of `Optional[int]`, `tuple` of `tuple[str, ...]`."""
    hint = _without_none(hint)
    return typing.get_origin(hint) or hint


def _comma_separated(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


_PARSERS: dict[Any, Any] = {tuple: _comma_separated}
