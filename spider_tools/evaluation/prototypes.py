"""Nearest prototypes of a few regions per class: what an evaluation holds beside a head that has learnt.

The method is that of Wang et al., "SimpleShot: Revisiting nearest-neighbor classification for few-shot learning"
(2019): embeddings minus their mean, brought to length 1, and the class whose mean is nearest.
"""

from dataclasses import dataclass

import numpy as np

DRAWS = 10


@dataclass(frozen=True, eq=False)
class FewShot:
    """What prototypes said of the regions of a split.

    Attributes:
        regions_per_class: That each prototype was made of.
        predicted: Classes as `Predictions` number them, int64 `(draws, regions)`.
    """

    regions_per_class: int
    predicted: np.ndarray


def draw_regions(
    labels: np.ndarray, slides: np.ndarray, per_class: int, seed: int = 0, draws: int = DRAWS
) -> np.ndarray:
    """Choose as many regions of each class, of different slides as far as the class has them.

    All slides of a class are equally likely, however many regions they have. Draws are independent of each other.

    Args:
        labels: Integer `(regions,)`; no class may have fewer than `per_class` regions.
        slides: Integer or string `(regions,)`.
        per_class: At least 1.
        seed: The same seed draws the same regions.
        draws: How often to do so.

    Returns:
        int64 `(draws, classes * per_class)`, numbers of regions, by class in ascending order.
    """
    rng = np.random.default_rng([seed, 2])
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.array(
        [np.concatenate([_draw(rows, slides[rows], per_class, rng) for rows in members]) for _ in range(draws)]
    )


def _draw(rows: np.ndarray, slides: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """The first of every slide, then the second, and so on; regions of a slide and slides in random order."""
    shuffled = rng.permutation(len(rows))
    rows, slides = rows[shuffled], np.unique(slides[shuffled], return_inverse=True)[1]
    together = np.argsort(slides, kind="stable")
    turn = np.empty(len(rows), dtype=np.int64)  # the how many-th of its slide
    turn[together] = np.arange(len(rows)) - np.searchsorted(slides[together], slides[together])
    place = rng.permutation(slides.max() + 1)
    return rows[np.lexsort((place[slides], turn))[:number]]


def nearest_prototypes(support: np.ndarray, labels: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The class of the nearest prototype, see the module; among equally near ones it is the first.

    Args:
        support: Embeddings that prototypes are made of, float `(n, hidden)`.
        labels: Their classes, integer `(n,)`.
        queries: Embeddings to classify, float `(regions, hidden)`.

    Returns:
        Classes among `labels`, int64 `(regions,)`.
    """
    support = support.astype(np.float64)
    mean = support.mean(axis=0)
    classes = np.unique(labels)
    directions = _of_length_one(support - mean)
    prototypes = np.stack([directions[labels == label].mean(axis=0) for label in classes])
    # |q - p|^2 without |q|^2, which is the same for all prototypes.
    distances = (prototypes**2).sum(axis=1) - 2 * _of_length_one(queries.astype(np.float64) - mean) @ prototypes.T
    return classes[distances.argmin(axis=1)].astype(np.int64)


def _of_length_one(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)
