"""A DINOv2 backbone, with registers or without, from tensors in any of the known spellings, strictly."""

from collections.abc import Mapping
from typing import Any, Optional

import torch
from torch import nn
from transformers import Dinov2WithRegistersModel

from .dinov2_config import Positions, backbone_config_of, fit_positions, require_known_heads
from .dinov2_names import Spelling, spelling_of
from .dinov2_pieces import MASK_TOKEN, POSITIONS, REGISTERS, FoundBackbone


def build_backbone(
    found: FoundBackbone, config: Optional[Mapping[str, Any]] = None, positions: Positions = Positions()
) -> Dinov2WithRegistersModel:
    """Make the backbone, in float32 and evaluation mode.

    Every tensor fills its parameter, and every parameter is filled. Two exceptions: no register tokens are needed for
    a model without registers, which is this architecture with none of them; and a source may lack the mask token,
    which only masked pre-training reads, so that zeros do.

    Args:
        found: Its tensors.
        config: The source's configuration. What it does not say is read from the shapes. They do not show the number
            of attention heads: without a configuration it is known for published backbones alone.
        positions: What is to become of position embeddings.

    Raises:
        ValueError: Tensors are missing, left over, mis-shaped, of integers or not finite; sizes are contradictory; or
            nothing says how many attention heads there are.
    """
    model_config = backbone_config_of(found, config or {}, positions)
    with torch.device("meta"):
        model = Dinov2WithRegistersModel(model_config)
    spelling = spelling_of(model.state_dict())
    expected = _expected_shapes(model, spelling)
    pieces = dict(found.pieces)
    pieces.setdefault(MASK_TOKEN, torch.zeros(expected[MASK_TOKEN]))
    if not model_config.num_register_tokens:
        pieces.setdefault(REGISTERS, torch.zeros(expected[REGISTERS]))
    if POSITIONS in pieces:
        pieces[POSITIONS] = fit_positions(pieces[POSITIONS], expected[POSITIONS], model_config, found, positions)
    _check(found, pieces, expected)
    require_known_heads(found.source, config or {}, model_config)
    state = {name: torch.cat([pieces[p].float() for p in spelling.pieces(name)]) for name in model.state_dict()}
    model.load_state_dict(state, assign=True)
    return model.eval()


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
