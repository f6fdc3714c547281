"""What the configuration of a published SPIDER checkpoint states, wherever in it that stands."""

from collections.abc import Iterator, Sequence
from typing import Any, Optional

from .reading import WeightSource


def class_names_of(source: WeightSource) -> list[str]:
    """The class names in the order of the logits: `class_names`, or an `id2label` that names classes.

    Raises:
        ValueError: There are none, or the two differ.
    """
    config = source.config or {}
    names, labels = config.get("class_names"), _real_labels(config.get("id2label"))
    names = labels if names is None and labels else names
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{source.name}: expected a list of strings `class_names` in its config.json, got {names!r}.")
    if labels and labels != names:
        raise ValueError(f"{source.name}: `class_names` and `id2label` differ: {names} and {labels}.")
    return names


def _real_labels(id2label: Any) -> Optional[list[str]]:
    """The names of `id2label`, None where they are those that Transformers makes up."""
    if not isinstance(id2label, dict) or set(id2label) != {str(i) for i in range(len(id2label))}:
        return None
    names = [id2label[str(i)] for i in range(len(id2label))]
    return None if names == [f"LABEL_{i}" for i in range(len(names))] else names


def stated_fields(source: WeightSource, hidden_size: Optional[int], fields: Sequence[str]) -> dict[str, Any]:
    """What a source's configuration says about its transformer of this width, wherever in it that stands.

    Raises:
        ValueError: It says two things.
    """
    stated: dict[str, Any] = {}
    for part in _dicts(source.config):
        if part.get("hidden_size") != hidden_size or "num_attention_heads" not in part:
            continue
        for name in fields:
            if name in stated and part.get(name) not in (None, stated[name]):
                values = f"{stated[name]} and {part[name]}"
                raise ValueError(f"{source.name}: its config.json has {name} {values} for width {hidden_size}.")
        stated |= {name: part[name] for name in fields if part.get(name) is not None}
    return stated


def initializer_ranges(source: WeightSource) -> list[float]:
    """The standard deviations of fresh weights that a source's configuration names, BERT's default if it names none."""
    return [part["initializer_range"] for part in _dicts(source.config) if "initializer_range" in part] or [0.02]


def _dicts(content: Any) -> Iterator[dict[str, Any]]:
    if isinstance(content, dict):
        yield content
        for value in content.values():
            yield from _dicts(value)
