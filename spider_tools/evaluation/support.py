"""The few regions of the train split that prototypes are made of, and what these say of another split."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from accelerate import Accelerator
from datasets import Dataset

from ..data.grid import center_patch_names, unique_patch_names
from ..data.loading import RegionData
from ..embeddings.precompute import embed_patches_once
from ..weights.loading import load_image_processor, load_spider
from .prototypes import FewShot, draw_regions, nearest_prototypes
from .settings import EvaluationSettings


@dataclass(frozen=True, eq=False)
class Support:
    """Regions that prototypes are made of.

    Attributes:
        patches: Names of their central patches, `draws * n` strings.
        labels: Their classes, int64 `(draws, n)`.
        regions_per_class: That each draw holds.
    """

    patches: pa.Array
    labels: np.ndarray
    regions_per_class: int


def draw_support(
    train: Dataset, class_names: Sequence[str], shared: Sequence[int], per_class: int, seed: int
) -> Support:
    """Draw as many regions of every class from a train split.

    Args:
        train: Of `matching_split`.
        class_names: Of the model.
        shared: The numbers of those that the data have too, ascending.
        per_class: How many.
        seed: Chooses them.

    Raises:
        ValueError: A class has too few regions.
    """
    labels = np.asarray(train.with_format("numpy")["label"])
    counts = np.bincount(labels, minlength=len(class_names))
    few = [f"{counts[i]} of {class_names[i]!r}" for i in shared if counts[i] < per_class]
    if few:
        raise ValueError(
            f"--few_shot {per_class} needs {per_class} regions of every class in the train split, got {', '.join(few)}."
        )
    drawn = draw_regions(labels, np.asarray(train["slide_id"], dtype=str), per_class, seed)
    patches = center_patch_names(train.select(drawn.ravel()))
    return Support(patches, np.searchsorted(shared, labels[drawn]), per_class)


def ask_prototypes(
    accelerator: Accelerator,
    settings: EvaluationSettings,
    data: RegionData,
    support: Support,
    split: Dataset,
    stores: Path,
) -> FewShot:
    """Classify the central patches of a split by prototypes; all its patches are embedded, beside the support's.

    Args:
        accelerator: Of the run.
        settings: Which model embeds, and how.
        data: Whose split it is.
        support: Of the prototypes.
        split: To classify.
        stores: Folder of patch embeddings, unless the settings name one.
    """
    store = embed_patches_once(
        pa.concat_arrays([unique_patch_names({settings.split: split}), support.patches]),
        data.patches,
        load_spider(settings.model, settings.revision).to(accelerator.device),
        load_image_processor(settings.model, settings.revision),
        accelerator,
        settings.embedding_settings(stores),
    )
    queries = store[store.rows(center_patch_names(split))].numpy()
    embedded = store[store.rows(support.patches)].numpy().reshape(*support.labels.shape, -1)
    predicted = [nearest_prototypes(drawn, labels, queries) for drawn, labels in zip(embedded, support.labels)]
    return FewShot(support.regions_per_class, np.stack(predicted))
