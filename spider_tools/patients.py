"""Whose tissue regions are: regions of one patient resemble each other, so splits and intervals go by patient."""

from collections.abc import Sequence
from typing import Optional


def patients_or_slides(patient_ids: Sequence[Optional[str]], slide_ids: Sequence[str]) -> list[str]:
    """What regions belong together by: the patient, or the slide where nobody names a patient.

    Args:
        patient_ids: Of every region, None where it is not known.
        slide_ids: Of every region.

    Returns:
        `"patient NAME"` or `"slide NAME"` for every region.
    """
    return [
        f"slide {slide}" if patient is None else f"patient {patient}"
        for patient, slide in zip(patient_ids, slide_ids, strict=True)
    ]
