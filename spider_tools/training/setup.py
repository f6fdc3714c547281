"""What a training run needs, built in one place: model, regions, loaders, optimizer, schedule and checkpoints."""

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Optional, Union

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader
from transformers import get_cosine_schedule_with_warmup

from .. import remote_code
from ..data.disturbances import views
from ..data.grid import region_grid, rows_among, unique_patch_names
from ..data.loaders import (
    EmbeddedBatchLoader,
    EmbeddedRegions,
    EmbeddedViews,
    PixelRegions,
    evaluation_loader,
    micro_batch_loader,
)
from ..data.loading import RegionData, load_regions
from ..data.settings import DataSettings
from ..evaluation.embedded_splits import SplitEmbedder
from ..evaluation.predict import RegionClassifier
from ..launching import make_accelerator
from ..normalization import let_model_normalize
from ..weights.loading import load_config
from .batches import BatchPlan, MicroBatchSampler, class_weights_of
from .checkpoints import Checkpoints
from .dropout import speed_up_dropout
from .settings import TrainingSettings
from .starting_model import starting_model

if TYPE_CHECKING:
    from ..remote_code import SpiderForImageClassification, SpiderImageProcessor

Regions = Union[EmbeddedRegions, PixelRegions]


@dataclass
class TrainingSetup:
    """Everything that the loop works with.

    Attributes:
        settings: Of the run.
        accelerator: Processes, device and precision.
        image_processor: Of the model.
        classifier: The prepared `RegionClassifier`, whose `model` is the SPIDER model.
        optimizer: Prepared.
        schedule: Of the learning rate, a step of it for each of the optimizer's.
        sampler: Says which regions form which step.
        loader: Brings the sampler's micro-batches.
        train: The regions to learn from.
        steps_per_epoch: Optimizer steps.
        validation: Brings the validation split in order, prepared; None without one.
        checkpoints: Of the run.
    """

    settings: TrainingSettings
    accelerator: Accelerator
    image_processor: "SpiderImageProcessor"
    classifier: Any
    optimizer: Any
    schedule: Any
    sampler: MicroBatchSampler
    loader: Iterable[dict[str, torch.Tensor]]
    train: Regions
    steps_per_epoch: int
    validation: Optional[DataLoader]
    checkpoints: Checkpoints

    @property
    def model(self) -> "SpiderForImageClassification":
        """The model that is trained, without what accelerate wraps around it."""
        return self.accelerator.unwrap_model(self.classifier).model


def prepare_accelerator(settings: TrainingSettings) -> Accelerator:
    """The accelerator of a run, in the precision that the settings, `accelerate launch` or the paper say.

    Raises:
        ValueError: The tracker is not installed, or the processes do not see each other.
    """
    precision = settings.mixed_precision
    told = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")  # accelerate launch says "no" where it was told nothing
    if precision is None:
        precision = "fp16" if told == "no" and torch.cuda.is_available() else told  # type: ignore[assignment]
    accelerator = make_accelerator(
        mixed_precision=precision, log_with=settings.report_to, project_dir=str(settings.run_folder)
    )
    if settings.report_to is not None and not accelerator.log_with:
        raise ValueError(f"--report_to {settings.report_to} needs that package, which is not installed.")
    return accelerator


def load_training_data(accelerator: Accelerator, settings: TrainingSettings, data_settings: DataSettings) -> RegionData:
    """Regions, in the class order of the model to start from if it has the same classes.

    Raises:
        ValueError: The data set cannot be used, has no train split, or a split of fewer than two classes.
    """
    with accelerator.main_process_first():
        data = load_regions(data_settings)
    if "train" not in data.splits:
        raise ValueError(f"{data.name} has no train split, only {sorted(data.splits)}.")
    names = data.class_names
    for split in ("train", "validation"):
        present = [names[i] for i in data.splits[split].unique("label")] if split in data.splits else names
        if len(present) < 2:
            raise ValueError(
                f"The {split} split of {data.name} has regions of the classes {present}; expected two or more. "
                "Another --validation_fraction or --seed cuts another validation split."
            )
    if settings.init_from is not None:
        known = load_config(settings.init_from).class_names
        if known != names and sorted(known) == sorted(names):
            return load_regions(replace(data_settings, class_names=tuple(known)))
    return data


def set_up(accelerator: Accelerator, settings: TrainingSettings, data: RegionData) -> TrainingSetup:
    """Build all of a run. Embedding the patches of a frozen backbone is part of it, and may take hours.

    Args:
        accelerator: Of `prepare_accelerator`.
        settings: Of the run.
        data: With a train split, and a validation split to choose the best checkpoint by.

    Raises:
        ValueError: The starting weights cannot be used, or a patch cannot be read.
        OSError: They cannot be found or downloaded, or embeddings cannot be written.
    """
    set_seed(settings.seed)
    context_size = math.isqrt(len(data.splits["train"][0]["patches"]))
    model = starting_model(settings, data.class_names, context_size, data.patches.patch_size)
    image_processor = remote_code.image_processor_class()(
        context_size=context_size,
        patch_size=model.config.patch_size,
        image_mean=model.config.image_mean,
        image_std=model.config.image_std,
    )
    regions = regions_of_splits(accelerator, settings, data, model, image_processor)
    return assemble(accelerator, settings, model, image_processor, regions)


