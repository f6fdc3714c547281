"""Settings of a script in a YAML file."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def settings_file(path: Path, settings_classes: Sequence[type], without: Sequence[str] = ()) -> dict[str, Any]:
    """The values in a YAML file of settings, such as the settings.json that a run leaves (JSON is YAML).

    Sections are flattened: `data: {seed: 1}` is the same as `seed: 1`.

    Args:
        path: The file.
        settings_classes: Whose fields may stand in it, beside `recipe`.
        without: Fields that may not.

    Raises:
        ValueError: It is no such file, names a setting that does not exist, or one twice with different values.
    """
    values: dict[str, Any] = {}
    for name, value in _lines_of(path, _read_yaml(path)):
        if values.setdefault(name, value) != value:
            raise ValueError(f"{path} has two values of {name}: {values[name]!r} and {value!r}.")
    known = {"recipe", *(field.name for c in settings_classes for field in dataclasses.fields(c))}
    unknown = sorted(map(str, set(values) - (known - set(without))))
    if unknown:
        raise ValueError(f"{path} names settings that this script does not have: {', '.join(unknown)}.")
    return values


def _read_yaml(path: Path) -> Any:
    import yaml  # not needed for --help

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"The settings file {path} cannot be read: {error}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"The settings file {path} is not YAML: {' '.join(str(error).split())}.") from error


def _lines_of(path: Path, content: Any) -> list[tuple[Any, Any]]:
    if not isinstance(content, dict):
        raise ValueError(f"The settings file {path} must hold names and values, got {type(content).__name__}.")
    lines: list[tuple[Any, Any]] = []
    for name, value in content.items():
        lines += _lines_of(path, value) if isinstance(value, dict) else [(name, value)]
    return lines
