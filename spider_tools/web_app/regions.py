"""One region: from the uploaded image to what the model says of it, and where it looked."""

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from PIL import Image

from ..images import DECODING_ERRORS, to_rgb
from ..slides.settings import SlideSettings
from .attention_picture import draw_attention
from .model import AppModel

ALPHA = 0.1  # of prediction sets
IMAGE = "a PNG, JPEG or TIFF image"
_FORMATS = ("PNG", "JPEG", "TIFF")


@dataclass(frozen=True)
class RegionAnswer:
    """What the model says of a region.

    Attributes:
        probabilities: By class name, calibrated as far as the model is.
        is_familiar: Whether it is like what the model has learnt from; None if the model does not know.
        unfamiliarity: How unlike it is, about 1 is usual; None likewise.
        threshold: From where on it is unfamiliar; None likewise.
        prediction_set: The classes that cannot be ruled out at `ALPHA`, None if the model does not know.
        context_attention: Rows of how much the class looks at each patch; all of them sum to 1.
        notes: What was done with the image, a sentence each.
        picture: The region with the attention over it.
    """

    probabilities: dict[str, float]
    is_familiar: Optional[bool]
    unfamiliarity: Optional[float]
    threshold: Optional[float]
    prediction_set: Optional[list[str]]
    context_attention: list[list[float]]
    notes: list[str]
    picture: Image.Image

    def as_json(self) -> dict[str, Any]:
        """All but the picture."""
        fields = {name: value for name, value in vars(self).items() if name != "picture"}
        return {**fields, "alpha": ALPHA}


def read_image(path: Path) -> np.ndarray:
    """The pixels of an uploaded image, uint8 `(height, width, 3)`.

    Raises:
        ValueError: It is no image, damaged, too large to decode, or several in one file, as slides are.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as image:
                if getattr(image, "n_frames", 1) > 1:
                    raise ValueError("it holds several images: if it is a slide, give it to the tab for slides.")
                return to_rgb(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path.name} has more than {Image.MAX_IMAGE_PIXELS:,} px: cut the region out first."
        ) from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"{path.name} is no image that can be read here: expected {IMAGE}.") from error
    except DECODING_ERRORS as error:
        raise ValueError(f"{path.name} cannot be used: {error}") from error


def check_region(name: str, pixels: np.ndarray, mpp: Optional[float], without_context: bool, model: AppModel) -> None:
    """Refuse a region of another magnification, or of which too much is missing.

    Raises:
        ValueError: It is; the message says what to do.
    """
    config = model.model.config
    height, width = pixels.shape[:2]
    given = "nothing" if mpp is None else mpp
    if mpp is None or not math.isfinite(mpp) or mpp <= 0:
        raise ValueError(
            f"The um/px of the image must be a number above 0, got {given}; the model reads {config.mpp:g}."
        )
    if abs(mpp / config.mpp - 1) > SlideSettings.mpp_tolerance + 1e-9:
        raise ValueError(
            f"{name} has {mpp:g} um/px, and the model reads {config.mpp:g}. Nothing is resized here: bring it to "
            f"{config.mpp:g} um/px first, where its {width} x {height} px become "
            f"{round(width * mpp / config.mpp)} x {round(height * mpp / config.mpp)}."
        )
    least = config.patch_size if without_context else config.region_size
    if min(height, width) < least:
        advice = (
            f"That is less than one patch, of {config.patch_size} px."
            if min(height, width) < config.patch_size
            else "Cut a larger region around the same centre, or tick 'classify without full context'."
        )
        raise ValueError(
            f"{name} is {width} x {height} px (width x height), expected {model.region}, or larger. {advice}"
        )


@torch.inference_mode()
def classify_region(path: Path, mpp: Optional[float], without_context: bool, model: AppModel) -> RegionAnswer:
    """Classify the centre of an uploaded image.

    Args:
        path: The image.
        mpp: Its um per px, as its owner says.
        without_context: Whether an image that is smaller than a region will do.
        model: Classifies it.

    Raises:
        ValueError: The image cannot be used.
    """
    pixels = read_image(path)
    check_region(path.name, pixels, mpp, without_context, model)
    spider = model.model
    inputs = model.image_processor(pixels, return_tensors="pt", allow_missing_context=without_context).to(spider.device)
    outputs = spider(**inputs, output_attentions=True)
    mask, side = inputs["context_mask"][0].cpu().numpy(), spider.config.context_size
    attention = outputs.context_attention[0].float().cpu().numpy().reshape(side, side)
    probabilities = outputs.logits[0].float().softmax(dim=-1).tolist()
    is_familiar, unfamiliarity = outputs.is_familiar, outputs.unfamiliarity
    return RegionAnswer(
        probabilities=dict(zip(spider.config.class_names, probabilities)),
        is_familiar=None if is_familiar is None else bool(is_familiar[0]),
        unfamiliarity=None if unfamiliarity is None else float(unfamiliarity[0]),
        threshold=spider.config.unfamiliarity_threshold,
        prediction_set=None if outputs.class_p_values is None else outputs.prediction_sets(ALPHA)[0],
        context_attention=attention.tolist(),
        notes=_notes(pixels, mask, model),
        picture=draw_attention(pixels, attention, mask.reshape(side, side), spider.config.patch_size),
    )


def _notes(pixels: np.ndarray, mask: np.ndarray, model: AppModel) -> list[str]:
    notes, size = [], model.model.config.region_size
    height, width = pixels.shape[:2]
    if max(height, width) > size:
        notes.append(f"The image has {width} x {height} px; what was classified is cut from around its centre.")
    if not mask.all():
        notes.append(
            f"Only {mask.sum()} of {mask.size} patches are there: without its surroundings the model errs more often."
        )
    return notes
