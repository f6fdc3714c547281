"""The training run: an accelerate loop over regions, from embeddings or from pixels."""

import logging
import math
import os
import signal
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device, set_seed
from torch import nn
from tqdm.auto import tqdm
from transformers import get_cosine_schedule_with_warmup

from .. import remote_code
from ..data.grid import region_grid, rows_among, unique_patch_names
from ..data.loaders import EmbeddedBatchLoader, EmbeddedRegions, PixelRegions, evaluation_loader, micro_batch_loader
from ..data.loading import RegionData, load_regions
from ..data.settings import DataSettings
from ..embeddings.normalizer import PatchNormalizer
from ..embeddings.precompute import embed_patches_once
from ..embeddings.settings import EmbeddingSettings
from ..evaluation.library import SpiderMetric
from ..evaluation.predict import RegionClassifier, predict
from ..flags import as_json
from ..hub import is_hub_id
from ..launching import make_accelerator
from ..model_folder import save_model_folder
from ..publishing.publish import publish
from ..publishing.settings import PublishSettings
from ..publishing.upload import check_target
from .batches import BatchPlan, MicroBatchSampler, class_weights_of
from .checkpoints import Checkpoints, Progress, find_checkpoint
from .dropout import speed_up_dropout
from .record import write_history, write_settings
from .settings import TrainingSettings
from .starting_model import merge_lora, starting_model

logger = logging.getLogger(__name__)

# Hyper-parameters that config.json notes.
_FACTS = (
    "train_backbone",
    "batch_size",
    "learning_rate",
    "weight_decay",
    "warmup_epochs",
    "label_smoothing",
    "max_grad_norm",
    "class_weights",
    "context_dropout",
    "flip",
    "seed",
)
SCORE = "macro_f1"  # on the validation split; the best checkpoint has the highest


def train(settings: TrainingSettings, data_settings: DataSettings) -> Optional[Path]:
    """Train a model as the settings say and save it as a complete repository.

    One process with the same settings gives the same weights twice on the same machine. Several processes, a GPU or
    another number of threads change the order of sums and so the last digits; several processes also draw other
    dropout masks.

    Returns:
        The model folder, `settings.output_dir`; None in all processes but the first.

    Raises:
        ValueError: Settings, data set or starting weights cannot be used.
        FloatingPointError: The loss became NaN or infinite; the last checkpoint stays.
        OSError: Something cannot be written; the last checkpoint stays.
    """
    _check_output_folder(settings)
    hub = PublishSettings(private=settings.hub_private)
    if settings.push_to_hub:
        check_target(str(settings.hub_model_id), hub)
    accelerator = _make_accelerator(settings)
    data = _load_data(accelerator, settings, data_settings)
    run = TrainingRun(accelerator, settings, data)
    if accelerator.is_main_process:
        write_settings(settings.run_folder, as_json(settings) | {"data": as_json(data_settings)})
    run.fit()
    run.export()
    if settings.push_to_hub and accelerator.is_main_process:
        logger.info("published %s", publish(settings.output_dir, str(settings.hub_model_id), hub))
    accelerator.end_training()
    return settings.output_dir if accelerator.is_main_process else None


