"""Small pictures of patches in the report: those of each class that say most about what the model calls so."""

import base64
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..slide_files.slide_error import UnreadableError
from ..slide_files.view import SlideView
from .predictions import SlidePredictions
from .report_tiles import as_jpeg

_OF_EACH_KIND = 3
_SIDE_PX = 112
_QUALITY = 80


@dataclass(frozen=True)
class PatchPicture:
    """A patch.

    Attributes:
        probability: Of the class that it was given.
        unfamiliarity: None if the model does not know.
        center_level0: `(x, y)` in level-0 px.
        center_um: `(x, y)` in um.
        base64: A JPEG file.
    """

    probability: float
    unfamiliarity: float | None
    center_level0: tuple[float, float]
    center_um: tuple[float, float]
    base64: str


def patch_pictures(view: SlideView, predictions: SlidePredictions) -> dict[str, dict[str, list[PatchPicture]]]:
    """By class, of those that occur, and by kind: the most certain, the least certain and the most unfamiliar patches.

    Three of each at most. No patch is there twice: of a class with few patches, the least certain are those that are
    not among the most certain.

    Args:
        view: The slide at the model's um/px.
        predictions: Of it.
    """
    found = {}
    for number, name in enumerate(predictions.class_names):
        kinds = {}
        for kind, chosen in choose_patches(predictions, number).items():
            pictures = [_picture(view, predictions, index, number) for index in chosen]
            kinds[kind] = [picture for picture in pictures if picture is not None]
        if any(kinds.values()):
            found[name] = kinds
    return found


def choose_patches(predictions: SlidePredictions, number: int) -> dict[str, list[int]]:
    """Predictions of a class by kind, as indices; see `patch_pictures`."""
    members = np.flatnonzero(predictions.predicted == number)
    probability = predictions.probabilities[members, number]
    taken: list[int] = []

    def best(scores: np.ndarray) -> list[int]:
        order = members[np.argsort(-scores, kind="stable")].tolist()
        chosen = [index for index in order if index not in taken][:_OF_EACH_KIND]
        taken.extend(chosen)
        return chosen

    kinds = {"Most certain": best(probability), "Least certain": best(-probability)}
    if predictions.unfamiliarity is not None:
        kinds["Most unfamiliar"] = best(predictions.unfamiliarity[members])
    return kinds


def _picture(view: SlideView, predictions: SlidePredictions, index: int, number: int) -> PatchPicture | None:
    """None where the file has become unreadable."""
    side = predictions.lattice.patch_size
    x, y = predictions.lattice.corners(predictions.positions[index : index + 1])[0].tolist()
    try:
        pixels = view.read((x, y), (side, side))
    except UnreadableError:
        return None
    small = np.asarray(Image.fromarray(pixels).resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BOX))
    center = predictions.centers_level0[index]
    unfamiliarity = predictions.unfamiliarity
    return PatchPicture(
        float(predictions.probabilities[index, number]),
        None if unfamiliarity is None else float(unfamiliarity[index]),
        (float(center[0]), float(center[1])),
        (float(center[0] * predictions.mpp[0]), float(center[1] * predictions.mpp[1])),
        base64.b64encode(as_jpeg(small, _QUALITY)).decode("ascii"),
    )
