"""Patches as the backbone takes them."""

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ..remote_code import SpiderImageProcessor


class PatchNormalizer:
    """Turns patches into the backbone's input with the model's own image processor.

    Args:
        image_processor: Of its fields only the context size is left out of account.
    """

    def __init__(self, image_processor: "SpiderImageProcessor") -> None:
        self._processor = type(image_processor)(**{**image_processor.to_dict(), "context_size": 1})

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """Float `(patches, 3, P, P)` from uint8 `(patches, P, P, 3)`."""
        return self._processor(patches, return_tensors="pt", input_data_format="channels_last")["pixel_values"][:, 0]