class TrainingRun:
    """A model, its data and the state of its training.

    Args:
        accelerator: Processes, device and precision.
        settings: Of the run.
        data: Regions with a train split, and a validation split to choose the best checkpoint by.
    """

    def __init__(self, accelerator: Accelerator, settings: TrainingSettings, data: RegionData) -> None:
        self.accelerator = accelerator
        self.settings = settings
        self.data = data
        self.class_names: list[str] = data.splits["train"].features["label"].names
        set_seed(settings.seed)
        self._context_size = context_size = math.isqrt(len(data.splits["train"][0]["patches"]))
        model = starting_model(settings, self.class_names, context_size, data.patches.patch_size)
        self.image_processor = remote_code.image_processor_class()(
            context_size=context_size, patch_size=model.config.patch_size
        )
        datasets = self._datasets(model)
        self._prepare_training(model, datasets["train"])
        self._validation = None
        if "validation" in datasets:
            loader = evaluation_loader(datasets["validation"], settings.batch_size, self._loading_workers)
            self._validation = accelerator.prepare(loader)
        checkpoints = settings.run_folder / "checkpoints"
        self.checkpoints = Checkpoints(checkpoints, accelerator, self.classifier, settings.checkpoints_kept)
        self.progress = Progress(settings=as_json(settings))

    def fit(self) -> None:
        """Train until the last epoch, early stopping, or a signal to stop; write checkpoints on the way."""
        settings = self.settings
        set_seed(settings.seed, device_specific=True)
        if settings.resume_from_checkpoint is not None:
            self.progress = self.checkpoints.load(settings.resume_from_checkpoint)
        if settings.report_to is not None:
            config = {name: value for name, value in as_json(settings).items() if value is not None}
            self.accelerator.init_trackers("spider", config=config)
        with _StopSignal() as self._stop, self._progress_bar() as bar:
            while self.progress.epoch < settings.epochs and not self._is_out_of_patience():
                self._train_epoch(bar)
                self._finish_epoch()

    def export(self) -> None:
        """Save the best model, or the last one without a validation split, as a complete repository."""
        if self.progress.best_checkpoint is not None:
            self.checkpoints.load_weights(self.settings.run_folder / "checkpoints" / self.progress.best_checkpoint)
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            return
        model = self.accelerator.unwrap_model(self.classifier).model
        merge_lora(model)
        model.freeze_backbone()
        model.config.training = self._facts()
        save_model_folder(model.eval(), self.image_processor, self.settings.output_dir)
        logger.info("saved %s", self.settings.output_dir)

    def _datasets(self, model: Any) -> dict[str, Any]:
        """The data set of each split that is needed, on embeddings if the backbone is frozen, else on pixels."""
        splits = {name: self.data.splits[name] for name in ("train", "validation") if name in self.data.splits}
        names = unique_patch_names(splits)
        if self.settings.train_backbone != "frozen":
            opened = names.to_pylist()
            rows_of = rows_among(names)
            return {
                key: PixelRegions(region_grid(split, rows_of), opened, self.data.patches)
                for key, split in splits.items()
            }
        settings = EmbeddingSettings(
            folder=self.settings.embedding_store or self.settings.run_folder / "embeddings",
            dtype=self.settings.embedding_dtype,
            compile=self.settings.embedding_compile,
            batch_size=self.settings.embedding_batch_size,
            num_workers=self.settings.num_workers,
        )
        model.to(self.accelerator.device)
        store = embed_patches_once(names, self.data.patches, model, self.image_processor, self.accelerator, settings)
        return {key: EmbeddedRegions(region_grid(split, store.rows), store) for key, split in splits.items()}

    @property
    def _loading_workers(self) -> int:
        # Rows of a store are there at once; a worker would only copy them.
        return 0 if self.settings.train_backbone == "frozen" else self.settings.num_workers

    def _prepare_training(self, model: Any, dataset: Any) -> None:
        settings, accelerator = self.settings, self.accelerator
        if accelerator.device.type == "cpu":
            speed_up_dropout(model)
        model.train()
        self._accumulation = settings.gradient_accumulation_steps
        plan = BatchPlan(
            batch_size=settings.batch_size,
            parts=accelerator.num_processes * self._accumulation,
            seed=settings.seed,
            order=settings.batch_order,
            context_dropout=settings.context_dropout,
            flip=settings.flip,
        )
        self._regions = len(dataset)
        self._steps_per_epoch = plan.steps(self._regions)
        weights = class_weights_of(dataset.grid.labels, len(self.class_names), settings.class_weights)
        self._sampler = MicroBatchSampler(plan, dataset.grid, weights, accelerator.process_index, self._accumulation)
        self._loader: Any
        if settings.train_backbone == "frozen":
            pin_memory = accelerator.device.type == "cuda"
            self._loader = EmbeddedBatchLoader(dataset, self._sampler, pin_memory)
        else:
            self._loader = micro_batch_loader(dataset, self._sampler, settings.num_workers)
        optimizer = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad],
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
        )
        classifier = RegionClassifier(model, PatchNormalizer(self.image_processor))
        self.classifier, self._optimizer = accelerator.prepare(classifier, optimizer)
        # Not prepared: accelerate would step it once per process.
        self._schedule = get_cosine_schedule_with_warmup(
            self._optimizer,
            round(settings.warmup_epochs * self._steps_per_epoch),
            settings.epochs * self._steps_per_epoch,
        )
        accelerator.register_for_checkpointing(self._schedule)

    def _progress_bar(self) -> tqdm:
        done = self.progress.epoch * self._regions + self.progress.step * self.settings.batch_size
        return tqdm(
            total=self.settings.epochs * self._regions,
            initial=done,
            unit="region",
            disable=not self.accelerator.is_main_process,
        )

    def _train_epoch(self, bar: tqdm) -> None:
        progress, every = self.progress, self.settings.checkpoint_every
        self.classifier.train()
        self._sampler.start_at(progress.epoch, progress.step)
        started, seen = time.perf_counter(), 0
        batches = iter(self._loader)
        for step in range(progress.step, self._steps_per_epoch):
            loss, stop = self._step(batches)
            progress.step += 1
            progress.global_step += 1
            progress.loss_sum += loss
            regions = min(self.settings.batch_size, self._regions - step * self.settings.batch_size)
            seen += regions
            bar.set_postfix(loss=f"{loss:.3f}", epoch=progress.epoch + 1)
            bar.update(regions)
            self.accelerator.log({"train_loss": loss, "learning_rate": self._rate()}, step=progress.global_step)
            if stop:
                path = self.checkpoints.save(progress)
                raise SystemExit(f"Stopped by SIGTERM; --resume_from_checkpoint latest goes on from {path}.")
            if every is not None and progress.global_step % every == 0 and progress.step < self._steps_per_epoch:
                self.checkpoints.save(progress)
        self._regions_per_second = seen / (time.perf_counter() - started)

    def _step(self, batches: Any) -> tuple[float, bool]:
        """One optimizer step; returns the loss over its whole batch, and whether some process was told to stop."""
        accelerator = self.accelerator
        total = torch.zeros(2, device=accelerator.device)
        for number in range(self._accumulation):
            batch = send_to_device(next(batches), accelerator.device, non_blocking=True)
            last = number == self._accumulation - 1
            with nullcontext() if last else accelerator.no_sync(self.classifier):
                logits = self.classifier(batch)
                losses = nn.functional.cross_entropy(
                    logits.float(), batch["labels"], reduction="none", label_smoothing=self.settings.label_smoothing
                )
                loss = (losses * batch["weights"]).sum()
                total[0] += loss.detach()
                # Weights sum to 1 over all processes, and distributed training takes the mean of their gradients.
                accelerator.backward(loss * accelerator.num_processes)
        total[1] += float(self._stop.received)
        loss_sum, stops = accelerator.reduce(total, reduction="sum").tolist()
        if not np.isfinite(loss_sum):
            last_good = self.checkpoints.latest()
            raise FloatingPointError(
                f"The loss is {loss_sum} in step {self.progress.global_step + 1}. "
                + (f"The last good checkpoint is {last_good}. " if last_good else "There is no checkpoint yet. ")
                + f"Lower --learning_rate ({self.settings.learning_rate:g}), or set --max_grad_norm."
            )
        if self.settings.max_grad_norm is not None:
            accelerator.clip_grad_norm_(self.classifier.parameters(), self.settings.max_grad_norm)
        self._optimizer.step()
        if not accelerator.optimizer_step_was_skipped:
            self._schedule.step()
        self._optimizer.zero_grad()
        return loss_sum, stops > 0

    def _finish_epoch(self) -> None:
        """Validate, note the epoch, write a checkpoint."""
        progress = self.progress
        row = {
            "epoch": progress.epoch + 1,
            "step": progress.global_step,
            "learning_rate": self._rate(),
            "train_loss": progress.loss_sum / self._steps_per_epoch,
            "regions_per_second": round(self._regions_per_second, 1),
            **self._validate(),
        }
        progress.history.append(row)
        progress.epoch, progress.step, progress.loss_sum = progress.epoch + 1, 0, 0.0
        if self._validation is not None:
            self._note_validation(row[f"validation_{SCORE}"], row["validation_loss"])
        self.checkpoints.save(progress)
        self.accelerator.log({k: v for k, v in row.items() if k != "step"}, step=progress.global_step)
        if self.accelerator.is_main_process:
            write_history(self.settings.run_folder, progress.history)

    def _note_validation(self, score: float, loss: float) -> None:
        """Compare an epoch with the best one: by its score, and among equal scores by its loss."""
        progress = self.progress
        best, best_loss = progress.best_score, progress.best_loss
        progress.epochs_without_better += 1
        if best is None or score > best:
            progress.epochs_without_better = 0
        if best is None or (score, -loss) > (best, -best_loss):
            progress.best_score, progress.best_loss = score, loss
            progress.best_checkpoint = f"step_{progress.global_step:08d}"

    def _validate(self) -> dict[str, float]:
        if self._validation is None:
            return {}
        size = self._context_size
        labels, by_size = predict(self.accelerator, self.classifier, self._validation, [size])
        probabilities = by_size[size]
        metric = SpiderMetric()
        metric.add_batch(predictions=probabilities, references=labels)
        figures = metric.compute() or {}
        likelihood = probabilities[np.arange(len(labels)), labels]
        loss = float(-np.log(np.maximum(likelihood, np.finfo(np.float32).tiny)).mean())
        kept = {f"validation_{name}": figures[name] for name in ("accuracy", SCORE)}
        return {"validation_loss": loss, **kept}

    def _rate(self) -> float:
        return self._schedule.get_last_lr()[0]

    def _is_out_of_patience(self) -> bool:
        patience = self.settings.early_stopping_patience
        return patience is not None and self.progress.epochs_without_better >= patience

    def _facts(self) -> dict[str, Any]:
        """What config.json, which may be published, says of the training: no path of this machine."""
        train = self.data.splits["train"]
        labels = np.asarray(train.with_format("numpy")["label"])
        counts = np.bincount(labels, minlength=len(self.class_names)).tolist()
        settings = {name: getattr(self.settings, name) for name in _FACTS}
        source = self.settings.init_from or self.settings.backbone
        return {
            "dataset": self.data.name,
            "base_model": source if is_hub_id(source) else None,
            "regions": train.num_rows,
            "regions_per_class": dict(zip(self.class_names, counts)),
            "slides": len(train.unique("slide_id")),
            "best_validation_macro_f1": self.progress.best_score,
            "epochs": self.progress.epoch,
            "settings": settings,
        }


