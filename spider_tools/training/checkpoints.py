"""Checkpoints of a training run: everything that it needs to go on, whole or not at all, and nothing that can run."""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import torch
import transformers
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..files import file_sha256, read_json_object, readable_as_umask_says, sync, write_text
from .progress import FORMAT, Progress, checkpoint_name
from .run_state import load_optimizer, load_random_state, rebase_schedule, save_optimizer, save_random_state

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)

_PROGRESS = "progress.json"
_WEIGHTS = "trained.safetensors"
_OPTIMIZER = "optimizer.safetensors"
_STATE = "state.json"
# torch and safetensors have errors of their own for a disk that is full.
_WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)


def find_checkpoint(folder: Path, name: str) -> Path:
    """The checkpoint that a run is to go on from, all of whose files are as they were written.

    Args:
        folder: Of all checkpoints of the run.
        name: `"latest"`, which passes over damaged ones with a warning, or the folder of a checkpoint.

    Raises:
        ValueError: There is none, it is damaged, or it was written by an older version of this package or under
            another major version of Transformers, whose parameters have other names.
    """
    if name != "latest":
        chosen = Path(name)
        if not (chosen / _PROGRESS).is_file():
            raise ValueError(f"There is no checkpoint to resume from in {name}.")
        damage = damage_of(chosen)
        if damage:
            others = [str(path) for path in _newest_first(chosen.parent) if path != chosen and not damage_of(path)]
            way = f"Resume from {others[0]} instead." if others else "No other checkpoint beside it is whole."
            raise ValueError(f"The checkpoint {chosen} is damaged: {damage} {way}")
        return chosen
    for path in _newest_first(folder):
        damage = damage_of(path)
        if not damage:
            return path
        logger.warning("the checkpoint %s is damaged and passed over: %s", path, damage)
    raise ValueError(f"There is no checkpoint to resume from in {folder}, none that is whole.")


def damage_of(checkpoint: Path) -> Optional[str]:
    """Why a checkpoint is not what was written, in a sentence that names the file; None if it is whole.

    Raises:
        ValueError: It is whole, but of a version that cannot be resumed.
    """
    try:
        fields = read_json_object(checkpoint / _PROGRESS)
    except ValueError as error:
        return str(error)
    if fields.get("format") != FORMAT:
        raise ValueError(
            f"{checkpoint} was written by an older version of this package, with pickles, which are not read. Start "
            "again in another --output_dir, from the exported model with --init_from if there is one."
        )
    written, running = (v.split(".")[0] for v in (str(fields["transformers_version"]), transformers.__version__))
    if written != running:
        raise ValueError(
            f"{checkpoint} was written under Transformers {fields['transformers_version']} and cannot be resumed under "
            f"{transformers.__version__}: parameters have other names. Install Transformers {written}."
        )
    for name, sha256 in fields["files"].items():
        path = checkpoint / name
        if not path.is_file():
            return f"its file {name} is missing."
        if file_sha256(path) != sha256:
            return f"its file {name} does not fit its checksum."
    return None


def read_progress(checkpoint: Path) -> Progress:
    """What a whole checkpoint says of its run."""
    return Progress(**read_json_object(checkpoint / _PROGRESS))


