"""Checkpoints of a training run: everything that it needs to go on, whole or not at all."""

import json
import logging
import math
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Optional

import transformers
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ..files import sync, write_text

logger = logging.getLogger(__name__)

_PROGRESS = "progress.json"
_WEIGHTS = "trained.safetensors"
# torch and safetensors have errors of their own for a disk that is full.
_WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)


@dataclass
class Progress:
    """How far a run is. `epoch` and `step` are the next ones to do, counted from 0; `step` is within the epoch."""

    epoch: int = 0
    step: int = 0
    global_step: int = 0
    loss_sum: float = 0.0
    best_score: Optional[float] = None
    best_loss: float = math.inf
    best_checkpoint: Optional[str] = None
    epochs_without_better: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    transformers_version: str = transformers.__version__
    settings: dict[str, Any] = field(default_factory=dict)

    def note_validation(self, score: float, loss: float) -> None:
        """Compare the last step's epoch with the best one: by its score, and among equal scores by its loss."""
        best, best_loss = self.best_score, self.best_loss
        self.epochs_without_better += 1
        if best is None or score > best:
            self.epochs_without_better = 0
        if best is None or (score, -loss) > (best, -best_loss):
            self.best_score, self.best_loss = score, loss
            self.best_checkpoint = checkpoint_name(self.global_step)


def checkpoint_name(global_step: int) -> str:
    """The folder of the checkpoint after so many optimizer steps."""
    return f"step_{global_step:08d}"


def find_checkpoint(folder: Path, name: str) -> Path:
    """The checkpoint that a run is to go on from.

    Args:
        folder: Of all checkpoints of the run.
        name: `"latest"` or the folder of a checkpoint.

    Raises:
        ValueError: There is none, or it was written under another major version of Transformers, whose parameter
            groups differ.
    """
    found = _newest(folder) if name == "latest" else Path(name)
    if found is None or not (found / _PROGRESS).is_file():
        raise ValueError(f"There is no checkpoint to resume from in {folder if name == 'latest' else name}.")
    version = _read_progress(found).transformers_version
    written, running = (v.split(".")[0] for v in (version, transformers.__version__))
    if written != running:
        raise ValueError(
            f"{found} was written under Transformers {version} and cannot be resumed under "
            f"{transformers.__version__}: the optimizer's groups differ. Install Transformers {written}."
        )
    return found


class Checkpoints:
    """Writes, finds and loads the checkpoints of a run.

    Only the weights that learn are stored: a frozen backbone is where the run got it from. Optimizer, scheduler,
    gradient scaler and random states are stored by accelerate.

    Args:
        folder: Of all checkpoints, `step_00000123` and so on.
        accelerator: With the model, the optimizer and the scheduler prepared or registered.
        model: The prepared model.
        kept: Newest checkpoints that are kept, beside the best.
    """

    def __init__(self, folder: Path, accelerator: Accelerator, model: nn.Module, kept: int) -> None:
        self._folder = folder
        self._accelerator = accelerator
        self._model = model
        self._kept = kept
        # accelerate would write all weights, the frozen ones too; these hooks take the weights out of its hands.
        accelerator.register_save_state_pre_hook(lambda models, weights, folder: weights.clear())
        accelerator.register_load_state_pre_hook(lambda models, folder: models.clear())

    def save(self, progress: Progress) -> Path:
        """Write a checkpoint under a temporary name, then give it its own; every process calls this.

        Raises:
            OSError: It cannot be written, for instance on a full disk; older checkpoints are untouched.
        """
        target = self._folder / checkpoint_name(progress.global_step)
        unfinished = self._folder / f".{target.name}.unfinished"
        is_main = self._accelerator.is_main_process
        try:
            if is_main:
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir(parents=True)
            self._accelerator.wait_for_everyone()
            self._accelerator.save_state(str(unfinished))
            if is_main:
                save_file(self._trained_weights(), unfinished / _WEIGHTS)
                write_text(unfinished / _PROGRESS, json.dumps(asdict(progress), indent=1))
                sync(unfinished)
            self._accelerator.wait_for_everyone()
            if is_main:
                shutil.rmtree(target, ignore_errors=True)
                os.replace(unfinished, target)
                self._remove_old(progress)
            self._accelerator.wait_for_everyone()
        except _WRITE_ERRORS as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            last = self.latest()
            raise OSError(
                f"The checkpoint {target.name} could not be written ({error}). "
                + (f"The last good one is {last}." if last else "There is no earlier one.")
            ) from error
        return target

    def latest(self) -> Optional[Path]:
        """The newest whole checkpoint, if there is one."""
        return _newest(self._folder)

    def load(self, name: str) -> Progress:
        """Restore the state of a checkpoint.

        Args:
            name: `"latest"` or the folder of a checkpoint.

        Raises:
            ValueError: There is none, or it does not fit this run.
        """
        folder = find_checkpoint(self._folder, name)
        progress = _read_progress(folder)
        self.load_weights(folder)
        self._accelerator.load_state(str(folder))
        logger.info("resumed from %s: epoch %d, step %d", folder, progress.epoch, progress.step)
        return progress

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

    def _trained_parameters(self) -> list[tuple[str, Any]]:
        model = self._accelerator.unwrap_model(self._model)
        return [(name, p) for name, p in model.named_parameters() if p.requires_grad]

    def _trained_weights(self) -> dict[str, Any]:
        return {name: p.detach().cpu().contiguous() for name, p in self._trained_parameters()}

    def _remove_old(self, progress: Progress) -> None:
        found = sorted(self._folder.glob("step_*"))
        for path in found[: -self._kept]:
            if path.name != progress.best_checkpoint:
                shutil.rmtree(path)


def _newest(folder: Path) -> Optional[Path]:
    found = sorted(path.parent for path in folder.glob(f"step_*/{_PROGRESS}"))
    return found[-1] if found else None


def _read_progress(checkpoint: Path) -> Progress:
    return Progress(**json.loads((checkpoint / _PROGRESS).read_text(encoding="utf-8")))
