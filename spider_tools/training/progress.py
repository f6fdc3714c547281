"""How far a run is, and what it was made from."""

import math
from dataclasses import dataclass, field
from typing import Any, Optional

import transformers

FORMAT = 2  # of checkpoints


@dataclass
class Progress:
    """How far a run is. `epoch` and `step` are the next ones to do, counted from 0; `step` is within the epoch.

    Attributes:
        identity: What the run was made from, see `resuming`; what is resumed must be made from the same.
        base_model_import: Of the model that the run was started from, see `record.base_model_import`.
        changes: What was changed on resuming: `epoch`, `setting`, `before` and `now`.
        files: sha256 of the other files of the checkpoint, by name.
    """

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
    identity: dict[str, Any] = field(default_factory=dict)
    base_model_import: Optional[dict[str, Any]] = None
    changes: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

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
