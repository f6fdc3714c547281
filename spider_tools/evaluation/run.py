"""Evaluation of a model on a split: embed each patch once, classify, report."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
import torch
from datasets import ClassLabel, Dataset

from ..data.loading import RegionData, load_regions
from ..data.settings import DataSettings
from ..environment import write_settings
from ..files import require_writable
from ..flags import as_json
from ..hub import is_hub_id
from ..hugging_face_home import require_hugging_face_home
from ..import_record import import_facts
from ..launching import make_accelerator
from ..model_folder import weights_sha256
from ..output_folder import only_run_in
from ..weights.loading import load_config
from ..weights.reading import locate
from .asking import AskedModel
from .predict import Answers, context_window
from .prediction_sets import checked_sets, doubts_about
from .predictions import Limits, Predictions
from .report import write_report
from .results import ReportContext
from .settings import DECIDED_BY_THE_MODEL, EvaluationSettings
from .support import Support, ask_prototypes, draw_support

if TYPE_CHECKING:
    from ..remote_code import SpiderConfig, SpiderForImageClassification

logger = logging.getLogger(__name__)


def evaluate_model(settings: EvaluationSettings, data_settings: DataSettings) -> Optional[dict[str, Any]]:
    """Evaluate a model on one split of a data set and write the report.

    Args:
        settings: See there.
        data_settings: The data set. Context size, patch size and class order are the model's.

    Returns:
        What results.json holds; None in all processes but the first.

    Raises:
        ValueError: Model and data do not fit each other, or the split is missing or empty.
        OSError: The output folder or the Hugging Face home cannot be written, or another run writes the output folder.
    """
    _check_folders(settings)
    config = load_config(settings.model, settings.revision)
    sizes = [int(size) for size in settings.context_sizes or ()]
    for size in sizes:
        context_window(config.num_context_patches, size)  # refuses a size that does not fit, before any work
    sets = _checked_sets(settings, config)
    accelerator = make_accelerator()
    data_settings = replace(data_settings, context_size=config.context_size, patch_size=config.patch_size)
    with accelerator.main_process_first():
        data = load_regions(data_settings)
    split = matching_split(data, settings.split, config.class_names, settings.allow_subset)
    shared = {i: name for i, name in enumerate(config.class_names) if name in data.class_names}
    support = _few_shot_support(settings, data, config.class_names, list(shared))
    results = None
    with only_run_in(settings.output_dir, accelerator):
        asked = AskedModel(accelerator, settings, data, settings.output_dir / "embeddings")
        # Embeds all patches that this run needs.
        few_shot = None if support is None else ask_prototypes(asked, support, split)
        answers = asked.answers(split, [config.context_size, *sizes], settings.test_time_views)
        disturbed = asked.answers_if_disturbed(split, config.context_size) if settings.robustness else {}
        if accelerator.is_main_process:
            made = _made(split, answers, asked, shared)
            context = replace(
                _report_context(settings, data, config),
                sets=sets,
                few_shot=few_shot,
                by_context_size={size: made[size] for size in sizes} or None,
                disturbed={
                    name: _predictions(split, told, config.context_size, shared) for name, told in disturbed.items()
                }
                or None,
            )
            results = write_report(settings.output_dir, made[config.context_size], context)
            told = {name: v for name, v in as_json(data_settings).items() if name not in DECIDED_BY_THE_MODEL}
            write_settings(settings.output_dir, as_json(settings) | {"data": told})
    accelerator.end_training()
    return results


def _check_folders(settings: EvaluationSettings) -> None:
    """Refuse, before the work, folders that cannot take what it writes."""
    require_writable(settings.output_dir, "--output_dir")
    settings.require_store_folder()
    require_hugging_face_home()


def _checked_sets(settings: EvaluationSettings, config: "SpiderConfig") -> Optional[Mapping[str, Any]]:
    """What the model's prediction sets were fitted to, where --coverage asks for them."""
    if settings.coverage is None:
        return None
    record = getattr(config, "calibration", None)
    sets = checked_sets(settings.coverage, record.get("sets") if isinstance(record, dict) else None, config.class_names)
    for doubt in doubts_about(sets):
        logger.warning("%s", doubt)
    return sets


def _few_shot_support(
    settings: EvaluationSettings, data: RegionData, model_classes: list[str], shared: list[int]
) -> Optional[Support]:
    if settings.few_shot is None:
        return None
    if "train" not in data.splits:
        raise ValueError(
            f"--few_shot draws regions from the split 'train', which {data.name} has not, only {sorted(data.splits)}."
        )
    train = matching_split(data, "train", model_classes, settings.allow_subset)
    return draw_support(train, model_classes, shared, settings.few_shot, settings.seed)


