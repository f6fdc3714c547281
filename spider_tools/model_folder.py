"""A trained model as a complete repository: code, configurations and weights."""

import os
import shutil
from pathlib import Path
from typing import Any

from . import remote_code


def save_model_folder(model: Any, image_processor: Any, folder: Path) -> None:
    """Write a model repository beside its place, then move its files there, config.json last.

    Without config.json a folder does not load, so that no reader takes a half-written one for a model.

    Args:
        model: A `SpiderForImageClassification`.
        image_processor: Its `SpiderImageProcessor`.
        folder: Made if absent; files of an earlier model are replaced, others left alone.
    """
    unfinished = folder / ".model.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    remote_code.processor_class()(image_processor).save_pretrained(unfinished)
    (folder / "config.json").unlink(missing_ok=True)
    for stale in folder.glob("model*.safetensors*"):
        stale.unlink()
    move_in(unfinished, folder)
    unfinished.rmdir()


def move_in(unfinished: Path, folder: Path) -> None:
    """Move the files of a model to their place, config.json last."""
    for path in sorted(unfinished.iterdir(), key=lambda path: path.name == "config.json"):
        os.replace(path, folder / path.name)