def regions_of_splits(
    accelerator: Accelerator,
    settings: TrainingSettings,
    data: RegionData,
    model: "SpiderForImageClassification",
    image_processor: "SpiderImageProcessor",
) -> dict[str, Regions]:
    """The regions of train and, where there is one, validation: embeddings if the backbone is frozen, else pixels.

    Of embeddings, train comes in as many views as the settings say; validation is undisturbed.
    """
    splits = {name: data.splits[name] for name in ("train", "validation") if name in data.splits}
    if settings.train_backbone != "frozen":
        names = unique_patch_names(splits)
        opened, rows_of = names.to_pylist(), rows_among(names)
        return {key: PixelRegions(region_grid(split, rows_of), opened, data.patches) for key, split in splits.items()}
    model.to(accelerator.device)
    embedding = settings.embedding_settings(settings.run_folder / "embeddings")
    embedder = SplitEmbedder(data.patches, model, image_processor, accelerator, embedding)
    regions: dict[str, Regions] = {**embedder.regions(splits)}
    if settings.views > 1:
        train = {"train": splits["train"]}
        further = [embedder.regions(train, view)["train"] for view in views(settings.views)[1:]]
        regions["train"] = EmbeddedViews([regions["train"], *further])
    return regions


def assemble(
    accelerator: Accelerator,
    settings: TrainingSettings,
    model: "SpiderForImageClassification",
    image_processor: "SpiderImageProcessor",
    regions: dict[str, Regions],
) -> TrainingSetup:
    """Put a model and regions together, with what trains the one on the other.

    Args:
        accelerator: Prepares them.
        settings: Of the run.
        model: In any mode; it is trained in place.
        image_processor: Its own.
        regions: `train`, and `validation` where there is one.
    """
    let_model_normalize(model, image_processor)
    if accelerator.device.type == "cpu":
        speed_up_dropout(model)
    model.train()
    train = regions["train"]
    plan = batch_plan(settings, accelerator.num_processes)
    weights = class_weights_of(train.grid.labels, model.config.num_labels, settings.class_weights)
    accumulation = settings.gradient_accumulation_steps
    sampler = MicroBatchSampler(plan, train.grid, weights, accelerator.process_index, accumulation)
    classifier, optimizer = accelerator.prepare(RegionClassifier(model), _optimizer_for(model, settings))
    schedule = _schedule_for(optimizer, settings, plan.steps(len(train)))
    return TrainingSetup(
        settings=settings,
        accelerator=accelerator,
        image_processor=image_processor,
        classifier=classifier,
        optimizer=optimizer,
        schedule=schedule,
        sampler=sampler,
        loader=_training_loader(train, sampler, settings, accelerator),
        train=train,
        steps_per_epoch=plan.steps(len(train)),
        validation=_validation_loader(regions.get("validation"), settings, accelerator),
        checkpoints=Checkpoints(
            settings.checkpoints_folder, accelerator, classifier, optimizer, schedule, settings.checkpoints_kept
        ),
    )


def batch_plan(settings: TrainingSettings, processes: int) -> BatchPlan:
    """How the settings want the regions of an epoch drawn, shared by so many processes."""
    return BatchPlan(
        batch_size=settings.batch_size,
        parts=processes * settings.gradient_accumulation_steps,
        seed=settings.seed,
        order=settings.batch_order,
        context_dropout=settings.context_dropout,
        flip=settings.flip,
        views=settings.views,
    )


def _training_loader(
    train: Regions, sampler: MicroBatchSampler, settings: TrainingSettings, accelerator: Accelerator
) -> Iterable[dict[str, torch.Tensor]]:
    if isinstance(train, EmbeddedRegions):
        return EmbeddedBatchLoader(train, sampler, pin_memory=accelerator.device.type == "cuda")
    return micro_batch_loader(train, sampler, settings.num_workers)


def _optimizer_for(model: "SpiderForImageClassification", settings: TrainingSettings) -> torch.optim.Optimizer:
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(learning, lr=settings.learning_rate, weight_decay=settings.weight_decay)


def _schedule_for(optimizer: Any, settings: TrainingSettings, steps_per_epoch: int) -> Any:
    # Not prepared: accelerate would step it once per process.
    return get_cosine_schedule_with_warmup(
        optimizer, round(settings.warmup_epochs * steps_per_epoch), settings.epochs * steps_per_epoch
    )


def _validation_loader(
    regions: Optional[Regions], settings: TrainingSettings, accelerator: Accelerator
) -> Optional[DataLoader]:
    if regions is None:
        return None
    # Rows of a store are there at once; a worker would only copy them.
    workers = 0 if isinstance(regions, EmbeddedRegions) else settings.num_workers
    return accelerator.prepare(evaluation_loader(regions, settings.batch_size, workers))
