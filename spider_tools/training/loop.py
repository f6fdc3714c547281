"""The training loop: steps, epochs, validation."""

import signal
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import nn
from tqdm.auto import tqdm

from ..evaluation.library import SpiderMetric
from ..evaluation.predict import predict
from ..flags import as_json
from ..workers import worker_failures_in_words
from .progress import Progress
from .record import write_history
from .setup import TrainingSetup

SCORE = "macro_f1"  # on the validation split; the best checkpoint has the highest


def fit(setup: TrainingSetup, progress: Progress) -> Progress:
    """Train until the last epoch, early stopping, or a signal to stop; write checkpoints on the way.

    Args:
        setup: Is trained.
        progress: Where to start; of a checkpoint that was loaded, or a new one.

    Returns:
        How far the run came, with its history.

    Raises:
        SystemExit: The run was told to stop, by SIGTERM or Ctrl-C; it ended on a checkpoint.
        FloatingPointError: The loss became NaN or infinite; the last checkpoint stays.
        OSError: A checkpoint cannot be written; earlier ones stay.
    """
    settings, accelerator = setup.settings, setup.accelerator
    if settings.report_to is not None:
        config = {name: value for name, value in as_json(settings).items() if value is not None}
        accelerator.init_trackers("spider", config=config)
    with StopSignal() as stop, worker_failures_in_words(), _progress_bar(setup, progress) as bar:
        while progress.epoch < settings.epochs and not is_out_of_patience(setup, progress):
            regions_per_second = train_epoch(setup, progress, stop, bar)
            row = {
                "epoch": progress.epoch + 1,
                "step": progress.global_step,
                "learning_rate": _rate(setup),
                "train_loss": progress.loss_sum / setup.steps_per_epoch,
                "regions_per_second": round(regions_per_second, 1),
                **validate(setup),
            }
            finish_epoch(setup, progress, row)
    return progress


def train_epoch(setup: TrainingSetup, progress: Progress, stop: "StopSignal", bar: tqdm) -> float:
    """Train from where the progress stands to the end of its epoch; returns regions per second of this process's run.

    Raises:
        SystemExit, FloatingPointError, OSError: See `fit`.
    """
    settings = setup.settings
    setup.classifier.train()
    setup.sampler.start_at(progress.epoch, progress.step)
    started, seen = time.perf_counter(), 0
    batches = iter(setup.loader)
    for step in range(progress.step, setup.steps_per_epoch):
        loss, told_to_stop = optimizer_step(setup, batches, stop.received)
        if not np.isfinite(loss):
            raise _not_finite(setup, progress, loss)
        progress.step += 1
        progress.global_step += 1
        progress.loss_sum += loss
        regions = min(settings.batch_size, len(setup.train) - step * settings.batch_size)
        seen += regions
        bar.set_postfix(loss=f"{loss:.3f}", epoch=progress.epoch + 1)
        bar.update(regions)
        setup.accelerator.log({"train_loss": loss, "learning_rate": _rate(setup)}, step=progress.global_step)
        if told_to_stop:
            path = setup.checkpoints.save(progress)
            raise SystemExit(f"Stopped by {stop.name}; --resume_from_checkpoint latest goes on from {path}.")
        every = settings.checkpoint_every
        if every is not None and progress.global_step % every == 0 and progress.step < setup.steps_per_epoch:
            setup.checkpoints.save(progress)
    return seen / (time.perf_counter() - started)