class _StopSignal:
    """Notes SIGTERM while the block runs, so that a run can end on a checkpoint."""

    def __init__(self) -> None:
        self.received = False

    def __enter__(self) -> "_StopSignal":
        self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGTERM, self._previous)

    def _note(self, number: int, frame: object) -> None:
        self.received = True


def _check_output_folder(settings: TrainingSettings) -> None:
    checkpoints = settings.run_folder / "checkpoints"
    if settings.resume_from_checkpoint is not None:
        find_checkpoint(checkpoints, settings.resume_from_checkpoint)
    elif any(checkpoints.glob("step_*")):
        raise ValueError(
            f"{checkpoints} holds the checkpoints of an earlier run. Go on with --resume_from_checkpoint latest, "
            "choose another --output_dir, or remove them."
        )


def _make_accelerator(settings: TrainingSettings) -> Accelerator:
    precision = settings.mixed_precision
    told = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")  # accelerate launch says "no" where it was told nothing
    if precision is None:
        precision = "fp16" if told == "no" and torch.cuda.is_available() else told
    accelerator = make_accelerator(
        mixed_precision=precision, log_with=settings.report_to, project_dir=str(settings.run_folder)
    )
    if settings.report_to is not None and not accelerator.log_with:
        raise ValueError(f"--report_to {settings.report_to} needs that package, which is not installed.")
    return accelerator


def _load_data(accelerator: Accelerator, settings: TrainingSettings, data_settings: DataSettings) -> RegionData:
    """Regions, in the class order of the model to start from if it has the same classes."""
    with accelerator.main_process_first():
        data = load_regions(data_settings)
    if "train" not in data.splits:
        raise ValueError(f"{data.name} has no train split, only {sorted(data.splits)}.")
    names = data.splits["train"].features["label"].names
    for split in ("train", "validation"):
        present = [names[i] for i in data.splits[split].unique("label")] if split in data.splits else names
        if len(present) < 2:
            raise ValueError(
                f"The {split} split of {data.name} has regions of the classes {present}; expected two or more. "
                "Another --validation_fraction or --seed cuts another validation split."
            )
    if settings.init_from is not None:
        known = remote_code.config_class().from_pretrained(settings.init_from).class_names
        if known != names and sorted(known) == sorted(names):
            return load_regions(replace(data_settings, class_names=tuple(known)))
    return data
