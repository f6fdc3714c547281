"""The parts of a published SPIDER checkpoint, recognised by name suffix and shape.

What its tensors are called is not published, only its parts: a DINOv2 backbone, a BERT encoder over the patches of a
region, a projection from the one to the other and a classifier. How its code puts them together is in `head_reading`.
"""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Optional

import torch
from transformers import BertModel

from .. import remote_code
from .dinov2 import build_backbone
from .dinov2_config import CONFIG_FIELDS, with_heads
from .dinov2_pieces import FoundBackbone, find_backbone, listed
from .published_config import class_names_of, initializer_ranges, stated_fields
from .reading import WeightSource
from .untrained import looks_untrained

if TYPE_CHECKING:
    from transformers import Dinov2WithRegistersModel

POSITIONS = "embeddings.position_embeddings.weight"
TOKEN_TYPES = "embeddings.token_type_embeddings.weight"
WORDS = "embeddings.word_embeddings.weight"
POOLER = ("pooler.dense.weight", "pooler.dense.bias")
_INDEX_BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")
# Of BERT, where SpiderConfig has no field for another.
_FIXED = {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "position_embedding_type": "absolute", "is_decoder": False}


@dataclass
class PublishedParts:
    """What is known of a published checkpoint; every step takes from `left` what it recognises.

    Attributes:
        source: Where it comes from.
        left: Tensors that have no place yet.
        class_names: In the order of the logits.
        backbone: In float32.
        encoder: Tensors of its BERT encoder, the words left out, by their names in `BertModel`.
        pooler: Tensors of the encoder's pooler, if it has one.
        pooler_is_trained: Whether training went through it.
        projection: Weight and bias of the layer before the encoder.
        classifier: Weight and bias of the last layer.
        beside: What that reads beside the encoder's output, by its width; see `head_beside` of the configuration.
        heads: Attention heads of the encoder, where the source or the user states them.
        heads_are_said: Whether the user does.
        mapping: Pairs of what the source calls a part or tensor and what this project calls it.
        notes: What was left out, a sentence each.
        assumptions: What nobody has stated, a sentence each.
    """

    source: WeightSource
    left: dict[str, torch.Tensor]
    class_names: list[str] = field(default_factory=list)
    backbone: "Dinov2WithRegistersModel" = field(init=False)
    encoder: dict[str, torch.Tensor] = field(default_factory=dict)
    pooler: dict[str, torch.Tensor] = field(default_factory=dict)
    pooler_is_trained: bool = False
    projection: tuple[torch.Tensor, torch.Tensor] = field(init=False)
    classifier: tuple[torch.Tensor, torch.Tensor] = field(init=False)
    beside: Optional[str] = None
    heads: Optional[int] = None
    heads_are_said: bool = False
    mapping: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    assumptions: list[str] = field(default_factory=list)

    @property
    def width(self) -> int:
        """Of the encoder."""
        return self.encoder[POSITIONS].shape[1]

    @property
    def context_size(self) -> int:
        """Patches along one side of a region."""
        return math.isqrt(len(self.encoder[POSITIONS]))

    @property
    def patch_size(self) -> int:
        """Side of a patch in px."""
        return self.backbone.config.image_size

    @property
    def layers(self) -> int:
        """Of the encoder."""
        return len({name.split(".")[2] for name in self.encoder if name.startswith("encoder.layer.")})

    def take(self, theirs: str, ours: str) -> torch.Tensor:
        """Give a tensor its place."""
        tensor = self.left[theirs]
        if not tensor.dtype.is_floating_point or not bool(tensor.isfinite().all()):
            raise self.broken(f"{theirs} ({tensor.dtype}) must hold floats, all of them finite.")
        del self.left[theirs]
        self.mapping.append((theirs, ours))
        return tensor.float().clone()

    def broken(self, problem: str) -> ValueError:
        """An error that names the source and the tensors that have no place."""
        shapes = listed(f"{name} {tuple(tensor.shape)}" for name, tensor in sorted(self.left.items()))
        return ValueError(f"{self.source.name}: {problem} Tensors without a place: {shapes or 'none'}.")


