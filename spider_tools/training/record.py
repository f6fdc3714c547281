"""What a training run leaves beside its model: settings, environment, history and its curves."""

import csv
import io
import json
import platform
import subprocess
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from ..files import replacing, write_text
from ..remote_code import REPOSITORY_ROOT

_PACKAGES = ("accelerate", "datasets", "numpy", "peft", "safetensors", "torch", "transformers")


def write_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write `settings.json`, everything the run was told, and `environment.json`, where it ran."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "settings.json", json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
    write_text(folder / "environment.json", json.dumps(environment(), indent=2) + "\n")


def environment() -> dict[str, Any]:
    """Versions, hardware and the state of the code."""
    installed = {d.metadata["Name"]: d.version for d in distributions() if d.metadata["Name"] in _PACKAGES}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": dict(sorted(installed.items())),
        "gpu": device,
        "threads": torch.get_num_threads(),
        "git": {"commit": _git("rev-parse", "HEAD"), "changed_files": _git("status", "--porcelain")},
    }


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


def _git(*arguments: str) -> Any:
    """The output of a git command in the repository, or None where there is neither git nor a repository."""
    command = ["git", "-C", str(REPOSITORY_ROOT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except FileNotFoundError:
        return None
    return done.stdout.strip().splitlines() if done.returncode == 0 else None
