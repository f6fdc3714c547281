"""What probabilities of classes say, as the columns of a table: the same for regions and for slides."""

from collections.abc import Sequence
from typing import Optional

import numpy as np
import pyarrow as pa


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """How undecided each prediction is.

    Args:
        probabilities: Float `(n, classes)`; each row adds up to 1.

    Returns:
        In nat, float64 `(n,)`, 0 to ln(classes).
    """
    positive = np.where(probabilities > 0, probabilities, 1.0).astype(np.float64)
    return np.maximum(-(positive * np.log(positive)).sum(axis=1), 0.0)  # rounding can take it below 0


def class_column(indices: np.ndarray, class_names: Sequence[str]) -> pa.DictionaryArray:
    """Classes as a column of names, each of which is stored once.

    Args:
        indices: Integer `(n,)`, into the names.
        class_names: Of all classes.
    """
    names = pa.array(list(class_names), pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(indices.astype(np.int32)), names)


def probability_columns(probabilities: np.ndarray, class_names: Sequence[str]) -> dict[str, pa.Array]:
    """Columns by name: `probability: <class>` for every class in the dtype of the probabilities, then `entropy`.

    Args:
        probabilities: Float `(n, classes)`; each row adds up to 1.
        class_names: In the order of the probabilities.
    """
    columns = {
        probability_name(name): pa.array(np.ascontiguousarray(probabilities[:, number]))
        for number, name in enumerate(class_names)
    }
    return {**columns, "entropy": pa.array(entropy(probabilities))}


def probability_name(class_name: str) -> str:
    """Under which name a file holds the probability of a class."""
    return f"probability: {class_name}"


def familiarity_columns(
    unfamiliarity: Optional[np.ndarray], is_familiar: Optional[np.ndarray], rows: int
) -> dict[str, pa.Array]:
    """The columns `unfamiliarity`, float32, and `is_familiar`, bool, of so many rows; null for what is not known."""
    nothing = [None] * rows
    return {
        "unfamiliarity": pa.array(nothing if unfamiliarity is None else unfamiliarity, pa.float32()),
        "is_familiar": pa.array(nothing if is_familiar is None else is_familiar, pa.bool_()),
    }
