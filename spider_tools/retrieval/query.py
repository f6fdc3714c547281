"""The patches of an index that are nearest to examples."""

import numpy as np

from ..flags import as_json
from .choosing import Chooser
from .examples import Examples, find_examples
from .finding import Finding, check_output, write_finding
from .patch_index import PatchIndex
from .settings import QuerySettings

_MORE = 16  # times as many as are wanted are asked for: the nearest overlap, or are of one slide
_EFFORT, _LEAST_LISTS = 4, 32  # times the lists that the recall needs: beside a full slide the next lie farther away
_UNNAMED = "similar"


def query_index(settings: QuerySettings) -> Finding:
    """Find the patches that are nearest to examples, and write them; see `write_finding`.

    Raises:
        ValueError: The index, the examples or a setting cannot be used.
        OSError: A file cannot be read or written.
    """
    check_output(settings)
    index = PatchIndex(settings.index, settings.verify)
    examples = find_examples(index, settings)
    chooser = Chooser(index.patches, settings.top, settings.per_slide)
    chooser.exclude(examples.rows)
    scores = nearest(index, examples, settings.combine, chooser)
    name = settings.name if settings.name is not None else examples.name or _UNNAMED
    finding = Finding(
        patches=index.patches.take(np.array(chooser.chosen, dtype=np.int64)),
        scores=scores,
        measure="Similarity",
        names=[name] * len(scores),
        slides=index.slides,
        class_names=index.classes,
        asked={"command": "query", **as_json(settings), "examples": len(examples.vectors)},
        remarks=[*examples.remarks, *chooser.shortfall()],
    )
    return write_finding(finding, settings, settings.data_settings(int(index.content["preprocessing"]["patch_size"])))


def nearest(index: PatchIndex, examples: Examples, combine: str, chooser: Chooser) -> np.ndarray:
    """Take the nearest patches that may be taken, from the nearest on.

    What can no longer be taken is searched around, so that a slide that is full hides no other one; each further search
    reads twice as many lists, as it looks farther away.

    Args:
        index: Is searched.
        examples: What for.
        combine: `"mean"`, the mean cosine to all examples, or `"max"`, the largest.
        chooser: Takes them.

    Returns:
        Their cosines, float32, in the order of `chooser.chosen`.
    """
    queries = examples.vectors if combine == "max" else examples.vectors.mean(axis=0, keepdims=True)
    scores: list[float] = []
    effort = max(_EFFORT, _LEAST_LISTS // (index.facts["probes"] or _LEAST_LISTS))
    while not chooser.is_done:
        found, rows = _merged(*index.search(queries, _MORE * chooser.missing, chooser.allowed, effort))
        for score, row in zip(found.tolist(), rows.tolist()):
            if chooser.take(row):
                scores.append(score)
        if not len(rows) and index.reads_all(effort):
            break
        effort *= 2
    return np.array(scores, dtype=np.float32)


def _merged(scores: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of what each query found, `(queries, k)`, as much as is sure to be the nearest to any of them, each row once.

    A row that no query has among its own is nearer to none of them than the last that this query found. So what is
    nearer than the last one of every query is in order, the others may lack a row between them.
    """
    full = (rows >= 0).all(axis=1)
    sure = scores[full].min(axis=1).max() if full.any() else -np.inf
    flat, found = scores.ravel(), rows.ravel()
    kept = (found >= 0) & (flat >= sure)
    order = np.argsort(-flat[kept], kind="stable")
    in_order = found[kept][order]
    _, first = np.unique(in_order, return_index=True)
    first = np.sort(first)
    return flat[kept][order][first], in_order[first]