def optimizer_step(
    setup: TrainingSetup, batches: Iterator[dict[str, torch.Tensor]], stop: bool = False
) -> tuple[float, bool]:
    """One optimizer step, unless its loss is not finite.

    Args:
        setup: Is trained.
        batches: Gives the micro-batches of the step.
        stop: Whether this process was told to stop.

    Returns:
        The loss over the whole batch of all processes, and whether some process was told to stop.
    """
    settings, accelerator = setup.settings, setup.accelerator
    total = torch.zeros(2, device=accelerator.device)
    for number in range(settings.gradient_accumulation_steps):
        batch = send_to_device(next(batches), accelerator.device, non_blocking=True)
        last = number == settings.gradient_accumulation_steps - 1
        with nullcontext() if last else accelerator.no_sync(setup.classifier):
            logits = setup.classifier(batch)
            losses = nn.functional.cross_entropy(
                logits.float(), batch["labels"], reduction="none", label_smoothing=settings.label_smoothing
            )
            loss = (losses * batch["weights"]).sum()
            total[0] += loss.detach()
            # Weights sum to 1 over all processes, and distributed training takes the mean of their gradients.
            accelerator.backward(loss * accelerator.num_processes)
    total[1] += float(stop)
    loss_sum, stops = accelerator.reduce(total, reduction="sum").tolist()
    if np.isfinite(loss_sum):
        if settings.max_grad_norm is not None:
            accelerator.clip_grad_norm_(setup.classifier.parameters(), settings.max_grad_norm)
        setup.optimizer.step()
        if not accelerator.optimizer_step_was_skipped:
            setup.schedule.step()
        setup.optimizer.zero_grad()
    return loss_sum, stops > 0


def validate(setup: TrainingSetup) -> dict[str, float]:
    """Loss, accuracy and macro F1 on the validation split; nothing without one."""
    if setup.validation is None:
        return {}
    size = setup.model.config.context_size
    answers = predict(setup.accelerator, setup.classifier, setup.validation, [size])
    labels, probabilities = answers.labels, answers.probabilities[size]
    metric = SpiderMetric()
    metric.add_batch(predictions=probabilities, references=labels)
    figures = metric.compute() or {}
    likelihood = probabilities[np.arange(len(labels)), labels]
    loss = float(-np.log(np.maximum(likelihood, np.finfo(np.float32).tiny)).mean())
    return {"validation_loss": loss, **{f"validation_{name}": figures[name] for name in ("accuracy", SCORE)}}


def finish_epoch(setup: TrainingSetup, progress: Progress, row: dict[str, Any]) -> None:
    """Note an epoch, compare it with the best one, and write a checkpoint."""
    progress.history.append(row)
    progress.epoch, progress.step, progress.loss_sum = progress.epoch + 1, 0, 0.0
    if setup.validation is not None:
        progress.note_validation(row[f"validation_{SCORE}"], row["validation_loss"])
    setup.checkpoints.save(progress)
    setup.accelerator.log({k: v for k, v in row.items() if k != "step"}, step=progress.global_step)
    if setup.accelerator.is_main_process:
        write_history(setup.settings.run_folder, progress.history)


def is_out_of_patience(setup: TrainingSetup, progress: Progress) -> bool:
    """Whether early stopping ends the run."""
    patience = setup.settings.early_stopping_patience
    return patience is not None and progress.epochs_without_better >= patience


class StopSignal:
    """Notes SIGTERM and the first Ctrl-C while the block runs, so that a run can end on a checkpoint."""

    def __init__(self) -> None:
        self.received = False
        self.name = "a signal to another process"

    def __enter__(self) -> "StopSignal":
        self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C does not wait for the step and the checkpoint
        self.received = True
        self.name = signal.Signals(number).name


def _not_finite(setup: TrainingSetup, progress: Progress, loss: float) -> FloatingPointError:
    last_good = setup.checkpoints.latest()
    return FloatingPointError(
        f"The loss is {loss} in step {progress.global_step + 1}. "
        + (f"The last good checkpoint is {last_good}. " if last_good else "There is no checkpoint yet. ")
        + ("--resume_from_checkpoint latest goes on from it" if last_good else "Start again")
        + f" with a lower --learning_rate than {setup.settings.learning_rate:g}, or with --max_grad_norm."
    )


def _rate(setup: TrainingSetup) -> float:
    return setup.schedule.get_last_lr()[0]


def _progress_bar(setup: TrainingSetup, progress: Progress) -> tqdm:
    return tqdm(
        total=setup.settings.epochs * len(setup.train),
        initial=progress.epoch * len(setup.train) + progress.step * setup.settings.batch_size,
        unit="region",
        disable=not setup.accelerator.is_main_process,
    )
