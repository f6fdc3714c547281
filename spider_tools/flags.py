"""Command-line flags from the fields of a dataclass, so that a setting is written down once."""

import argparse
import dataclasses
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional


def setting(default: Any = dataclasses.MISSING, *, help: str, choices: Optional[Sequence[str]] = None) -> Any:
    """A dataclass field with what its flag needs: `setting(0, help="same seed, same weights")`."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices})


def add_flags(parser: Any, settings_class: type, required: Sequence[str] = (), without: Sequence[str] = ()) -> None:
    """Add one flag for every field that was made by `setting`.

    Fields may be `str`, `int`, `float`, `Path`, `bool` (`--name` and `--no-name`) or a tuple of strings (separated by
    commas), each also Optional. A flag that is not given is absent from the parsed namespace, so that the caller can
    tell it from its default.

    Args:
        parser: Gets the flags: an `argparse.ArgumentParser` or a group of one.
        settings_class: A dataclass.
        required: Names of the fields that must be given.
        without: Names of the fields that get no flag.
    """
    hints = typing.get_type_hints(settings_class)
    for field in dataclasses.fields(settings_class):
        if "help" not in field.metadata or field.name in without:
            continue
        options: dict[str, Any] = {"help": _help_of(field), "default": argparse.SUPPRESS}
        kind = _plain_type(hints[field.name])
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options |= {"type": _PARSERS.get(kind, kind), "required": field.name in required}
            options |= {"choices": field.metadata["choices"]} if field.metadata["choices"] else {"metavar": "X"}
        parser.add_argument(f"--{field.name}", **options)


def take(settings_class: type, values: dict[str, Any]) -> Any:
    """Make a settings object from the values that it has fields for."""
    names = {field.name for field in dataclasses.fields(settings_class)}
    return settings_class(**{name: value for name, value in values.items() if name in names})


def as_json(settings: Any) -> dict[str, Any]:
    """The fields of a settings object, with paths as strings."""
    values = dataclasses.asdict(settings)
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def _help_of(field: dataclasses.Field) -> str:
    default = field.default
    shown = "" if default is dataclasses.MISSING or default is None else f" (default: {default})"
    return (field.metadata["help"] + shown).replace("%", "%%")


def _plain_type(hint: Any) -> Any:
    """`int` of `Optional[int]`, `tuple` of `tuple[str, ...]`."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    return typing.get_origin(hint) or hint


def _comma_separated(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


_PARSERS = {tuple: _comma_separated}
