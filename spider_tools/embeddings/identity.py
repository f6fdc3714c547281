"""What decides an embedding, so that a changed backbone can never read the embeddings of an older one."""

import hashlib
import json
from typing import TYPE_CHECKING, Any, Optional

import torch
from torch import nn

from ..data.patches import PatchSource
from ..normalization import normalization_of
from ..weights.dinov2_names import in_pieces
from .shards import content_key

if TYPE_CHECKING:
    from ..remote_code import SpiderForImageClassification, SpiderImageProcessor

# What decides the function that a backbone's weights compute.
_ARCHITECTURE_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "layer_norm_eps",
    "image_size",
    "patch_size",
    "num_register_tokens",
    "use_swiglu_ffn",
)


def store_content(
    source: Optional[PatchSource],
    model: "SpiderForImageClassification",
    image_processor: "SpiderImageProcessor",
    dtype: str,
) -> dict[str, Any]:
    """What decides the embeddings of a store, in the form of JSON.

    Raises:
        ValueError: The image processor makes patches of another size than the model takes.
    """
    if image_processor.patch_size != model.config.patch_size:
        raise ValueError(
            f"The image processor makes patches of {image_processor.patch_size} px, the model takes "
            f"{model.config.patch_size} px."
        )
    backbone = model.config.backbone_config
    content = {
        "backbone_sha256": backbone_fingerprint(model.backbone),
        "architecture": {field: getattr(backbone, field) for field in _ARCHITECTURE_FIELDS},
        "preprocessing": _preprocessing(model, image_processor),
        "dtype": dtype,
        "source": getattr(source, "fingerprint", None),
    }
    return json.loads(json.dumps(content))


def _preprocessing(model: "SpiderForImageClassification", image_processor: "SpiderImageProcessor") -> dict[str, Any]:
    """How pixels are normalised; the same whether the image processor does it or leaves it to the model."""
    mean, std = image_processor.image_mean, image_processor.image_std
    if not image_processor.do_rescale:
        mean, std = normalization_of(image_processor, model.config)
    normalizes = image_processor.do_normalize or not image_processor.do_rescale
    return {
        "patch_size": image_processor.patch_size,
        "do_normalize": normalizes,
        "image_mean": mean,
        "image_std": std,
    }


def store_key(content: dict[str, Any]) -> str:
    """Name of the folder for a store of this content: 32 hexadecimal digits."""
    return content_key(content)


def backbone_fingerprint(backbone: nn.Module) -> str:
    """Hash of a backbone's weights, the same for equal weights under Transformers 4 and 5.

    The names are those of Transformers 5. Values are taken as float32, because the versions load a float16 checkpoint
    in different dtypes. The mask token is left out: no embedding depends on it, and not all checkpoints have one.

    Args:
        backbone: A `Dinov2WithRegistersModel`.

    Returns:
        sha256, 64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(in_pieces(backbone.state_dict()).items()):
        if name != "embeddings.mask_token":
            digest.update(f"{name} {tuple(tensor.shape)} ".encode())
            digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy())
    return digest.hexdigest()
