"""Which patches of classified slides to annotate next."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..flags import as_json
from . import strategies
from .choosing import Chooser
from .covering import annotated
from .finding import Finding, check_output, write_finding
from .patches import Patches
from .result_folder import ResultFolder
from .settings import SuggestSettings
from .sources import Vectors, find_results

_BLOCK = 4096


def suggest(settings: SuggestSettings) -> Finding:
    """Choose patches of result folders, and write them; see `write_finding`.

    Raises:
        ValueError: A folder, an annotation or a setting cannot be used.
        OSError: A file cannot be read or written.
    """
    check_output(settings)
    results = find_results(settings.results)
    patches = Patches.join([result.patches() for result in results])
    if not len(patches):
        raise ValueError(f"There are no predictions in {', '.join(settings.results)}.")
    slides = {result.name: result.facts for result in results}
    covered = np.empty(0, dtype=np.int64)
    remarks: list[str] = []
    if settings.annotated is not None:
        covered, remarks = annotated(patches, slides, settings.annotated)
        remarks.append(f"{len(covered):,} patches are annotated already: neither they nor what overlaps them is taken.")
    chooser = Chooser(patches, settings.top, settings.per_slide)
    chooser.exclude(covered)
    choice = _choose(results, patches, covered, chooser, settings)
    chosen = patches.take(np.array(chooser.chosen, dtype=np.int64))
    finding = Finding(
        patches=chosen,
        scores=choice.scores,
        measure=choice.measure,
        names=chosen.table["class"].to_pylist(),
        slides=slides,
        class_names=sorted({name for result in results for name in result.class_names}),
        asked={"command": "suggest", **as_json(settings)},
        remarks=[*remarks, *choice.remarks, *chooser.shortfall()],
    )
    return write_finding(finding, settings)


@dataclass(frozen=True, eq=False)
class _Choice:
    scores: np.ndarray
    measure: str
    remarks: tuple[str, ...] = ()


def _choose(
    results: Sequence[ResultFolder], patches: Patches, covered: np.ndarray, chooser: Chooser, settings: SuggestSettings
) -> _Choice:
    vectors = Vectors(results)
    if settings.strategy == "uncertain":
        scores, same = strategies.uncertain(_margins(results), vectors.__getitem__, chooser, settings.most_similar)
        remark = f"{same:,} patches look the same as a suggested one (cosine above {settings.most_similar:g})."
        return _Choice(scores, "Margin", (remark,) if same else ())
    usable = np.flatnonzero(chooser.allowed)
    rows = drawn_alike(usable, patches.slide_numbers[usable], settings.candidates, settings.seed)
    drawn = f"Of {len(usable):,} patches {len(rows):,} were drawn and looked at (--candidates)."
    remarks = (drawn,) if len(rows) < len(usable) else ()
    if settings.strategy == "diverse":
        blocks = (vectors[covered[start : start + _BLOCK]] for start in range(0, len(covered), _BLOCK))
        return _Choice(strategies.diverse(vectors[rows], rows, blocks, chooser), "Distance", remarks)
    return _Choice(strategies.typical(vectors[rows], rows, chooser, settings.seed), "Similarity", remarks)


def drawn_alike(rows: np.ndarray, groups: np.ndarray, most: int, seed: int) -> np.ndarray:
    """At most so many of the rows, at random, as many of every group as it has and the others can match.

    Args:
        rows: int64 `(n,)`.
        groups: Of each, integers `(n,)`.
        most: How many.
        seed: Of the drawing.

    Returns:
        Rows in ascending order.
    """
    if len(rows) <= most:
        return np.sort(rows)
    shuffled = np.random.default_rng(seed).permutation(len(rows))
    by_group = shuffled[np.argsort(groups[shuffled], kind="stable")]
    _, starts, counts = np.unique(groups[by_group], return_index=True, return_counts=True)
    place = np.arange(len(rows)) - np.repeat(starts, counts)  # within the group
    return np.sort(rows[by_group[np.argsort(place, kind="stable")[:most]]])


def _margins(results: Sequence[ResultFolder]) -> np.ndarray:
    """Of all predictions, float32 `(n,)`: the highest probability less the second; of a model of one class 1."""
    margins = []
    for result in results:
        probabilities = np.pad(result.probabilities(), ((0, 0), (0, 1)))
        second, first = np.partition(probabilities, -2, axis=1)[:, -2:].T
        margins.append(first - second)
    return np.concatenate(margins)
