"""A DINOv2 backbone, with registers or without, from tensors in any of the known spellings, strictly."""

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from torch import nn
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel
from transformers.activations import ACT2FN

from .dinov2_names import Spelling, backbone_prefixes, spelling_of

logger = logging.getLogger(__name__)

_MODEL_TYPES = ("dinov2", "dinov2_with_registers")
_CLASS_TOKEN, _MASK_TOKEN, _REGISTERS, _POSITIONS, _PATCHES = (
    "embeddings.cls_token",
    "embeddings.mask_token",
    "embeddings.register_tokens",
    "embeddings.position_embeddings",
    "embeddings.patch_embeddings.projection.weight",
)
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
_PROBLEMS = ("missing", "unused", "mis-shaped", "not of floating point", "not finite")
_HEAD_SIZE = 64  # of every published DINOv2, Hibou-B and Hibou-L included; tensors do not show it


@dataclass(frozen=True)
class Positions:
    """What is to become of position embeddings.

    Attributes:
        image_size: Side in px of the images that the backbone is for; by default what its configuration says.
        interpolate: Whether those of another grid of tokens are interpolated; otherwise they are refused.
    """

    image_size: Optional[int] = None
    interpolate: bool = False


@dataclass
class FoundBackbone:
    """The tensors of a backbone, cut into pieces.

    Attributes:
        source: For messages.
        prefix: What stands before its names in the source.
        spelling: Of the names after the prefix.
        pieces: The tensors, by piece, in the source's dtype.
        names: Their names in the source.
        problems: Names in the source by what is wrong with them.
    """

    source: str
    prefix: str
    spelling: Spelling
    pieces: dict[str, torch.Tensor] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    problems: dict[str, list[str]] = field(default_factory=dict)

    @property
    def hidden_size(self) -> Optional[int]:
        """Width of the backbone, None if the tensor that shows it is missing."""
        return len(self.pieces[_PATCHES]) if _PATCHES in self.pieces else None

    def note(self, problem: str, names: Iterable[str]) -> None:
        """Remember what is wrong with some names."""
        self.problems.setdefault(problem, []).extend(names)

    def refusal(self) -> ValueError:
        """An error that lists all problems."""
        noted = ((problem, self.problems.get(problem)) for problem in _PROBLEMS)
        text = "; ".join(f"{problem}: {listed(dict.fromkeys(names))}" for problem, names in noted if names)
        return ValueError(f"{self.source} does not fill a DINOv2 backbone one to one. {text}.")

    def name_of(self, piece: str) -> str:
        """What the source calls, or would call, the tensor that a piece is in."""
        return self.prefix + self.spelling.name_of(piece)


