"""Patches and embeddings that no model made: sources for an index, and tables for what chooses from one."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from spider_tools.retrieval.patches import SCHEMA, Patches

CONTENT = {"backbone_sha256": "b", "dtype": "float32", "preprocessing": {"patch_size": 28}}


def table_of(slides, places, side=28.0, classes=None, probabilities=None):
    """`Patches` of names of slides and of (x, y), None for what has no place."""
    xs, ys = zip(*[place or (None, None) for place in places]) if places else ((), ())
    sides = [None if x is None else side for x in xs]
    columns = [
        pa.array(slides, pa.string()).dictionary_encode(),
        pa.array(["made up"] * len(slides), pa.string()).dictionary_encode(),
        *(pa.array(values, pa.float64()) for values in (xs, ys, sides, sides)),
        pa.array(classes or [None] * len(slides), pa.string()).dictionary_encode(),
        pa.array(probabilities or [None] * len(slides), pa.float32()),
        pa.array([f"p{number}" if x is None else None for number, x in enumerate(xs)], pa.string()),
    ]
    return Patches(pa.table(columns, schema=SCHEMA))


def clustered(count, hidden=24, clusters=30, seed=0, spread=0.35):
    """Float32 `(count, hidden)`: clusters of uneven size around random centres, of any length."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((clusters, hidden))
    which = (clusters * rng.random(count) ** 2).astype(int)
    vectors = centers[which] + spread * rng.standard_normal((count, hidden))
    return (vectors * rng.uniform(0.5, 20, (count, 1))).astype(np.float32)


def unit(vectors):
    """Of length 1, in float64."""
    return vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)


class MadeUpSource:
    """A source of vectors in memory, on one slide, without overlaps."""

    def __init__(self, vectors, name="s", content=CONTENT):
        self.folder, self.content, self._vectors, self._name = Path(name), dict(content), vectors, name

    def __len__(self):
        return len(self._vectors)

    @property
    def hidden_size(self):
        return self._vectors.shape[1]

    def patches(self):
        places = [(28.0 * (i % 100), 28.0 * (i // 100)) for i in range(len(self))]
        return table_of([self._name] * len(self), places, classes=["Fat"] * len(self), probabilities=[0.5] * len(self))

    def embeddings(self, rows):
        return self._vectors[rows]
