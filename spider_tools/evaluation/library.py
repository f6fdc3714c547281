"""The library `evaluate`, found behind the script of the same name, and the headline figures as one of its metrics."""

import importlib.util
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, Optional

import numpy as np
from datasets import Features, List, Value

from .metrics import checked_regions, headline_figures


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
            predictions: Probabilities, float `(B, classes)`; see `checked_regions`.
            references: Labels, integer `(B,)`.
            kwargs: Nothing else is taken.

        Raises:
            ValueError: They do not fit each other or earlier batches, or are no probabilities.
        """
        probabilities, labels = checked_regions(predictions, references)
        classes = probabilities.shape[1]
        if len(self) and classes != self._num_classes:
            raise ValueError(f"Expected probabilities of {self._num_classes} classes as before, got {classes}.")
        self._num_classes = classes
        if len(labels):
            super().add_batch(predictions=probabilities.astype(np.float64), references=labels, **kwargs)

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Add one region: its probabilities, float `(classes,)`, and its label; errors as in `add_batch`."""
        self.add_batch(predictions=_alone(prediction), references=_alone(reference), **kwargs)

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
        if predictions is None and references is None and len(self) == 0:
            raise ValueError("There is no region to evaluate: `add_batch` was not called, or only with empty batches.")
        return super().compute(predictions=predictions, references=references, **kwargs)

    def _compute(self, *, predictions: Any = None, references: Any = None) -> dict[str, float]:
        return headline_figures(np.asarray(predictions, dtype=np.float64), np.asarray(references, dtype=np.int64))


def _alone(value: Any) -> Any:
    """A batch of one."""
    return value[None] if hasattr(value, "detach") else [value]
