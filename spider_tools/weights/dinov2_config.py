"""The configuration of a DINOv2 backbone, from what its source states and from the shapes of its tensors."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

import torch
from torch import nn
from transformers import Dinov2WithRegistersConfig
from transformers.activations import ACT2FN

from .dinov2_pieces import PATCHES, POSITIONS, REGISTERS, FoundBackbone

logger = logging.getLogger(__name__)

_MODEL_TYPES = ("dinov2", "dinov2_with_registers")
CONFIG_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "mlp_ratio",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "initializer_range",
    "layer_norm_eps",
    "image_size",
    "patch_size",
    "num_channels",
    "qkv_bias",
    "layerscale_value",
    "drop_path_rate",
    "use_swiglu_ffn",
    "num_register_tokens",
)
# Tensors do not show the number of attention heads, and another one gives other embeddings without any error. It is
# certain for the published DINOv2 (S, B, L, g) and Hibou (B, L) alone: hidden size and layers, tokens of 14 px and
# feed-forward layers of ratio 4 say which of them it is.
_PUBLISHED_HEADS = {(384, 12): 6, (768, 12): 12, (1024, 24): 16, (1536, 40): 24}
_PUBLISHED_TOKEN, _PUBLISHED_RATIO = 14, 4


@dataclass(frozen=True)
class Positions:
    """What is to become of position embeddings.

    Attributes:
        image_size: Side in px of the images that the backbone is for; by default what its configuration says.
        interpolate: Whether those of another grid of tokens are interpolated; otherwise they are refused.
    """

    image_size: Optional[int] = None
    interpolate: bool = False


def backbone_config_of(
    found: FoundBackbone, config: Mapping[str, Any], positions: Positions
) -> Dinov2WithRegistersConfig:
    """The configuration of a backbone, with 1 attention head where the number is not known; see `build_backbone`."""
    model_type = config.get("model_type", _MODEL_TYPES[0])
    # A repository with its own code may call its model as it likes; the names of its tensors say what it is.
    if model_type not in _MODEL_TYPES and "auto_map" not in config:
        raise ValueError(f"{found.source} is a model of type {model_type!r}, expected {' or '.join(_MODEL_TYPES)}.")
    fields = _sizes_in(found) | {name: config[name] for name in CONFIG_FIELDS if config.get(name) is not None}
    for name in ("image_size", "patch_size"):
        fields[name] = _one_side(found.source, name, fields[name])
    if positions.image_size is not None:
        fields["image_size"] = positions.image_size
    # Shapes are the same with any number, so that what is wrong with tensors is told before `require_known_heads` asks.
    fields.setdefault("num_attention_heads", _published_heads(config, fields) or 1)
    _check_fields(found.source, fields)
    return Dinov2WithRegistersConfig(**fields)


def with_heads(source: str, config: Mapping[str, Any], heads: Optional[int]) -> dict[str, Any]:
    """A source's configuration with the number of attention heads that the user says.

    Args:
        source: For the message.
        config: What the source states.
        heads: What the user says, None for nothing.

    Raises:
        ValueError: The source states another number.
    """
    stated = config.get("num_attention_heads")
    if heads is not None and stated not in (None, heads):
        raise ValueError(f"{source} states {stated} attention heads, --backbone_heads is {heads}. Leave the flag out.")
    return {**config} if heads is None else {**config, "num_attention_heads": heads}


def require_known_heads(source: str, config: Mapping[str, Any], made: Dinov2WithRegistersConfig) -> None:
    """Refuse a number of attention heads that would be a guess, and tell of one that nobody stated.

    Args:
        source: For the message.
        config: What the source or the user states.
        made: What `backbone_config_of` made of it.

    Raises:
        ValueError: The number is not known.
    """
    if config.get("num_attention_heads") is not None:
        return
    if _published_heads(config, made.to_dict()) is None:
        raise ValueError(
            f"{source} does not say its number of attention heads, and its tensors (width {made.hidden_size}, "
            f"{made.num_hidden_layers} layers) do not show it; another number gives other embeddings. "
            "Say it with --backbone_heads (in Python `heads`)."
        )
    logger.info(
        "%s does not say its number of attention heads: taking %d, as the published backbone of this shape has",
        source,
        made.num_attention_heads,
    )


def _published_heads(config: Mapping[str, Any], fields: Mapping[str, Any]) -> Optional[int]:
    """The heads of the published backbone that a bare state dict has the shape of, None if it is no such one."""
    # What a configuration leaves out has the default of its own class, which is another one.
    if config or (fields["patch_size"], fields["mlp_ratio"]) != (_PUBLISHED_TOKEN, _PUBLISHED_RATIO):
        return None
    return _PUBLISHED_HEADS.get((fields["hidden_size"], fields["num_hidden_layers"]))


def _check_fields(source: str, fields: Mapping[str, Any]) -> None:
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "mlp_ratio", "num_channels"):
        if not isinstance(fields[name], int) or isinstance(fields[name], bool) or fields[name] < 1:
            raise ValueError(f"{source}: {name} must be a positive integer, got {fields[name]!r}.")
    hidden, heads, side, token = (
        fields[name] for name in ("hidden_size", "num_attention_heads", "image_size", "patch_size")
    )
    if hidden % heads:
        raise ValueError(f"{source}: hidden_size ({hidden}) is no multiple of num_attention_heads ({heads}).")
    if side % token:
        raise ValueError(f"{source}: images of {side} px cannot be cut into tokens of {token} px.")
    if fields.get("hidden_act", "gelu") not in ACT2FN:
        raise ValueError(f"{source}: hidden_act {fields['hidden_act']!r} is no activation of Transformers.")


def _sizes_in(found: FoundBackbone) -> dict[str, Any]:
    """Those fields of a configuration that shapes show."""
    for piece, axes in ((PATCHES, 4), (POSITIONS, 3), (REGISTERS, 3)):
        tensor = found.pieces.get(piece)
        if tensor is None and piece != REGISTERS:
            found.note("missing", [found.name_of(piece)])
        elif tensor is not None and tensor.ndim != axes:
            found.note("mis-shaped", [f"{found.name_of(piece)} {tuple(tensor.shape)}, expected {axes} axes"])
    if found.problems.get("missing") or found.problems.get("mis-shaped"):
        raise found.refusal()
    patches, grid = found.pieces[PATCHES], found.pieces[POSITIONS]
    hidden, channels, _, token = patches.shape
    numbers = {int(piece.split(".")[2]) for piece in found.pieces if piece.startswith("encoder.layer.")}
    registers = found.pieces.get(REGISTERS)
    swiglu = any(".mlp.gate_proj." in piece for piece in found.pieces)
    return {
        "hidden_size": hidden,
        "num_channels": channels,
        "patch_size": token,
        "image_size": math.isqrt(max(0, grid.shape[1] - 1)) * token,
        "num_hidden_layers": 1 + max(numbers),
        "num_register_tokens": 0 if registers is None else registers.shape[1],
        "qkv_bias": any(piece.endswith("q_proj.bias") for piece in found.pieces),
        "use_swiglu_ffn": swiglu,
        "mlp_ratio": _mlp_ratio(found, hidden, swiglu),
        "layer_norm_eps": 1e-6,
    }


def _mlp_ratio(found: FoundBackbone, hidden: int, swiglu: bool) -> int:
    """The ratio whose feed-forward layers are as wide as the source's, 4 where none is."""
    name = "encoder.layer.0.mlp.gate_proj.weight" if swiglu else "encoder.layer.0.mlp.fc1.weight"
    width = len(found.pieces[name]) if name in found.pieces else None
    for ratio in range(1, 17):
        if width == ((int(hidden * ratio * 2 / 3) + 7) // 8 * 8 if swiglu else hidden * ratio):
            return ratio
    return 4


def _one_side(source: str, name: str, value: Any) -> int:
    sides = set(value) if isinstance(value, (list, tuple)) else {value}
    side = sides.pop()
    if sides or not isinstance(side, int) or side < 1:
        raise ValueError(f"{source}: {name} must be one positive number of px, or that twice, got {value!r}.")
    return side


def fit_positions(
    embeddings: torch.Tensor,
    expected: tuple[int, ...],
    config: Dinov2WithRegistersConfig,
    found: FoundBackbone,
    positions: Positions,
) -> torch.Tensor:
    """Position embeddings `(1, 1 + tokens, hidden)` of the expected grid, as they are or interpolated."""
    side = math.isqrt(embeddings.shape[1] - 1)
    wanted = config.image_size // config.patch_size
    if tuple(embeddings.shape) == expected or (len(embeddings), embeddings.shape[-1]) != (1, expected[-1]):
        return embeddings
    if side * side != embeddings.shape[1] - 1:
        return embeddings
    if not positions.interpolate:
        raise ValueError(
            f"{found.source} has position embeddings of a grid of {side}x{side} tokens; images of {config.image_size} "
            f"px need {wanted}x{wanted}. They are interpolated only where that is asked for (interpolate_positions)."
        )
    logger.info("interpolating position embeddings of %s from %dx%d to %dx%d", found.source, side, side, wanted, wanted)
    grid = embeddings[:, 1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    # As the two architectures do it for images of another size: only the one with registers smooths.
    grid = nn.functional.interpolate(
        grid, size=(wanted, wanted), mode="bicubic", align_corners=False, antialias=config.num_register_tokens > 0
    )
    return torch.cat([embeddings[:, :1].float(), grid.flatten(2).transpose(1, 2)], dim=1)
