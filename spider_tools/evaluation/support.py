"""The few regions of the train split that prototypes are made of, and what these say of another split."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from datasets import Dataset

from ..data.grid import center_patch_names, unique_patch_names
from .asking import AskedModel
from .prototypes import FewShot, draw_regions, nearest_prototypes


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


def ask_prototypes(asked: AskedModel, support: Support, split: Dataset) -> FewShot:
    """Classify the central patches of a split by prototypes; all its patches are embedded, beside the support's.

    Args:
        asked: The model that embeds.
        support: Of the prototypes.
        split: To classify.
    """
    store = asked.store_of(pa.concat_arrays([unique_patch_names({"split": split}), support.patches]))
    queries = store[store.rows(center_patch_names(split))].numpy()
    embedded = store[store.rows(support.patches)].numpy().reshape(*support.labels.shape, -1)
    predicted = [nearest_prototypes(drawn, labels, queries) for drawn, labels in zip(embedded, support.labels)]
    return FewShot(support.regions_per_class, np.stack(predicted))