def recognise(source: WeightSource, backbone_heads: Optional[int], heads: Optional[int]) -> PublishedParts:
    """Find the parts of a checkpoint, every tensor of which has a place.

    Args:
        source: With a list of class names in its config.json.
        backbone_heads: Attention heads of its backbone, where config.json does not state them; see `load_backbone`.
        heads: Those of its encoder, likewise.

    Raises:
        ValueError: A part is missing, ambiguous or of another shape, tensors are left over, or the configuration
            cannot be expressed here. The message names the tensors.
    """
    class_names = class_names_of(source)
    found = find_backbone(source.name, source.tensors)
    left = {name: tensor for name, tensor in source.tensors.items() if name not in found.names}
    parts = PublishedParts(source, left, class_names)
    _take_backbone(parts, found, backbone_heads)
    prefix = _encoder_prefix(parts)
    _check_positions(parts, prefix)
    parts.heads, parts.heads_are_said = _encoder_heads(parts, prefix, heads), heads is not None
    _drop_unread(parts, prefix)
    _take_pooler(parts, prefix)
    _take_encoder(parts, prefix)
    _take_linears(parts)
    if parts.left:
        raise parts.broken("its architecture is another one, this one has no place for some of its tensors.")
    return parts


def _take_backbone(parts: PublishedParts, found: FoundBackbone, heads: Optional[int]) -> None:
    stated = stated_fields(parts.source, found.hidden_size, CONFIG_FIELDS)
    parts.backbone = build_backbone(found, with_heads(parts.source.name, stated, heads))
    parts.mapping.append((f"{found.prefix}*", f"backbone.* ({len(found.names)} tensors, {found.spelling.title} names)"))
    count = f"{parts.backbone.config.num_attention_heads} attention heads in the backbone."
    if "num_attention_heads" not in stated and heads:
        parts.notes.append(f"Said with --backbone_heads: {count}")
    elif "num_attention_heads" not in stated:
        parts.assumptions.append(f"Assumed, as published backbones of this shape have them: {count}")


def _encoder_prefix(parts: PublishedParts) -> str:
    ends = (POSITIONS, f".{POSITIONS}")
    prefixes = [name.removesuffix(ends[0]) for name in parts.left if name == ends[0] or name.endswith(ends[1])]
    if not prefixes:
        raise parts.broken(f"nothing is left for the context encoder; one has a tensor ...{POSITIONS}.")
    if len(prefixes) > 1:
        candidates = ", ".join(f"{prefix}*" for prefix in sorted(prefixes))
        raise parts.broken(f"the context encoder is ambiguous, candidates are {candidates}.")
    return prefixes[0]


def _check_positions(parts: PublishedParts, prefix: str) -> None:
    positions = parts.left[prefix + POSITIONS]
    side = math.isqrt(len(positions)) if positions.ndim == 2 else 0
    if side % 2 == 0 or side * side != len(positions):
        raise parts.broken(
            f"{prefix}{POSITIONS} has the shape {tuple(positions.shape)}, expected a row for each patch of a region: "
            "25, or another odd number squared."
        )
    if f"{prefix}encoder.layer.0.intermediate.dense.weight" not in parts.left:
        raise parts.broken(f"the context encoder lacks {prefix}encoder.layer.0.intermediate.dense.weight.")


def _encoder_heads(parts: PublishedParts, prefix: str, said: Optional[int]) -> Optional[int]:
    width = parts.left[prefix + POSITIONS].shape[1]
    stated = stated_fields(parts.source, width, ("num_attention_heads", *_FIXED))
    for name, value in _FIXED.items():
        if stated.get(name, value) != value:
            raise parts.broken(f"its context encoder has {name} {stated[name]!r}, which is always {value!r} here.")
    heads = stated.get("num_attention_heads")
    if said is not None and heads not in (None, said):
        raise parts.broken(f"config.json states {heads} attention heads in the encoder, --heads is {said}.")
    heads = heads if said is None else said
    if heads is not None and (not isinstance(heads, int) or isinstance(heads, bool) or heads < 1 or width % heads):
        raise parts.broken(f"the encoder's width, {width}, is no multiple of {heads!r} attention heads.")
    if said is not None:
        parts.notes.append(f"Said with --heads: {said} attention heads in the encoder.")
    return heads


def _drop_unread(parts: PublishedParts, prefix: str) -> None:
    """Take away what no forward pass over embeddings reads."""
    for name in _INDEX_BUFFERS:
        parts.left.pop(prefix + name, None)
    if parts.left.pop(prefix + WORDS, None) is not None:
        parts.notes.append(f"Left out: {prefix}{WORDS}, because the encoder is fed embeddings.")


