"""Metrics of classified regions, 95% intervals by resampling slides, and an `evaluate.Metric` around them.

Conventions of every function here:

- The predicted class is the most probable one; among equals it is the first.
- **Macro averages** run over the classes that occur among the labels or the predictions, and a ratio without a
  denominator counts as 0: a class that is predicted but never true, or true but never predicted, counts as 0; a class
  that is neither is left out. This is scikit-learn's `average="macro", zero_division=0`.
- Balanced accuracy is the mean recall of the classes that occur among the labels. It differs from macro recall only
  where a class is predicted that never occurs.
- **Expected calibration error** follows Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017): 15 bins of
  equal width, open below and closed above, over the probability of the predicted class; the mean over regions of the
  bins' absolute difference between accuracy and mean confidence.
"""

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, Optional

import numpy as np
from datasets import Features, List, Value
from sklearn import metrics as sklearn_metrics

HEADLINE_FIGURES = (
    "accuracy",
    "macro_precision",
    "macro_recall",
    "macro_f1",
    "balanced_accuracy",
    "top3_accuracy",
    "expected_calibration_error",
)
CALIBRATION_BINS = 15
# Percentiles over few slides are too narrow to be called 95%. Simulated for a mean of normal values, they miss the true
# one in 15% of the cases with 5 slides, in 10% with 10, in 7% with 20.
MIN_SLIDES_FOR_INTERVAL = 10
RESAMPLES = 1000
_RESAMPLES_AT_ONCE = 128  # bounds the memory at 128 confusion matrices
_SUM_TOLERANCE = 1e-2  # a softmax in bfloat16 is that inexact


def evaluate_library() -> ModuleType:
    """The library `evaluate`, which the script evaluate.py at the root of this repository hides from a plain import.

    Every entry of `sys.path` is asked in turn, and only a regular package is taken: a script of that name never is.

    Returns:
        The package, registered in `sys.modules` as a plain import would do it.

    Raises:
        ModuleNotFoundError: The library is not installed.
    """
    known = sys.modules.get("evaluate")
    if known is not None and hasattr(known, "__path__") and getattr(known, "__file__", None):
        return known
    spec = _find_package("evaluate")
    library = importlib.util.module_from_spec(spec)
    sys.modules["evaluate"] = library
    try:
        assert spec.loader is not None  # a regular package has one
        spec.loader.exec_module(library)
    except BaseException:
        del sys.modules["evaluate"]
        if known is not None:
            sys.modules["evaluate"] = known
        raise
    return library


def _find_package(name: str) -> ModuleSpec:
    for entry in sys.path:
        spec = PathFinder.find_spec(name, [entry])
        if spec is not None and spec.submodule_search_locations is not None and spec.has_location:
            return spec
    raise ModuleNotFoundError(f"The library {name!r} is not installed: pip install {name}.", name=name)


@dataclass(frozen=True)
class ClassScores:
    """How well one class is recognised.

    Attributes:
        recall: Share of its regions that were predicted as it; what the SPIDER paper calls accuracy of a class.
            0 where `support` is 0.
        precision: Share of the regions predicted as it that belong to it. 0 where `predicted` is 0.
        f1: Harmonic mean of the two. 0 where both counts are 0.
        support: Number of regions of this class.
        predicted: Number of regions predicted as this class.
    """

    recall: float
    precision: float
    f1: float
    support: int
    predicted: int


@dataclass(frozen=True)
class Intervals:
    """95% intervals of the headline figures.

    Attributes:
        ci95: Lower and upper end by name of the figure, or `None` where no interval can be given.
        reason: Why there is none, or `None`.
    """

    ci95: Optional[dict[str, tuple[float, float]]]
    reason: Optional[str] = None


def check_probabilities(probabilities: np.ndarray, labels: np.ndarray) -> None:
    """Refuse what cannot be the probabilities and the true classes of some regions.

    Args:
        probabilities: Float `(regions, classes)`.
        labels: Integer `(regions,)`.

    Raises:
        ValueError: A shape, dtype or range is wrong, or the probabilities of a region do not add up to 1.
    """
    if probabilities.ndim != 2 or not np.issubdtype(probabilities.dtype, np.floating):
        raise ValueError(
            "Expected float probabilities of shape (regions, classes), "
            f"got {probabilities.dtype} of shape {probabilities.shape}."
        )
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"Expected integer labels of shape (regions,), got {labels.dtype} of shape {labels.shape}.")
    regions, classes = probabilities.shape
    if len(labels) != regions:
        raise ValueError(f"Expected one label per region, got {len(labels)} labels and probabilities of {regions}.")
    if classes < 2:
        raise ValueError(f"Expected probabilities of at least two classes, got {classes}.")
    # NaN fails the comparison as well.
    ranged = ((probabilities >= 0) & (probabilities <= 1 + _SUM_TOLERANCE)).all(axis=1)
    wrong = ~(ranged & (np.abs(probabilities.sum(axis=1, dtype=np.float64) - 1) <= _SUM_TOLERANCE))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"Region {row}: expected probabilities in [0, 1] that add up to 1, got {probabilities[row].tolist()}. "
            "Logits need a softmax first."
        )
    outside = (labels < 0) | (labels >= classes)
    if outside.any():
        row = int(outside.argmax())
        raise ValueError(f"Region {row}: expected a label in 0..{classes - 1}, got {labels[row]}.")


