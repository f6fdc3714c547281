"""Which regions, under which class names, in which split: mapping, restriction, validation by patient, limits."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..files import read_json_object

_ORDERS = 16  # random orders of the patients, of which the best validation split is taken


def read_class_mapping(path: Path) -> dict[str, str | None]:
    """Read a JSON object `{"old name": "new name" or null}`; null drops the class.

    Raises:
        ValueError: The file is something else; the message names it.
    """
    mapping = read_json_object(path, "The class mapping")
    for old, new in mapping.items():
        if new is not None and (not isinstance(new, str) or not new):
            raise ValueError(f"The class mapping {path} maps {old!r} to {new!r}, expected a class name or null.")
    return mapping


def new_class_names(
    old_names: Sequence[str], mapping: dict[str, str | None], classes: Sequence[str] | None
) -> list[str | None]:
    """What the classes of the data are called; None for those that are left out.

    Args:
        old_names: The classes of the data.
        mapping: Old name -> new name or None; names that it does not mention stay.
        classes: New names to restrict to; None for all.

    Returns:
        A new name or None for each of `old_names`.

    Raises:
        ValueError: The mapping or the restriction names a class that is not there.
    """
    unknown = sorted(set(mapping) - set(old_names))
    if unknown:
        raise ValueError(f"The class mapping names {unknown}, which the data do not have: {sorted(old_names)}.")
    renamed = [mapping.get(name, name) for name in old_names]
    if classes is None:
        return renamed
    present = {name for name in renamed if name is not None}
    unknown = sorted(set(classes) - present)
    if unknown:
        raise ValueError(f"--classes names {unknown}, which the data do not have: {sorted(present)}.")
    return [name if name in classes else None for name in renamed]


def cut_validation(patients: np.ndarray, labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Choose patients for validation, so that each class comes as close to the fraction as whole patients allow.

    A patient is never cut, for the patches of one are alike, and no class loses all its regions to validation.

    Args:
        patients: int `(regions,)`, number of each region's patient; of its slide where nobody names a patient.
        labels: int `(regions,)`, number of each region's class.
        fraction: Of the regions of every class, in (0, 1).
        seed: The same seed gives the same patients.

    Returns:
        bool `(regions,)`, True where a region is for validation; all False if no patient can be spared.
    """
    patient_ids, patients = np.unique(patients, return_inverse=True)
    class_ids, labels = np.unique(labels, return_inverse=True)
    counts = np.zeros((len(patient_ids), len(class_ids)))
    np.add.at(counts, (patients, labels), 1)
    # As shares of the classes, so that rare classes count as much as common ones.
    shares = counts / counts.sum(axis=0)
    whole = counts.sum(axis=0)

    rng = np.random.default_rng([seed, 0])
    orders = np.stack([rng.permutation(len(patient_ids)) for _ in range(_ORDERS)])
    chosen, losses = _choose(orders, shares, counts, whole, fraction)
    losses[~chosen.any(axis=1)] = np.inf
    return chosen[losses.argmin()][patients]


def _choose(
    orders: np.ndarray, shares: np.ndarray, counts: np.ndarray, whole: np.ndarray, fraction: float
) -> tuple[np.ndarray, np.ndarray]:
    """Go through the patients once and take each that brings the shares `(classes,)` nearer to the fraction.

    This is done for several orders of the patients, int `(orders, patients)`, side by side: who is taken in each, and
    how far the shares are off in the end.
    """
    chosen = np.zeros(orders.shape, dtype=bool)
    share, count = np.zeros((len(orders), len(whole))), np.zeros((len(orders), len(whole)))
    losses = np.full(len(orders), np.inf)  # the first patient that can be spared is taken, however large
    for patients in orders.T:
        new_share, new_count = share + shares[patients], count + counts[patients]
        new_losses = ((new_share - fraction) ** 2).sum(axis=1)
        taken = (new_losses < losses) & (new_count < whole).all(axis=1)
        chosen[taken, patients[taken]] = True
        share[taken], count[taken], losses[taken] = new_share[taken], new_count[taken], new_losses[taken]
    return chosen, losses


def limit_per_class(labels: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """Choose at most `limit` regions of every class at random.

    Args:
        labels: int `(regions,)`.
        limit: At least 1.
        seed: The same seed gives the same regions.

    Returns:
        Their sorted indices.
    """
    rng = np.random.default_rng([seed, 1])
    kept = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    kept = [rows if len(rows) <= limit else rng.choice(rows, limit, replace=False) for rows in kept]
    return np.sort(np.concatenate(kept)) if kept else np.empty(0, dtype=int)