def _take_pooler(parts: PublishedParts, prefix: str) -> None:
    names = [prefix + name for name in POOLER]
    weight, bias = (parts.left.get(name) for name in names)
    if weight is None and bias is None:
        return
    width = parts.left[prefix + POSITIONS].shape[1]
    if weight is None or bias is None or (*weight.shape, *bias.shape) != (width, width, width):
        raise parts.broken(f"expected both {names[0]} ({width}, {width}) and {names[1]} ({width},), or neither.")
    ranges = initializer_ranges(parts.source)
    parts.pooler_is_trained = not any(looks_untrained(weight, bias, spread) for spread in ranges)
    parts.pooler = {name: parts.take(prefix + name, f"context_encoder.{name}") for name in POOLER}


def _take_encoder(parts: PublishedParts, prefix: str) -> None:
    types = parts.left.get(prefix + TOKEN_TYPES)
    if types is not None and types.ndim == 2 and len(types) > 0:
        parts.encoder[TOKEN_TYPES] = parts.take(prefix + TOKEN_TYPES, f"context_encoder.{TOKEN_TYPES}")
    shapes = _encoder_shapes(parts, prefix)
    if TOKEN_TYPES in parts.encoder and parts.encoder[TOKEN_TYPES].shape[1] == shapes[TOKEN_TYPES][1]:
        del shapes[TOKEN_TYPES]
    missing = [prefix + name for name in shapes if prefix + name not in parts.left]
    mis_shaped = [
        f"{prefix}{name} {tuple(parts.left[prefix + name].shape)}, expected {shape}"
        for name, shape in shapes.items()
        if prefix + name in parts.left and parts.left[prefix + name].shape != shape
    ]
    if missing or mis_shaped:
        problems = {"missing": missing, "mis-shaped": mis_shaped}
        text = "; ".join(f"{problem}: {listed(names)}" for problem, names in problems.items() if names)
        raise parts.broken(f"the context encoder {prefix}* is not complete. {text}.")
    for name in shapes:
        parts.encoder[name] = parts.take(prefix + name, f"context_encoder.{name}")


def _encoder_shapes(parts: PublishedParts, prefix: str) -> dict[str, tuple[int, ...]]:
    """The shapes of a BERT encoder of the source's sizes, by name, without words and pooler."""
    positions, start = parts.left[prefix + POSITIONS], f"{prefix}encoder.layer."
    config = remote_code.config_class()(
        context_size=math.isqrt(len(positions)),
        head_hidden_size=positions.shape[1],
        head_num_hidden_layers=len({n.removeprefix(start).split(".")[0] for n in parts.left if n.startswith(start)}),
        head_intermediate_size=len(parts.left[f"{start}0.intermediate.dense.weight"]),
    )
    with torch.device("meta"):
        encoder = BertModel(config.context_encoder_config(), add_pooling_layer=False)
    return {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items() if name != WORDS}


def _take_linears(parts: PublishedParts) -> None:
    hidden, classes = parts.backbone.config.hidden_size, len(parts.class_names)
    parts.projection = _take_linear(parts, "projection", (parts.width, hidden))
    for beside, more in (("projection", parts.width), ("backbone", hidden)):
        plain, wider = (classes, parts.width), (classes, parts.width + more)
        if not _linears(parts, plain) and _linears(parts, wider):
            parts.beside = beside
            parts.classifier = _take_linear(parts, "classifier", wider)
            return
    parts.classifier = _take_linear(parts, "classifier", (classes, parts.width))


def _linears(parts: PublishedParts, shape: tuple[int, int]) -> list[str]:
    """The names, without their end, of all linear layers of this shape."""
    return [
        name.removesuffix(".weight")
        for name, tensor in sorted(parts.left.items())
        if name.endswith(".weight") and tuple(tensor.shape) == shape
    ]


def _take_linear(parts: PublishedParts, ours: str, shape: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Take the one linear layer of this shape, a bias of 0 for one that has none."""
    stems = _linears(parts, shape)
    if not stems:
        raise parts.broken(f"nothing is left for the {ours}, a linear layer with weights of the shape {shape}.")
    if len(stems) > 1:
        raise parts.broken(f"the {ours}, with weights of the shape {shape}, is ambiguous: {', '.join(stems)}.")
    weight = parts.take(f"{stems[0]}.weight", f"{ours}.weight")
    bias = parts.left.get(f"{stems[0]}.bias")
    if bias is None:
        parts.notes.append(f"{stems[0]} has no bias: {ours}.bias is 0.")
        return weight, torch.zeros(shape[0])
    if tuple(bias.shape) != shape[:1]:
        raise parts.broken(f"{stems[0]}.bias has the shape {tuple(bias.shape)}, expected {shape[:1]}.")
    return weight, parts.take(f"{stems[0]}.bias", f"{ours}.bias")
