"""Three ways to say which patches to annotate next."""

from collections.abc import Callable, Iterable

import numpy as np
from sklearn.cluster import MiniBatchKMeans
from tqdm.auto import tqdm

from .choosing import Chooser

ReadVectors = Callable[[np.ndarray], np.ndarray]
"""Gives the unit vectors, float32 `(n, hidden)`, of rows."""

_BLOCK = 4096


def uncertain(
    margins: np.ndarray, vectors_of: ReadVectors, chooser: Chooser, most_similar: float
) -> tuple[np.ndarray, int]:
    """Take the patches that lie most closely between two classes, and of several that look the same only the first.

    Margin sampling (Scheffer et al., IDA 2001).

    Args:
        margins: Probability of the likeliest class less that of the second, `(n,)`.
        vectors_of: Gives the vectors.
        chooser: Takes them.
        most_similar: Cosine above which two patches are the same.

    Returns:
        The margins of what was taken, and how many were left out because another one looks the same.
    """
    order = np.argsort(margins, kind="stable")
    scores: list[float] = []
    same, taken = 0, np.empty((0, 0), dtype=np.float32)
    for start in range(0, len(order), _BLOCK):
        rows = order[start : start + _BLOCK]
        rows = rows[chooser.allowed[rows]]
        vectors = vectors_of(rows)
        if not taken.size:
            taken = np.empty((chooser.missing, vectors.shape[1]), dtype=np.float32)
        for row, vector in zip(rows.tolist(), vectors):
            if chooser.is_done:
                return np.array(scores), same
            if not chooser.allowed[row]:
                continue
            if (taken[: len(scores)] @ vector > most_similar).any():
                same += 1
            elif chooser.take(row):
                taken[len(scores)] = vector
                scores.append(float(margins[row]))
    return np.array(scores), same


def diverse(vectors: np.ndarray, rows: np.ndarray, covered: Iterable[np.ndarray], chooser: Chooser) -> np.ndarray:
    """Take, one after the other, the patch that is farthest from all that are taken or covered already.

    k-center greedy (Sener & Savarese, ICLR 2018): where no other rule holds, no patch is then farther from the nearest
    chosen one than twice what the best choice of as many could reach. Without covered patches it begins with the one
    nearest to the mean.

    Args:
        vectors: Unit vectors of the candidates, float32 `(n, hidden)`.
        rows: Of the candidates, as the chooser counts, int64 `(n,)`.
        covered: Unit vectors of what counts as taken already, some at a time.
        chooser: Takes them.

    Returns:
        Of each its distance, in the Euclidean distance of unit vectors, from the nearest that was there before it; of
        the very first one 2, which is the largest that there is.
    """
    nearest = np.full(len(vectors), -np.inf, dtype=np.float32)  # cosine to the most similar that is taken
    for block in covered:
        for start in range(0, len(vectors), _BLOCK):
            part = slice(start, start + _BLOCK)
            nearest[part] = np.maximum(nearest[part], (vectors[part] @ block.T).max(axis=1))
    first = np.isneginf(nearest).all()
    distances: list[float] = []
    with tqdm(total=chooser.missing, unit="patch", desc="diverse") as bar:
        while chooser.missing > 0 and (allowed := chooser.allowed[rows]).any():
            ranked = -(vectors @ vectors.mean(axis=0)) if first and not distances else nearest
            chosen = int(np.argmin(np.where(allowed, ranked, np.inf)))
            chooser.take(int(rows[chosen]))
            distances.append(float(np.sqrt(2.0 - 2.0 * nearest[chosen].clip(-1.0, 1.0))))
            nearest = np.maximum(nearest, vectors @ vectors[chosen])
            bar.update()
    return np.array(distances)


def typical(vectors: np.ndarray, rows: np.ndarray, chooser: Chooser, seed: int) -> np.ndarray:
    """Take the medoid of each cluster, from the largest cluster on.

    Clusters are those of k-means (Lloyd 1982; in batches: Sculley, WWW 2010), as many as patches are wanted. The medoid
    by squared distance is the member nearest to the mean; where it may not be taken, the next nearest is.

    Args:
        vectors: Unit vectors of the candidates, float32 `(n, hidden)`.
        rows: Of the candidates, as the chooser counts, int64 `(n,)`.
        chooser: Takes them.
        seed: Of the clusters.

    Returns:
        The cosine of each to the mean of its cluster.
    """
    count = min(chooser.missing, len(rows))
    if count == 0:
        return np.empty(0)
    means = MiniBatchKMeans(count, random_state=seed, batch_size=max(4096, 3 * count), n_init=3).fit(vectors)
    members = [np.flatnonzero(means.labels_ == number) for number in range(count)]
    scores = []
    for cluster in sorted(filter(len, members), key=len, reverse=True):
        center = vectors[cluster].mean(axis=0)
        order = cluster[np.argsort(((vectors[cluster] - center) ** 2).sum(axis=1), kind="stable")]
        allowed = order[chooser.allowed[rows[order]]]
        if len(allowed) and chooser.take(int(rows[allowed[0]])):
            scores.append(float(vectors[allowed[0]] @ center / np.linalg.norm(center).clip(1e-12)))
    return np.array(scores)