def check_comparable(labels: np.ndarray, class_names: Optional[Sequence[str]] = None) -> None:
    """Refuse labels that no figure can be computed from.

    Args:
        labels: Integer `(regions,)`.
        class_names: For the message.

    Raises:
        ValueError: There is no region, or all regions are of one class.
    """
    if len(labels) == 0:
        raise ValueError("There is no region to evaluate: the split is empty.")
    if (labels == labels[0]).all():
        name = labels[0] if class_names is None else repr(class_names[labels[0]])
        raise ValueError(f"All {len(labels)} regions are of class {name}: expected at least two classes.")


def accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Share of the regions whose class was predicted, from two integer arrays `(regions,)`."""
    return float(sklearn_metrics.accuracy_score(labels, predicted))


def macro_precision_recall_f1(labels: np.ndarray, predicted: np.ndarray) -> tuple[float, float, float]:
    """Macro averages (see the module) of precision, recall and F1, from two integer arrays `(regions,)`."""
    precision, recall, f1, _ = sklearn_metrics.precision_recall_fscore_support(
        labels, predicted, average="macro", zero_division=0
    )
    return float(precision), float(recall), float(f1)


def balanced_accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Mean recall of the classes among the labels, from two integer arrays `(regions,)`."""
    # scikit-learn's balanced_accuracy_score is the same, with a warning where a class is predicted that never occurs.
    return float(
        sklearn_metrics.recall_score(labels, predicted, labels=np.unique(labels), average="macro", zero_division=0)
    )


def hits_among_top(probabilities: np.ndarray, labels: np.ndarray, k: int = 3) -> np.ndarray:
    """Whether the true class is among the `k` most probable ones.

    Among equals the first class ranks first, so that `k=1` is the accuracy. With `k` classes or fewer all are hits.

    Returns:
        Bool `(regions,)`.
    """
    true = np.take_along_axis(probabilities, labels[:, None], axis=1)
    earlier = np.arange(probabilities.shape[1])[None, :] < labels[:, None]
    ahead = (probabilities > true) | ((probabilities == true) & earlier)
    return ahead.sum(axis=1) < k


def top_k_accuracy(probabilities: np.ndarray, labels: np.ndarray, k: int = 3) -> float:
    """Share of the regions whose class is among the `k` most probable ones; 1 where there are no more than `k`."""
    return float(hits_among_top(probabilities, labels, k).mean())


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Expected calibration error (see the module), in [0, 1]."""
    bins, gaps = _calibration_gaps(probabilities, labels)
    return float(np.abs(np.bincount(bins, gaps, CALIBRATION_BINS)).sum() / len(labels))


def _calibration_gaps(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bin of every region, and hit (0 or 1) minus confidence; a bin's gap times its size is their sum."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)
    return bins, (probabilities.argmax(axis=1) == labels) - confidence


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts of regions, int64 `(classes, classes)`: rows are true classes, columns are predicted ones."""
    return np.asarray(sklearn_metrics.confusion_matrix(labels, predicted, labels=np.arange(num_classes)))


def per_class_table(labels: np.ndarray, predicted: np.ndarray, class_names: Sequence[str]) -> dict[str, ClassScores]:
    """Scores of every class, in the order of `class_names`, from two integer arrays `(regions,)`."""
    precision, recall, f1, support = sklearn_metrics.precision_recall_fscore_support(
        labels, predicted, labels=np.arange(len(class_names)), average=None, zero_division=0
    )
    counts = np.bincount(predicted, minlength=len(class_names))
    return {
        name: ClassScores(float(recall[i]), float(precision[i]), float(f1[i]), int(support[i]), int(counts[i]))
        for i, name in enumerate(class_names)
    }


