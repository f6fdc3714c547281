"""What a model said about the regions of a split, checked, and as a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np
import pyarrow as pa

from ..patients import patients_or_slides
from ..probabilities import class_column, familiarity_columns, probability_columns
from . import metrics


@dataclass(frozen=True, eq=False)
class Limits:
    """What a model says of the limits of its answers; None for what it does not know.

    Attributes:
        unfamiliarity: Float32 `(regions,)`.
        threshold: Above it a region is unfamiliar.
        class_p_values: Float32 `(regions, classes)`.
    """

    unfamiliarity: Optional[np.ndarray] = None
    threshold: Optional[float] = None
    class_p_values: Optional[np.ndarray] = None

    @property
    def is_familiar(self) -> Optional[np.ndarray]:
        """bool `(regions,)`."""
        if self.unfamiliarity is None or self.threshold is None:
            return None
        return self.unfamiliarity <= self.threshold


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model said about the regions of a split.

    Attributes:
        probabilities: Float32 or float64 `(regions, classes)`, made of what `metrics.checked_regions` takes.
        labels: The true classes, int64 `(regions,)`, likewise.
        slide_ids: The slide of every region.
        class_names: In the order of the probabilities.
        region_ids: Name of the central patch of every region, or `None`.
        patient_ids: The patient of every region, `None` where nobody names one, or `None` for all.
        limits: What the model says of their limits.

    Raises:
        ValueError: Lengths, shapes or ranges do not fit, there is no region, or all regions are of one class.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    slide_ids: Sequence[str]
    class_names: Sequence[str]
    region_ids: Optional[Sequence[str]] = None
    patient_ids: Optional[Sequence[Optional[str]]] = None
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        """Bring arrays to exact dtypes, and refuse what does not fit together."""
        probabilities, labels = metrics.checked_regions(self.probabilities, self.labels)
        object.__setattr__(self, "probabilities", probabilities)
        object.__setattr__(self, "labels", labels)
        regions, classes = self.probabilities.shape
        if len(self.class_names) != classes or len(set(self.class_names)) != classes:
            raise ValueError(f"Expected {classes} different class names, got {list(self.class_names)}.")
        metrics.check_comparable(self.labels, self.class_names)
        for field in ("slide_ids", "region_ids", "patient_ids"):
            values = getattr(self, field)
            if values is not None and len(values) != regions:
                raise ValueError(f"Expected one of `{field}` per region, got {len(values)} for {regions} regions.")
        for said in (self.limits.unfamiliarity, self.limits.class_p_values):
            if said is not None and len(said) != regions:
                raise ValueError(f"Expected limits of {regions} regions, got {len(said)}.")
        metrics.check_slides(self.slide_ids, regions)

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class of every region, int64 `(regions,)`."""
        return self.probabilities.argmax(axis=1)

    @property
    def num_slides(self) -> int:
        """Number of different slides."""
        return len(set(self.slide_ids))

    @property
    def num_patients(self) -> Optional[int]:
        """Number of different patients; None unless one is named for every region."""
        if self.patient_ids is None or None in self.patient_ids:
            return None
        return len(set(self.patient_ids))

    @property
    def drawn_by(self) -> Sequence[str]:
        """What intervals draw as a whole: the patient of every region, or its slide where nobody names one."""
        if self.patient_ids is None:
            return self.slide_ids
        return patients_or_slides(self.patient_ids, self.slide_ids)

    @property
    def drawn_kind(self) -> str:
        """How texts call what `drawn_by` names."""
        return "slide" if self.num_patients is None else "patient"


def predictions_table(predictions: Predictions) -> pa.Table:
    """One row per region.

    Returns:
        `slide_id`, `patient_id` (or null), `patch` (name of the central patch, or null), `true_class`,
        `predicted_class`, one float column `probability: <class>` for every class, `entropy` of the probabilities
        in nat, 0 to ln(classes), and `unfamiliarity` and `is_familiar`, null of a model that does not know.
    """
    names = predictions.class_names
    nothing = [None] * len(predictions.labels)
    patches = nothing if predictions.region_ids is None else list(predictions.region_ids)
    patients = nothing if predictions.patient_ids is None else list(predictions.patient_ids)
    columns = {
        "slide_id": pa.array([str(slide) for slide in predictions.slide_ids], pa.string()),
        "patient_id": pa.array(patients, pa.string()),
        "patch": pa.array(patches, pa.string()),
        "true_class": class_column(predictions.labels, names),
        "predicted_class": class_column(predictions.predicted, names),
    }
    limits = predictions.limits
    doubts = familiarity_columns(limits.unfamiliarity, limits.is_familiar, len(predictions.labels))
    return pa.table({**columns, **probability_columns(predictions.probabilities, names), **doubts})
