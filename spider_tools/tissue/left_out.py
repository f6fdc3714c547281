"""What is left out of the tissue of a slide: pen, bubbles, folds and blur, by kind and share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from ..slide_files.slide import Slide
from .artifacts import glass_of, ink_of, on_white_glass
from .bubbles import bubbles_of
from .focus import blurred_of
from .folds import folds_of

OF_SLIDE, OF_TISSUE = ("pen", "bubbles"), ("blurred", "folds")  # what the share of each kind is one of
_MUCH = 0.2
_MPP = 8.0  # at which folds and bubbles are looked for


@dataclass(frozen=True, eq=False)
class LeftOut:
    """What of a slide is no tissue, or none that can be classified.

    Attributes:
        places: By kind, "pen", "bubbles", "folds" and "blurred", bool `(height, width)` each, which share no px;
            without "blurred" where the slide is too coarse to tell.
        shares: By the same kinds, 0 to 1. Pen and bubbles mostly lie on glass, so theirs are of the slide; folds and
            blur are of the tissue, themselves among it.
    """

    places: Mapping[str, np.ndarray]
    shares: Mapping[str, float]

    @property
    def anywhere(self) -> np.ndarray:
        """Where anything is left out, bool `(height, width)`."""
        return np.logical_or.reduce(list(self.places.values()))

    @property
    def sentence(self) -> str:
        """The shares, for the report."""
        slide, tissue = (
            ", ".join(f"{kind} {percent(self.shares[kind])}" for kind in kinds if kind in self.shares)
            for kinds in (OF_SLIDE, OF_TISSUE)
        )
        unknown = "" if "blurred" in self.shares else "; blur is not known: the slide is coarser than 2 um/px"
        return f"of the slide: {slide}; of the tissue: {tissue}{unknown}"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the reader of the report has to know: more than a fifth is left out."""
        spoilt = sum(self.shares.get(kind, 0.0) for kind in OF_TISSUE)
        covered = sum(self.shares[kind] for kind in OF_SLIDE)
        if spoilt <= _MUCH and covered <= _MUCH:
            return ()
        return (f"Much is left out, {self.sentence}. See tissue.png; --keep_artifacts takes it for tissue.",)

    @property
    def way_back(self) -> str:
        """What to do where nothing is left of the tissue; nothing to say if nothing was left out."""
        return f" Left out, {self.sentence}; --keep_artifacts keeps it." if self.anywhere.any() else ""

    def as_json(self) -> dict[str, dict[str, Optional[float]]]:
        """The shares for slide.json, None where one is not known."""
        return {
            "of_slide": {kind: self.shares[kind] for kind in OF_SLIDE},
            "of_tissue": {kind: self.shares.get(kind) for kind in OF_TISSUE},
        }


def find_left_out(slide: Slide, pixels: np.ndarray, tissue: np.ndarray, scale: tuple[float, float]) -> LeftOut:
    """Look for all that spoils tissue.

    Args:
        slide: Is read at about 2 um/px for blur.
        pixels: Of all of it, uint8 `(height, width, 3)` at about 8 um/px.
        tissue: bool `(height, width)`, what would be tissue.
        scale: `(x, y)`, level-0 px per px of `tissue`.
    """
    white = on_white_glass(pixels, glass_of(pixels))
    # Small patches make finer masks, in which a nucleus would be as large as a fold.
    finer = max(1, round(_MPP / max(um * factor for um, factor in zip(slide.mpp, scale))))
    coarse = _reduced(white, finer)
    bubbles = _enlarged(bubbles_of(coarse), finer, tissue.shape)
    pen = ink_of(pixels) & ~bubbles
    tissue = tissue & ~bubbles & ~pen
    folds = _enlarged(folds_of(coarse, _reduced(tissue, finer) >= 0.5), finer, tissue.shape) & tissue
    blurred = blurred_of(slide, tissue, scale)
    places: dict[str, Any] = {"pen": pen, "bubbles": bubbles}
    if blurred is not None:
        places["blurred"] = blurred & ~folds
    places["folds"] = folds
    area = {kind: pen.size if kind in OF_SLIDE else max(int(tissue.sum()), 1) for kind in places}
    return LeftOut(places, {kind: float(place.sum() / area[kind]) for kind, place in places.items()})


def _reduced(values: np.ndarray, factor: int) -> np.ndarray:
    """Means of squares of px; what is missing of the last ones repeats the edge."""
    if factor == 1:
        return values
    height, width = (-(-side // factor) for side in values.shape[:2])
    missing = [(0, height * factor - values.shape[0]), (0, width * factor - values.shape[1])]
    padded = np.pad(values, missing + [(0, 0)] * (values.ndim - 2), mode="edge")
    return padded.reshape(height, factor, width, factor, *values.shape[2:]).mean(axis=(1, 3))


def _enlarged(mask: np.ndarray, factor: int, shape: tuple[int, ...]) -> np.ndarray:
    return mask.repeat(factor, axis=0).repeat(factor, axis=1)[: shape[0], : shape[1]]


def percent(share: float) -> str:
    """A share in words that do not say nothing where there is something."""
    return "below 0.1%" if 0 < share < 0.001 else f"{share:.1%}"