def headline_figures(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """All of `HEADLINE_FIGURES`.

    Args:
        probabilities: Float `(regions, classes)`; each row adds up to 1.
        labels: Integer `(regions,)`.

    Returns:
        Figures in [0, 1] by name.

    Raises:
        ValueError: The arrays do not fit, there is no region, or all regions are of one class.
    """
    check_probabilities(probabilities, labels)
    check_comparable(labels)
    predicted = probabilities.argmax(axis=1)
    precision, recall, f1 = macro_precision_recall_f1(labels, predicted)
    return {
        "accuracy": accuracy(labels, predicted),
        "macro_precision": precision,
        "macro_recall": recall,
        "macro_f1": f1,
        "balanced_accuracy": balanced_accuracy(labels, predicted),
        "top3_accuracy": top_k_accuracy(probabilities, labels, 3),
        "expected_calibration_error": expected_calibration_error(probabilities, labels),
    }


def resample_counts(num_slides: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each slide is drawn when as many slides as there are are drawn with replacement.

    Returns:
        int64 `(resamples, slides)`; each row adds up to the number of slides.
    """
    return np.random.default_rng(seed).multinomial(num_slides, np.full(num_slides, 1 / num_slides), size=resamples)


def resampled_figures(
    probabilities: np.ndarray, labels: np.ndarray, slides: np.ndarray, counts: np.ndarray
) -> dict[str, np.ndarray]:
    """The headline figures of resampled sets of slides.

    The sums that the figures are made of are taken once per slide and then weighted, so that the work does not grow
    with regions times resamples.

    Args:
        probabilities: Float `(regions, classes)`.
        labels: Integer `(regions,)`.
        slides: Integer `(regions,)`, the column of `counts` that a region's slide has.
        counts: `(resamples, slides)`, how often each slide is in each resample.

    Returns:
        float64 `(resamples,)` for each of `HEADLINE_FIGURES`.
    """
    classes = probabilities.shape[1]
    num_slides = counts.shape[1]

    def sum_by_slide(column: np.ndarray, width: int, values: Optional[np.ndarray] = None) -> np.ndarray:
        return np.bincount(slides * width + column, values, num_slides * width).reshape(num_slides, width)

    cell = labels * classes + probabilities.argmax(axis=1)
    # Cells that no region is in would only cost time: most are empty where there are many classes.
    cells, cell_column = np.unique(cell, return_inverse=True)
    bins, gaps = _calibration_gaps(probabilities, labels)
    hits = hits_among_top(probabilities, labels, 3)
    sums = np.concatenate(
        [
            sum_by_slide(cell_column, len(cells)),
            sum_by_slide(bins, CALIBRATION_BINS, gaps),
            sum_by_slide(np.zeros_like(bins), 1, hits),
        ],
        axis=1,
    )
    parts = [_figures_of_sums(part, cells, classes) for part in _weighted(counts, sums)]
    return {name: np.concatenate([part[name] for part in parts]) for name in HEADLINE_FIGURES}


def _weighted(counts: np.ndarray, sums: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(counts), _RESAMPLES_AT_ONCE):
        yield counts[start : start + _RESAMPLES_AT_ONCE].astype(np.float64) @ sums


def _figures_of_sums(sums: np.ndarray, cells: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """Headline figures `(resamples,)` from `(resamples, cells + bins + 1)` sums, by the module's conventions."""
    flat = np.zeros((len(sums), classes * classes))
    flat[:, cells] = sums[:, : len(cells)]
    confusion = flat.reshape(-1, classes, classes)
    true = np.diagonal(confusion, axis1=1, axis2=2)
    support, predicted = confusion.sum(axis=2), confusion.sum(axis=1)
    recall = _ratio(true, support)
    present = (support + predicted > 0).sum(axis=1)
    regions = support.sum(axis=1)
    return {
        "accuracy": true.sum(axis=1) / regions,
        "macro_precision": _ratio(true, predicted).sum(axis=1) / present,
        "macro_recall": recall.sum(axis=1) / present,
        "macro_f1": _ratio(2 * true, support + predicted).sum(axis=1) / present,
        "balanced_accuracy": recall.sum(axis=1) / (support > 0).sum(axis=1),
        "top3_accuracy": sums[:, -1] / regions,
        "expected_calibration_error": np.abs(sums[:, len(cells) : -1]).sum(axis=1) / regions,
    }


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def bootstrap_by_slide(
    probabilities: np.ndarray,
    labels: np.ndarray,
    slide_ids: Sequence[str],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Intervals:
    """95% intervals of the headline figures: percentiles over sets of slides drawn with replacement.

    Slides and not regions are drawn, because regions of one slide resemble each other. The calibration error of a
    resample is a little above that of the whole, so its interval lies a little high.

    Args:
        probabilities: Float `(regions, classes)`; each row adds up to 1.
        labels: Integer `(regions,)`.
        slide_ids: The slide of every region.
        resamples: Number of sets that are drawn.
        seed: The same seed draws the same sets, given the same number of slides.

    Returns:
        The intervals, or the reason why there are none: fewer than `MIN_SLIDES_FOR_INTERVAL` slides.

    Raises:
        ValueError: The arrays do not fit, there is no region, all are of one class, or `resamples` is below 1.
    """
    check_probabilities(probabilities, labels)
    check_comparable(labels)
    if len(slide_ids) != len(labels):
        raise ValueError(f"Expected one slide per region, got {len(slide_ids)} slides and {len(labels)} regions.")
    if resamples < 1:
        raise ValueError(f"`resamples` must be at least 1, got {resamples}.")
    names, slides = np.unique(np.asarray(slide_ids, dtype=str), return_inverse=True)
    if len(names) < MIN_SLIDES_FOR_INTERVAL:
        return Intervals(None, no_interval_reason(len(names)))
    samples = resampled_figures(probabilities, labels, slides, resample_counts(len(names), resamples, seed))
    return Intervals({name: percentile_interval(values) for name, values in samples.items()})


def percentile_interval(samples: np.ndarray) -> tuple[float, float]:
    """The 2.5% and 97.5% percentiles of float `(resamples,)`."""
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(low), float(high)


def no_interval_reason(num_slides: int) -> str:
    """Why so few slides give no interval."""
    return (
        f"No 95% interval can be given: the regions come from {num_slides} slide{'s' if num_slides != 1 else ''}, "
        f"and resampling slides needs at least {MIN_SLIDES_FOR_INTERVAL}."
    )


_Metric: Any = evaluate_library().Metric


class SpiderMetric(_Metric):
    """The headline figures as an `evaluate.Metric`, made without the Hub and kept in memory.

    Under distribution every process adds what `accelerator.gather_for_metrics` returns, which has no duplicates, and
    any of them computes the figures of the whole.

    ```python
    metric = SpiderMetric()
    metric.add_batch(predictions=probabilities, references=labels)  # (B, classes) float, (B,) int
    metric.compute()  # {"accuracy": ..., "macro_precision": ..., ...}
    ```
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"keep_in_memory": True, **kwargs})
        self._num_classes: Optional[int] = None

    def _info(self) -> Any:
        return evaluate_library().MetricInfo(
            description="Accuracy, macro precision, recall and F1, balanced accuracy, top-3 accuracy and calibration.",
            citation="",
            inputs_description="predictions: probabilities (regions, classes); references: labels (regions,).",
            features=Features({"predictions": List(Value("float64")), "references": Value("int64")}),
        )

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Add some regions.

        Args:
            predictions: Probabilities, float `(B, classes)`: an array, or a tensor on any device.
            references: Labels, integer `(B,)`.
            kwargs: Nothing else is taken.

        Raises:
            ValueError: They do not fit each other or earlier batches, or are no probabilities.
        """
        probabilities, labels = _to_numpy(predictions), _to_numpy(references)
        check_probabilities(probabilities, labels)
        classes = probabilities.shape[1]
        if len(self) and classes != self._num_classes:
            raise ValueError(f"Expected probabilities of {self._num_classes} classes as before, got {classes}.")
        self._num_classes = classes
        if len(labels):
            super().add_batch(predictions=probabilities.astype(np.float64), references=labels, **kwargs)

    def compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> Optional[dict[str, float]]:
        """Compute the figures of all that was added, and forget it.

        Args:
            predictions: Probabilities to add first, as in `add_batch`.
            references: Their labels.
            kwargs: Nothing else is taken.

        Returns:
            Figures in [0, 1] by name; `None` on other processes where `num_process` was given.

        Raises:
            ValueError: Nothing was added, or regions of one class only.
        """
        if predictions is None and len(self) == 0:
            raise ValueError("There is no region to evaluate: `add_batch` was not called, or only with empty batches.")
        return super().compute(predictions=predictions, references=references, **kwargs)

    def _compute(self, *, predictions: Any = None, references: Any = None) -> dict[str, float]:
        return headline_figures(np.asarray(predictions, dtype=np.float64), np.asarray(references, dtype=np.int64))


def _to_numpy(values: Any) -> np.ndarray:
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        # numpy has no bfloat16.
        values = (values.double() if values.is_floating_point() else values).numpy()
    return np.asarray(values)
