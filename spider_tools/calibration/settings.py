"""How a model is calibrated, as flags."""

from dataclasses import dataclass
from pathlib import Path

from ..evaluation.settings import ModelFlags
from ..flags import setting


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings(ModelFlags):
    """Which model, and where the calibrated one goes."""

    output_dir: Path = setting(help="gets the calibrated model (default: the model's own folder)")
    familiarity: bool = setting(
        False, help="also learn what is familiar, from the train split: embeds the central patch of its regions"
    )