class Checkpoints:
    """Writes and loads the checkpoints of a run.

    Only the weights that learn are stored: a frozen backbone is where the run got it from.

    Args:
        folder: Of all checkpoints, `step_00000123` and so on.
        accelerator: Says which process this is.
        classifier: The prepared `RegionClassifier`.
        optimizer: Prepared.
        schedule: Of its learning rate.
        kept: Newest checkpoints that are kept, beside the best.
    """

    def __init__(
        self, folder: Path, accelerator: Accelerator, classifier: "nn.Module", optimizer: Any, schedule: Any, kept: int
    ) -> None:
        self._folder = folder
        self._accelerator = accelerator
        self._classifier = classifier
        self._optimizer = optimizer
        self._schedule = schedule
        self._kept = kept

    def save(self, progress: Progress) -> Path:
        """Write a checkpoint under a temporary name, then give it its own; every process calls this.

        Raises:
            FloatingPointError: A weight is NaN or infinite; older checkpoints are untouched.
            OSError: It cannot be written, for instance on a full disk; older checkpoints are untouched.
        """
        self._refuse_weights_that_are_not_finite()
        target = self._folder / checkpoint_name(progress.global_step)
        unfinished = self._folder / f".{target.name}.unfinished"
        is_main = self._accelerator.is_main_process
        try:
            if is_main:
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir(parents=True)
            self._accelerator.wait_for_everyone()
            save_random_state(unfinished / _random_file(self._accelerator.process_index))
            self._accelerator.wait_for_everyone()
            if is_main:
                self._write(unfinished, progress)
                shutil.rmtree(target, ignore_errors=True)
                os.replace(unfinished, target)
                self._remove_old(progress)
            self._accelerator.wait_for_everyone()
        except _WRITE_ERRORS as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            last = self.latest()
            raise OSError(
                f"The checkpoint {target.name} could not be written ({error}). "
                + (f"The last good one is {last}: make room, then --resume_from_checkpoint latest." if last else "")
                + ("" if last else "There is no earlier one.")
            ) from error
        return target

    def latest(self) -> Optional[Path]:
        """The newest checkpoint, if there is one."""
        return next(_newest_first(self._folder), None)

    def load(self, folder: Path) -> Progress:
        """Restore the state of a checkpoint of `find_checkpoint`.

        Raises:
            ValueError: It does not fit this run.
        """
        progress = read_progress(folder)
        self.load_weights(folder)
        load_optimizer(self._optimizer, folder / _OPTIMIZER)
        state = read_json_object(folder / _STATE)
        self._schedule.load_state_dict({**self._schedule.state_dict(), **state["schedule"]})
        if self._accelerator.scaler is not None and state["scaler"] is not None:
            self._accelerator.scaler.load_state_dict(state["scaler"])
        own = folder / _random_file(self._accelerator.process_index)
        if own.is_file():
            load_random_state(own)
        else:
            logger.warning("%s has no random state of this process: its dropout masks are others", folder)
        logger.info("resumed from %s: epoch %d, step %d", folder, progress.epoch, progress.step)
        return progress

    def go_on_at(self, learning_rate: float) -> None:
        """Take this peak of the learning rate, and the schedule of this run, from the next step on."""
        rebase_schedule(self._schedule, self._optimizer, learning_rate)

    def load_weights(self, folder: Path) -> None:
        """Set the weights that learn to those of a checkpoint.

        Raises:
            ValueError: The checkpoint holds other weights than those that learn now.
        """
        stored = load_file(folder / _WEIGHTS)
        current = dict(self._trained_parameters())
        if stored.keys() != current.keys() or any(stored[n].shape != p.shape for n, p in current.items()):
            differing = sorted(stored.keys() ^ current.keys()) or "shapes"
            raise ValueError(f"{folder} holds other weights than the model that is trained: {differing}.")
        for name, parameter in current.items():
            parameter.data.copy_(stored[name])

    def _write(self, unfinished: Path, progress: Progress) -> None:
        save_file({n: p.detach().cpu().contiguous() for n, p in self._trained_parameters()}, unfinished / _WEIGHTS)
        save_optimizer(self._optimizer, unfinished / _OPTIMIZER)
        schedule = {k: v for k, v in self._schedule.state_dict().items() if k != "lr_lambdas"}
        scaler = self._accelerator.scaler
        state = {"schedule": schedule, "scaler": None if scaler is None else scaler.state_dict()}
        write_text(unfinished / _STATE, json.dumps(state))
        progress.files = {path.name: file_sha256(path) for path in sorted(unfinished.iterdir())}
        write_text(unfinished / _PROGRESS, json.dumps(asdict(progress), indent=1))
        readable_as_umask_says(unfinished)
        sync(unfinished)

    def _refuse_weights_that_are_not_finite(self) -> None:
        bad = [name for name, p in self._trained_parameters() if not bool(torch.isfinite(p).all())]
        if bad:
            last = self.latest()
            raise FloatingPointError(
                f"{len(bad)} weights became NaN or infinite, the first is {bad[0]}. Nothing of this step was stored. "
                + (f"The last good checkpoint is {last}." if last else "There is no checkpoint yet.")
            )

    def _trained_parameters(self) -> list[tuple[str, Any]]:
        model = self._accelerator.unwrap_model(self._classifier)
        return [(name, p) for name, p in model.named_parameters() if p.requires_grad]

    def _remove_old(self, progress: Progress) -> None:
        for path in list(_newest_first(self._folder, any_content=True))[self._kept :]:
            if path.name != progress.best_checkpoint:
                shutil.rmtree(path)


def _random_file(process: int) -> str:
    return f"random_states_{process}.safetensors"


def _newest_first(folder: Path, any_content: bool = False) -> Iterator[Path]:
    pattern = "step_*" if any_content else f"step_*/{_PROGRESS}"
    yield from sorted((p if any_content else p.parent for p in folder.glob(pattern)), reverse=True)
