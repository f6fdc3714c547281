"""Metrics of classified regions.

Conventions of every function here and in `bootstrap`, which gives their intervals:

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

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
from numpy.typing import ArrayLike
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
_SUM_TOLERANCE = 4e-3  # rounding to bfloat16 moves each probability, and so their sum, by 2^-8 of itself at most


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


def checked_regions(probabilities: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities and the true classes of some regions in dtypes that every figure is exact in.

    This is the one door that both come through, so that what is refused, and what small integers become, is the same
    for figures, intervals, predictions and the metric of the library `evaluate`.

    Args:
        probabilities: Floats `(regions, classes)`, each row of which adds up to 1 within the rounding of bfloat16: an
            array, a list of lists or a tensor on any device.
        labels: Integers `(regions,)`, likewise.

    Returns:
        Probabilities float32 or float64 `(regions, classes)`, and labels int64 `(regions,)`.

    Raises:
        ValueError: A shape, dtype or range is wrong, or the probabilities of a region do not add up to 1.
    """
    probabilities, labels = _as_array("probabilities", probabilities), _as_array("labels", labels)
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
    _check_rows(probabilities)
    outside = (labels < 0) | (labels >= classes)
    if outside.any():
        row = int(outside.argmax())
        raise ValueError(f"Region {row}: expected a label in 0..{classes - 1}, got {labels[row]}.")
    # Products of labels and classes overflow in the small dtypes that labels are often stored in.
    exact = probabilities.dtype if probabilities.dtype in (np.float32, np.float64) else np.dtype(np.float64)
    return probabilities.astype(exact, copy=False), labels.astype(np.int64, copy=False)


def _as_array(what: str, values: ArrayLike) -> np.ndarray:
    tensor: Any = values
    try:
        if hasattr(tensor, "detach"):
            tensor = tensor.detach().cpu()
            # numpy has no bfloat16.
            return (tensor.double() if tensor.is_floating_point() else tensor).numpy()
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"Expected {what} as an array, a list of equally long lists or a tensor: {error}") from error


def _check_rows(probabilities: np.ndarray) -> None:
    sums = probabilities.sum(axis=1, dtype=np.float64)
    # NaN fails the comparison as well.
    ranged = ((probabilities >= 0) & (probabilities <= 1 + _SUM_TOLERANCE)).all(axis=1)
    wrong = ~(ranged & (np.abs(sums - 1) <= _SUM_TOLERANCE))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"Region {row}: expected probabilities in [0, 1] that add up to 1, got {probabilities[row].tolist()}, "
            f"which add up to {sums[row]:.6g}. Logits need a softmax first."
        )


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


def check_slides(slide_ids: Sequence[Any], regions: int) -> None:
    """Refuse what cannot be the slides of some regions.

    Args:
        slide_ids: Their names.
        regions: How many regions there are.

    Raises:
        ValueError: There is not one slide for each region, or one is missing: all of those would be one slide.
    """
    if isinstance(slide_ids, str):
        raise ValueError(f"Expected a list with the slide of every region, got the text {slide_ids!r}.")
    if len(slide_ids) != regions:
        raise ValueError(f"Expected one slide per region, got {len(slide_ids)} slides and {regions} regions.")
    for row, slide in enumerate(slide_ids):
        if slide is None or (isinstance(slide, float) and math.isnan(slide)):
            raise ValueError(f"Region {row}: expected the name of its slide, got {slide}.")


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
    bins, gaps = calibration_gaps(probabilities, labels)
    return float(np.abs(np.bincount(bins, gaps, CALIBRATION_BINS)).sum() / len(labels))


def calibration_gaps(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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


def headline_figures(probabilities: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """All of `HEADLINE_FIGURES`.

    Args:
        probabilities: Float `(regions, classes)`; see `checked_regions`.
        labels: Integer `(regions,)`.

    Returns:
        Figures in [0, 1] by name.

    Raises:
        ValueError: The arrays do not fit, there is no region, or all regions are of one class.
    """
    probabilities, labels = checked_regions(probabilities, labels)
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