def holds_backbone(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether there is a DINOv2 backbone among named tensors."""
    return bool(backbone_prefixes(tensors))


def find_backbone(source: str, tensors: Mapping[str, torch.Tensor]) -> FoundBackbone:
    """The one DINOv2 backbone among named tensors, whatever stands before its names.

    Raises:
        ValueError: There is none, or more than one.
    """
    prefixes = backbone_prefixes(tensors)
    if not prefixes:
        raise ValueError(
            f"{source} holds no DINOv2 backbone: expected names such as {_CLASS_TOKEN} and "
            f"encoder.layer.0.norm1.weight, or cls_token and blocks.0.norm1.weight, got {listed(sorted(tensors), 5)}."
        )
    if len(prefixes) > 1:
        found = ", ".join(f"{prefix}*" for prefix in prefixes)
        raise ValueError(f"{source} holds several DINOv2 backbones, which is ambiguous: {found}.")
    backbone = FoundBackbone(source, prefixes[0], spelling_of(tensors, prefixes[0]))
    for name, tensor in tensors.items():
        bare = name.removeprefix(backbone.prefix)
        pieces = backbone.spelling.pieces(bare) if name.startswith(backbone.prefix) else ()
        if not pieces:
            continue
        backbone.names.add(name)
        if tensor.ndim == 0 or len(tensor) % len(pieces):
            backbone.note("mis-shaped", [f"{name} {tuple(tensor.shape)}, expected {len(pieces)} equal parts"])
        else:
            backbone.pieces.update(zip(pieces, tensor.chunk(len(pieces)) if len(tensor) else [tensor]))
    return backbone


def build_backbone(
    found: FoundBackbone, config: Optional[Mapping[str, Any]] = None, positions: Positions = Positions()
) -> Dinov2WithRegistersModel:
    """Make the backbone, in float32 and evaluation mode.

    Every tensor fills its parameter, and every parameter is filled. Two exceptions: no register tokens are needed for
    a model without registers, which is this architecture with none of them; and a source may lack the mask token,
    which only masked pre-training reads, so that zeros do.

    Args:
        found: Its tensors.
        config: The source's configuration. What it does not say is read from the shapes, the number of attention
            heads taken to be a 64th of the hidden size.
        positions: What is to become of position embeddings.

    Raises:
        ValueError: Tensors are missing, left over, mis-shaped, of integers or not finite; or sizes are contradictory.
    """
    model_config = _backbone_config(found, config or {}, positions)
    with torch.device("meta"):
        model = Dinov2WithRegistersModel(model_config)
    spelling = spelling_of(model.state_dict())
    expected = _expected_shapes(model, spelling)
    pieces = dict(found.pieces)
    pieces.setdefault(_MASK_TOKEN, torch.zeros(expected[_MASK_TOKEN]))
    if not model_config.num_register_tokens:
        pieces.setdefault(_REGISTERS, torch.zeros(expected[_REGISTERS]))
    if _POSITIONS in pieces:
        pieces[_POSITIONS] = _fit_positions(pieces[_POSITIONS], expected[_POSITIONS], model_config, found, positions)
    _check(found, pieces, expected)
    state = {name: torch.cat([pieces[p].float() for p in spelling.pieces(name)]) for name in model.state_dict()}
    model.load_state_dict(state, assign=True)
    return model.eval()


def listed(names: Iterable[str], most: int = 20) -> str:
    """Names in one line, the first `most` of them."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _expected_shapes(model: nn.Module, spelling: Spelling) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for name, parameter in model.state_dict().items():
        pieces = spelling.pieces(name)
        for piece in pieces:
            shapes[piece] = (parameter.shape[0] // len(pieces), *parameter.shape[1:])
    return shapes


def _check(found: FoundBackbone, pieces: Mapping[str, torch.Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    for piece in sorted(expected.keys() & pieces.keys()):
        name, tensor = found.name_of(piece), pieces[piece]
        if tuple(tensor.shape) != expected[piece]:
            found.note("mis-shaped", [f"{name} ({piece}) {tuple(tensor.shape)}, expected {expected[piece]}"])
        if not tensor.dtype.is_floating_point:
            found.note("not of floating point", [f"{name} {tensor.dtype}"])
        elif not _all_finite(tensor):
            found.note("not finite", [name])
    mis_shaped = {entry.split(" ")[0] for entry in found.problems.get("mis-shaped", [])}
    missing = {found.name_of(piece) for piece in expected.keys() - pieces.keys()} - mis_shaped
    found.note("missing", sorted(missing))
    found.note("unused", sorted({found.name_of(piece) for piece in pieces.keys() - expected.keys()}))
    if any(found.problems.values()):
        raise found.refusal()


def _all_finite(tensor: torch.Tensor) -> bool:
    # NaN and infinities reach the extremes, and those take a tenth of the time of a mask of every value.
    return tensor.numel() == 0 or all(bool(extreme.isfinite()) for extreme in tensor.aminmax())


def _backbone_config(
    found: FoundBackbone, config: Mapping[str, Any], positions: Positions
) -> Dinov2WithRegistersConfig:
    model_type = config.get("model_type", _MODEL_TYPES[0])
    # A repository with its own code may call its model as it likes; the names of its tensors say what it is.
    if model_type not in _MODEL_TYPES and "auto_map" not in config:
        raise ValueError(f"{found.source} is a model of type {model_type!r}, expected {' or '.join(_MODEL_TYPES)}.")
    fields = _sizes_in(found) | {name: config[name] for name in CONFIG_FIELDS if config.get(name) is not None}
    for name in ("image_size", "patch_size"):
        fields[name] = _one_side(found.source, name, fields[name])
    if positions.image_size is not None:
        fields["image_size"] = positions.image_size
    if "num_attention_heads" not in fields:
        fields["num_attention_heads"] = heads = max(1, fields["hidden_size"] // _HEAD_SIZE)
        logger.info("%s does not say its number of attention heads: taking %d, of 64 values each", found.source, heads)
    _check_fields(found.source, fields)
    return Dinov2WithRegistersConfig(**fields)


def _check_fields(source: str, fields: Mapping[str, Any]) -> None:
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "mlp_ratio", "num_channels"):
        if not isinstance(fields[name], int) or fields[name] < 1:
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
    for piece, axes in ((_PATCHES, 4), (_POSITIONS, 3), (_REGISTERS, 3)):
        tensor = found.pieces.get(piece)
        if tensor is None and piece != _REGISTERS:
            found.note("missing", [found.name_of(piece)])
        elif tensor is not None and tensor.ndim != axes:
            found.note("mis-shaped", [f"{found.name_of(piece)} {tuple(tensor.shape)}, expected {axes} axes"])
    if found.problems.get("missing") or found.problems.get("mis-shaped"):
        raise found.refusal()
    patches, grid = found.pieces[_PATCHES], found.pieces[_POSITIONS]
    hidden, channels, _, token = patches.shape
    numbers = {int(piece.split(".")[2]) for piece in found.pieces if piece.startswith("encoder.layer.")}
    registers = found.pieces.get(_REGISTERS)
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


def _fit_positions(
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
