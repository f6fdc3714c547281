"""What is published about SPIDER: class names and results per organ, read from `published.json`."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Optional

Organ = Literal["skin", "colorectal", "thorax", "breast"]
_FILE = Path(__file__).with_suffix(".json")


@dataclass(frozen=True)
class PublishedOrgan:
    """One organ of the SPIDER paper or cards. `None` stands for what was not published.

    Attributes:
        name: `"skin"`, `"colorectal"`, `"thorax"` or `"breast"`.
        dataset: Hub id of the data set.
        model: Hub id of the model.
        class_names: In alphabetical order, spelled as published.
        metrics: `accuracy`, `macro_precision` and `macro_f1` on the test split, in [0, 1].
        per_class: `recall`, `precision` and `f1` of every class, in [0, 1].
        counts: `train_regions`, `test_regions`, `regions`, `unique_patches` and `slides`.
        counts_are_approximate: Whether `counts` holds round numbers.
        context_ablation: Accuracy by context size, the patches along one side of the region.
    """

    name: str
    dataset: str
    model: str
    class_names: tuple[str, ...]
    metrics: dict[str, float]
    per_class: Optional[dict[str, dict[str, float]]]
    counts: dict[str, Optional[int]]
    counts_are_approximate: bool
    context_ablation: Optional[dict[int, float]]


def organ_names() -> tuple[str, ...]:
    """The organs that there are published results for."""
    return tuple(_read()["organs"])


def source() -> str:
    """Where the figures were published."""
    return str(_read()["source"])


def class_names(organ: str) -> list[str]:
    """The published class names of an organ, in alphabetical order.

    Raises:
        ValueError: Nothing is published about this organ.
    """
    return list(published_organ(organ).class_names)


def published_organ(organ: str) -> PublishedOrgan:
    """Everything that is published about an organ.

    Raises:
        ValueError: Nothing is published about this organ.
    """
    if organ not in organ_names():
        raise ValueError(f"Nothing is published about {organ!r}: expected one of {', '.join(organ_names())}.")
    facts = _read()["organs"][organ]
    counts = dict(facts["counts"])
    approximate = counts.pop("approximate")
    ablation = facts["context_ablation"]
    return PublishedOrgan(
        name=organ,
        dataset=facts["dataset"],
        model=facts["model"],
        class_names=tuple(facts["class_names"]),
        metrics=dict(facts["metrics"]),
        per_class=facts["per_class"] and {name: dict(row) for name, row in facts["per_class"].items()},
        counts=counts,
        counts_are_approximate=approximate,
        context_ablation=ablation and {int(size): accuracy for size, accuracy in ablation.items()},
    )


@cache
def _read() -> dict[str, Any]:
    return json.loads(_FILE.read_text(encoding="utf-8"))
