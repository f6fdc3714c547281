"""What a run is made from, and what of it may be another when it is resumed: all else is refused, with both values."""

import hashlib
import logging
from dataclasses import fields
from typing import Any

import numpy as np

from ..data.loading import RegionData
from ..data.settings import DataSettings
from ..flags import as_json
from .progress import Progress
from .settings import TrainingSettings

logger = logging.getLogger(__name__)

# Honoured: they decide how a run goes on, or where it writes, not what was learnt so far.
_FREE = frozenset(
    (
        "output_dir",
        "epochs",
        "early_stopping_patience",
        "gradient_accumulation_steps",
        "embedding_store",
        "embedding_compile",
        "embedding_batch_size",
        "num_workers",
        "checkpoint_every",
        "checkpoints_kept",
        "resume_from_checkpoint",
        "report_to",
        "push_to_hub",
        "hub_model_id",
        "hub_private",
        # Compared by what they give: the backbone's weights, the precision that is used.
        "backbone",
        "backbone_config",
        "init_from",
        "interpolate_positions",
        "mixed_precision",
    )
)
# Honoured from here on, and written down: what a run needs whose loss is no number any more.
_FROM_HERE_ON = ("learning_rate", "max_grad_norm")
_DEFAULTS = {field.name: field.default for field in fields(TrainingSettings)}
# Of the data: where they lie, and which cache they take, is free; what they hold is compared.
_FREE_DATA = frozenset(("dataset", "dataset_revision", "cache_dir", "seed"))


def identity_of(settings: TrainingSettings, data_settings: DataSettings, data: RegionData) -> dict[str, Any]:
    """What a run is made from, in the form of JSON, as far as it is known before the model is there."""
    return {
        "settings": as_json(settings),
        "data_settings": as_json(data_settings),
        "class_names": data.class_names,
        "data": data.fingerprint,
        "regions": {
            name: [len(split), _digest(split)] for name, split in sorted(data.splits.items()) if name != "test"
        },
    }


def check_settings(progress: Progress, settings: TrainingSettings) -> None:
    """Refuse settings that a checkpoint cannot go on with, before any work.

    Raises:
        ValueError: Some differ that decide what was learnt so far; the message names both values.
    """
    # A checkpoint of a version that did not know a setting was trained with what has become its default.
    before, now = _DEFAULTS | progress.identity["settings"], as_json(settings)
    differing = [
        f"--{name} was {before[name]!r}, is {value!r}"
        for name, value in now.items()
        if name not in _FREE and name not in _FROM_HERE_ON and before[name] != _plain(value)
    ]
    if differing:
        raise ValueError(
            f"A run cannot be resumed with other settings than it was started with: {'; '.join(differing)}. Give the "
            "earlier ones, or start another run in another --output_dir."
        )


def check_data(progress: Progress, identity: dict[str, Any]) -> None:
    """Refuse other classes or regions than those of the checkpoint, before any patch is embedded.

    Raises:
        ValueError: They differ; the message says in what.
    """
    before = progress.identity
    if before["class_names"] != identity["class_names"]:
        raise ValueError(
            f"A run cannot be resumed with other classes: they were {before['class_names']}, now they are "
            f"{identity['class_names']}, in the order of the logits."
        )
    if (before["regions"], before["data"]) == (identity["regions"], identity["data"]):
        return
    settings = [
        f"--{name} was {before['data_settings'].get(name)!r}, is {value!r}"
        for name, value in identity["data_settings"].items()
        if name not in _FREE_DATA and before["data_settings"].get(name) != _plain(value)
    ]
    counts = [{name: count for name, (count, _) in found["regions"].items()} for found in (before, identity)]
    raise ValueError(
        f"A run cannot be resumed with other data: there were {counts[0]} regions, now {counts[1]}"
        + (f"; {'; '.join(settings)}" if settings else ", and the files or records are not the same")
        + ". Give the earlier data, or start another run in another --output_dir."
    )


def check_model(progress: Progress, identity: dict[str, Any]) -> None:
    """Refuse another backbone or another precision than the checkpoint's.

    Raises:
        ValueError: They differ.
    """
    for name in ("backbone", "precision"):
        before, now = progress.identity.get(name), identity.get(name)
        if before != now:
            raise ValueError(f"A run cannot be resumed with another {name}: it was {before}, now it is {now}.")


def take_over(progress: Progress, identity: dict[str, Any]) -> None:
    """Note what is changed from here on, and take the identity of this run."""
    for name in (*_FROM_HERE_ON, "epochs"):
        before, now = progress.identity["settings"][name], identity["settings"][name]
        if before != now:
            logger.warning("from step %d on --%s is %s, it was %s", progress.global_step, name, now, before)
            progress.changes.append({"step": progress.global_step, "setting": name, "before": before, "now": now})
    progress.identity = identity


def _plain(value: Any) -> Any:
    """A setting as JSON brings it back."""
    return list(value) if isinstance(value, tuple) else value


def _digest(split: Any) -> str:
    """A digest of the slides, labels and patch names of a split, in its order."""
    table = split.with_format("arrow")[:]
    digest = hashlib.sha256(np.asarray(table["label"].to_numpy(), dtype=np.int64).tobytes())
    for column in (table["slide_id"], table["patches"].combine_chunks().flatten()):
        digest.update("\0".join(name or "" for name in column.to_pylist()).encode())
    return digest.hexdigest()
