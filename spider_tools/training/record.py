"""What a training run says of itself: facts for config.json, the history of its epochs, and its curves."""

import csv
import io
from pathlib import Path
from typing import Any, Optional

import numpy as np
from matplotlib.figure import Figure

from ..data.loading import RegionData
from ..files import replacing, write_text
from ..hub import is_hub_id
from ..imported_folder import import_of_folder
from ..weights.loading import load_config
from ..weights.reading import locate
from .progress import Progress
from .settings import TrainingSettings

# Hyper-parameters that config.json notes.
_PUBLISHED_SETTINGS = (
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
    "views",
    "seed",
)


def training_facts(settings: TrainingSettings, data: RegionData, progress: Progress) -> dict[str, Any]:
    """What config.json, which may be published, says of the training: no path of this machine."""
    train = data.splits["train"]
    labels = np.asarray(train.with_format("numpy")["label"])
    counts = np.bincount(labels, minlength=len(data.class_names)).tolist()
    source = settings.init_from or settings.backbone
    return {
        "dataset": data.name,
        "base_model": source if is_hub_id(source) else None,
        **({"base_model_import": progress.base_model_import} if progress.base_model_import else {}),
        "regions": train.num_rows,
        "regions_per_class": dict(zip(data.class_names, counts)),
        "slides": len(train.unique("slide_id")),
        "best_validation_macro_f1": progress.best_score,
        "epochs": progress.epoch,
        "settings": {name: getattr(settings, name) for name in _PUBLISHED_SETTINGS},
        **({"changes": progress.changes} if progress.changes else {}),
    }


def base_model_import(settings: TrainingSettings) -> Optional[dict[str, Any]]:
    """What is known of the import of the model that training starts from, None if nothing of it was imported.

    Returns:
        `source`, `revision` and `verified`. Of a model that was itself trained from an imported one, what it says.
    """
    if settings.init_from is None:
        return None
    config = load_config(settings.init_from)
    imported = import_of_folder(config, locate(settings.init_from))
    if imported is not None:
        return {name: imported[name] for name in ("source", "revision", "verified")}
    training = getattr(config, "training", None)
    inherited = training.get("base_model_import") if isinstance(training, dict) else None
    return inherited if isinstance(inherited, dict) else None


def write_history(folder: Path, history: list[dict[str, Any]]) -> None:
    """Write `history.csv`, a row per epoch, and `curves.png`."""
    text = io.StringIO()
    columns = list(dict.fromkeys(column for row in history for column in row))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_text(folder / "history.csv", text.getvalue())
    with replacing(folder / "curves.png") as unfinished:
        _draw_curves(history).savefig(unfinished, format="png", dpi=110)


def _draw_curves(history: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss_axes, score_axes = figure.subplots(1, 2)
    for axes, columns in (
        (loss_axes, ("train_loss", "validation_loss")),
        (score_axes, ("validation_macro_f1", "validation_accuracy")),
    ):
        for column in columns:
            points = [(row["epoch"], row[column]) for row in history if row.get(column) is not None]
            if points:
                axes.plot(*zip(*points), marker="o", markersize=3, label=column.replace("_", " "))
                axes.legend()
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
    loss_axes.set_ylabel("loss")
    return figure