def _report_context(settings: EvaluationSettings, data: RegionData, config: "SpiderConfig") -> ReportContext:
    digest = weights_sha256(locate(settings.model, settings.revision))
    return ReportContext(
        dataset=data.name,
        split=settings.split,
        model=settings.model if is_hub_id(settings.model) else Path(settings.model).resolve().name,
        weights_sha256=digest,
        imported=import_facts(config, digest),
        temperature=config.logit_temperature,
        views=settings.test_time_views,
        compare=settings.compare,
        coverage=settings.coverage,
        resamples=settings.resamples,
        seed=settings.seed,
    )


def matching_split(data: RegionData, split_name: str, model_classes: list[str], allow_subset: bool = False) -> Dataset:
    """A split, its labels numbered in the model's order.

    Args:
        data: Whose split it is.
        split_name: Of the split.
        model_classes: In the order of the logits.
        allow_subset: Whether to leave out regions of classes that the model does not know, rather than to refuse.

    Raises:
        ValueError: There is no such split, or model and data have different classes, or too few of them are left.
    """
    if split_name not in data.splits:
        raise ValueError(f"{data.name} has no split {split_name!r}, only {sorted(data.splits)}.")
    split = data.splits[split_name]
    names = split.features["label"].names
    counts = np.bincount(np.asarray(split.with_format("numpy")["label"]), minlength=len(names))
    present = {name for name, count in zip(names, counts) if count}
    unknown, absent = sorted(set(names) - set(model_classes)), sorted(set(model_classes) - set(names))
    if (unknown or absent) and not allow_subset:
        raise ValueError(
            f"Model and data have different classes. Only in the data: {unknown or 'none'}. Only in the model: "
            f"{absent or 'none'}. --allow_subset evaluates the regions of the classes that both have."
        )
    if unknown:
        keep = [i for i, label in enumerate(split["label"]) if names[label] in model_classes]
        logger.warning("left out %d regions of classes that the model does not know", len(split) - len(keep))
        split, present = split.select(keep), present & set(model_classes)
    if len(split) == 0:
        raise ValueError(f"The split {split_name!r} of {data.name} has no regions of the model's classes.")
    if len(present) < 2:
        raise ValueError(f"All regions of the split {split_name!r} are of one class, {sorted(present)}.")
    return _renumbered(split, names, model_classes)


def _renumbered(split: Dataset, names: list[str], model_classes: list[str]) -> Dataset:
    if names == model_classes:
        return split
    labels = [model_classes.index(names[label]) for label in split["label"]]
    features = split.features.copy()
    features["label"] = ClassLabel(names=model_classes)
    table = split.remove_columns("label").add_column("label", labels)
    return table.select_columns(list(features)).cast(features)


def _made(split: Dataset, answers: Answers, asked: AskedModel, shared: dict[int, str]) -> dict[int, Predictions]:
    """Predictions by context size; those with all of the context say what their limits are."""
    made = {size: _predictions(split, answers, size, shared) for size in answers.probabilities}
    size = asked.model.config.context_size
    return {**made, size: replace(made[size], limits=_limits(answers, asked.model, list(shared)))}


def _predictions(split: Dataset, answers: Answers, size: int, shared: dict[int, str]) -> Predictions:
    """Predictions among the classes that model and data share, `{index of the model: name}`."""
    center = len(split[0]["patches"]) // 2
    kept = list(shared)
    probabilities = answers.probabilities[size][:, kept]
    return Predictions(
        probabilities=probabilities / probabilities.sum(axis=1, keepdims=True),
        labels=np.searchsorted(kept, answers.labels),
        slide_ids=list(split["slide_id"]),
        patient_ids=list(split["patient_id"]),
        class_names=list(shared.values()),
        region_ids=[patches[center] for patches in split["patches"]],
    )


def _limits(answers: Answers, model: "SpiderForImageClassification", kept: list[int]) -> Limits:
    """What the answers say of their own limits, among some of the model's classes."""
    p_values = None
    if model.class_sets is not None:
        probabilities = torch.from_numpy(answers.probabilities[model.config.context_size])
        p_values = model.class_sets.cpu()(probabilities).numpy()[:, kept]
    return Limits(answers.unfamiliarity, model.config.unfamiliarity_threshold, p_values)
