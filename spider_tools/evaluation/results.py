"""The content of results.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

from . import bootstrap, metrics
from .predictions import Predictions
from .prototypes import FewShot


@dataclass(frozen=True)
class ReportContext:
    """What was evaluated, and what the report shall hold.

    Attributes:
        dataset: Name or folder of the data set.
        split: The evaluated split.
        model: Hub id or name of the model; where somebody keeps it is nobody else's business.
        weights_sha256: Of the model's weight files, see `model_folder.weights_sha256`; None where it is not known.
        imported: What is known of the model's import, see `import_record.import_facts`; None if it was not imported.
        temperature: What the model's logits are divided by, see `logit_temperature` of the configuration.
        views: Of each region, whose probabilities were averaged; 1 where the model alone answered.
        compare: An organ of `paper_results.organ_names()` to compare with.
        coverage: Share of prediction sets that are to hold the true class, in (0, 1); None for no sets.
        sets: What prediction sets were fitted to, by class, as config.json of the model says it.
        by_context_size: Predictions for the same regions by context size, in patches along one side of the region.
        few_shot: What prototypes said of the same regions.
        disturbed: Predictions for the same regions by name of a disturbance; None where none was asked for.
        resamples: Number of sets of patients, or of slides, that the intervals come from.
        seed: Chooses these sets.
    """

    dataset: str
    split: str
    model: str
    weights_sha256: Optional[str] = None
    imported: Optional[Mapping[str, Any]] = None
    temperature: float = 1.0
    views: int = 1
    compare: Optional[str] = None
    coverage: Optional[float] = None
    sets: Optional[Mapping[str, Any]] = None
    by_context_size: Optional[Mapping[int, Predictions]] = None
    few_shot: Optional[FewShot] = None
    disturbed: Optional[Mapping[str, Predictions]] = None
    resamples: int = bootstrap.RESAMPLES
    seed: int = 0


def make_results(predictions: Predictions, context: ReportContext) -> dict[str, Any]:
    """The content of results.json.

    Returns:
        `metrics`: `value` and `ci95` by figure, and a `reason` where `ci95` is `None`; `per_class`: `recall`,
        `precision`, `f1` and `support` by class name; `dataset`, `split`, `model`, its `weights_sha256` and its
        `import`, None for a model that was not imported; the numbers of `regions`, `slides` and `patients`, None unless
        one is named for every region; `test_time_views` that were averaged, 1 where the model alone answered.
    """
    table = metrics.per_class_table(predictions.labels, predictions.predicted, predictions.class_names)
    return {
        "metrics": figures_with_intervals(predictions, context),
        "per_class": {
            name: {"recall": row.recall, "precision": row.precision, "f1": row.f1, "support": row.support}
            for name, row in table.items()
        },
        "dataset": context.dataset,
        "split": context.split,
        "model": context.model,
        "weights_sha256": context.weights_sha256,
        "import": context.imported,
        "regions": len(predictions.labels),
        "slides": predictions.num_slides,
        "patients": predictions.num_patients,
        "test_time_views": context.views,
    }


def figures_with_intervals(predictions: Predictions, context: ReportContext) -> dict[str, dict[str, Any]]:
    """`value` and `ci95` of every headline figure, and a `reason` where `ci95` is `None`."""
    figures = metrics.headline_figures(predictions.probabilities, predictions.labels)
    intervals = bootstrap.bootstrap_intervals(
        predictions.probabilities,
        predictions.labels,
        predictions.drawn_by,
        context.resamples,
        context.seed,
        predictions.drawn_kind,
    )
    return {name: with_interval(value, name, intervals) for name, value in figures.items()}


def with_interval(value: float, name: str, intervals: bootstrap.Intervals) -> dict[str, Any]:
    """One figure with its interval, or with the reason why it has none."""
    if intervals.ci95 is None:
        return {"value": value, "ci95": None, "reason": intervals.reason}
    return {"value": value, "ci95": list(intervals.ci95[name])}
