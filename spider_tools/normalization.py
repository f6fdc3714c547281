"""The mean and standard deviation that a model's patches are normalised by."""

import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .remote_code import SpiderConfig, SpiderForImageClassification, SpiderImageProcessor


def normalization_of(
    image_processor: "SpiderImageProcessor", config: "SpiderConfig"
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, for values in [0, 1].

    Args:
        image_processor: Of the model; what it does to pixels decides.
        config: Decides where the image processor leaves bytes as they are.

    Raises:
        ValueError: Neither says it.
    """
    if image_processor.do_normalize:
        return list(image_processor.image_mean), list(image_processor.image_std)
    if image_processor.do_rescale:
        return [0.0] * 3, [1.0] * 3
    if config.image_mean is None or config.image_std is None:
        raise ValueError(
            "preprocessor_config.json leaves patches as bytes (do_rescale is false), and config.json has no "
            "`image_mean` and `image_std` to normalise them by. Set them, or do_rescale and do_normalize to true."
        )
    return list(config.image_mean), list(config.image_std)


def let_model_normalize(model: "SpiderForImageClassification", image_processor: "SpiderImageProcessor") -> None:
    """Set the fields by which a model normalises bytes to what its image processor does.

    Raises:
        ValueError: See `normalization_of`.
    """
    model.config.image_mean, model.config.image_std = normalization_of(image_processor, model.config)


def normalizing(
    model: "SpiderForImageClassification", image_processor: "SpiderImageProcessor"
) -> "SpiderForImageClassification":
    """The same model, its weights shared, that normalises bytes as its image processor does; the given one stays.

    Raises:
        ValueError: See `normalization_of`.
    """
    same = copy.copy(model)
    same.config = copy.copy(model.config)
    let_model_normalize(same, image_processor)
    return same
