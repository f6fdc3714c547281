"""How the code of a published SPIDER checkpoint may put its parts together, and the model that then is the same."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, Optional

import torch
from torch import nn
from transformers import BertModel

from .. import remote_code
from .published_parts import POOLER, POSITIONS, TOKEN_TYPES, WORDS, PublishedParts

if TYPE_CHECKING:
    from ..remote_code import SpiderConfig, SpiderForImageClassification

ROW_MAJOR = "row-major"
PAPER_HEADS = 1
_READOUTS = ("center", "first", "mean")


@dataclass(frozen=True)
class HeadReading:
    """One way to read the head of a published checkpoint.

    Attributes:
        heads: Attention heads of the encoder.
        order: Of the patches among the encoder's tokens, of `token_orders`.
        readout: See `head_readout` of the configuration; in terms of patches, whatever the order of tokens.
        pooler: Whether BERT's dense layer and tanh follow.
        token_type: Of the context patches.
        center_type: Token type of the central patch.
        residual: See `head_residual` of the configuration.
        beside: See `head_beside` of the configuration.
        beside_last: Whether what the classifier reads beside the encoder's output stands after it, not before.
    """

    heads: int = PAPER_HEADS
    order: str = ROW_MAJOR
    readout: str = "center"
    pooler: bool = False
    token_type: int = 0
    center_type: int = 0
    residual: bool = False
    beside: Optional[str] = None
    beside_last: bool = False

    def departures(self, other: "HeadReading") -> int:
        """In how many fields two readings differ."""
        return sum(getattr(self, field.name) != getattr(other, field.name) for field in fields(self))

    def text(self) -> str:
        """The reading in words, for a table."""
        beside = f"{self.beside} {'after' if self.beside_last else 'before'} it" if self.beside else "nothing"
        pooler, residual = ("yes" if value else "no" for value in (self.pooler, self.residual))
        return (
            f"{self.order}; read at {self.readout}; pooler {pooler}; token types {self.token_type}, centre "
            f"{self.center_type}; {self.heads} heads; residual {residual}; beside {beside}"
        )


def assumed_reading(parts: PublishedParts) -> HeadReading:
    """What a checkpoint is taken for where its code is not asked: the paper's heads, patches in row-major order.

    The centre is read, or, where training went through BERT's pooler, the first token, which that pooler takes.
    """
    return HeadReading(
        heads=parts.heads or PAPER_HEADS,
        readout="first" if parts.pooler_is_trained else "center",
        pooler=parts.pooler_is_trained,
        beside=parts.beside,
    )


def possible_heads(parts: PublishedParts, heads: int) -> Iterator[HeadReading]:
    """The readings of a checkpoint with so many attention heads, tokens as assumed."""
    poolers = (False, True) if parts.pooler else (False,)
    lasts = (False, True) if parts.beside else (False,)
    for readout, pooler, residual, last in product(_READOUTS, poolers, (False, True), lasts):
        yield HeadReading(
            heads, readout=readout, pooler=pooler, residual=residual, beside=parts.beside, beside_last=last
        )


def possible_tokens(parts: PublishedParts, reading: HeadReading) -> list[HeadReading]:
    """A reading under all orders of tokens and their types."""
    types = range(len(parts.encoder[TOKEN_TYPES]))
    return [
        replace(reading, order=order, token_type=token_type, center_type=center_type)
        for order, token_type, center_type in product(token_orders(parts.context_size), types, types)
    ]


@cache
def token_orders(side: int) -> dict[str, tuple[int, ...]]:
    """Orders of the patches of a region among tokens, by name: the row-major numbers of the patches, token by token."""
    orders = {}
    for by_columns, from_below, from_the_right in product((False, True), repeat=3):
        cells = []
        for outer, inner in product(range(side), repeat=2):
            row, column = (inner, outer) if by_columns else (outer, inner)
            row = side - 1 - row if from_below else row
            cells.append(row * side + (side - 1 - column if from_the_right else column))
        name = "column-major" if by_columns else ROW_MAJOR
        name += " from below" * from_below + " from the right" * from_the_right
        center = side * side // 2
        context = [cell for cell in cells if cell != center]
        orders[name] = tuple(cells)
        orders[f"{name}, centre first"] = (center, *context)
        orders[f"{name}, centre last"] = (*context, center)
    return orders


def assemble(parts: PublishedParts, reading: HeadReading) -> "SpiderForImageClassification":
    """The model of a checkpoint under a reading, in float32 and evaluation mode."""
    model = _head(parts, reading, config_of(parts, reading, parts.backbone.config.to_dict()))
    model.backbone.load_state_dict(parts.backbone.state_dict(), assign=True)
    return model


def head_to_try(parts: PublishedParts, heads: int) -> "SpiderForImageClassification":
    """A model without a backbone, for `logits_of`."""
    small = {"hidden_size": parts.backbone.config.hidden_size, "num_hidden_layers": 1, "num_attention_heads": 1}
    small |= {"image_size": parts.patch_size, "patch_size": parts.patch_size}
    reading = HeadReading(heads, pooler=bool(parts.pooler), beside=parts.beside)
    model = _head(parts, reading, config_of(parts, reading, small))
    embeddings = model.context_encoder.embeddings
    embeddings.position_embeddings.weight.data = parts.encoder[POSITIONS]
    embeddings.token_type_embeddings.weight.data = parts.encoder[TOKEN_TYPES]
    return model


def config_of(parts: PublishedParts, reading: HeadReading, backbone: dict) -> "SpiderConfig":
    """The configuration of a checkpoint under a reading."""
    return remote_code.config_class()(
        backbone_config=backbone,
        patch_size=parts.patch_size,
        context_size=parts.context_size,
        class_names=parts.class_names,
        head_hidden_size=parts.width,
        head_num_hidden_layers=parts.layers,
        head_num_attention_heads=reading.heads,
        head_intermediate_size=len(parts.encoder["encoder.layer.0.intermediate.dense.weight"]),
        head_readout=reading.readout,
        head_pooler=reading.pooler,
        head_residual=reading.residual,
        head_beside=reading.beside,
    )


@torch.no_grad()
def logits_of(
    model: "SpiderForImageClassification",
    parts: PublishedParts,
    readings: Sequence[HeadReading],
    patch_embeddings: torch.Tensor,
) -> torch.Tensor:
    """Logits of regions under readings that differ in their tokens alone.

    Args:
        model: Of `head_to_try`, with the readings' heads; is changed.
        parts: Of the checkpoint.
        readings: Of `possible_tokens`.
        patch_embeddings: Float `(regions, patches, hidden)`.

    Returns:
        Float `(readings, regions, classes)`.
    """
    model.config.head_readout, model.config.head_pooler = readings[0].readout, readings[0].pooler
    model.config.head_residual = readings[0].residual
    _fill(model.classifier, *_classifier(parts, readings[0]))
    regions, center = len(patch_embeddings), model.config.center_index
    positions = torch.stack([_positions(parts, reading.order) for reading in readings])
    types = torch.tensor([reading.token_type for reading in readings])[:, None].repeat(1, positions.shape[1])
    types[:, center] = torch.tensor([reading.center_type for reading in readings])
    tokens = {"position_ids": positions, "token_type_ids": types}
    tokens = {name: numbers.repeat_interleave(regions, dim=0) for name, numbers in tokens.items()}
    hook = model.context_encoder.register_forward_pre_hook(
        lambda _, args, given: (args, given | tokens), with_kwargs=True
    )
    with hook:  # which ends it
        return model.classify_grid(patch_embeddings.repeat(len(readings), 1, 1)).unflatten(0, (-1, regions))


def _classifier(parts: PublishedParts, reading: HeadReading) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of the classifier with its columns in our order."""
    weight, bias = parts.classifier
    if reading.beside_last:
        weight = torch.cat([weight[:, parts.width :], weight[:, : parts.width]], dim=1)
    return weight, bias


def _positions(parts: PublishedParts, order: str) -> torch.Tensor:
    """Which token each patch is."""
    return torch.tensor(token_orders(parts.context_size)[order]).argsort()


def _place_tokens(model: "SpiderForImageClassification", parts: PublishedParts, reading: HeadReading) -> None:
    """Fold a reading's order and token types into positions: our tokens are row-major, and all of type 0."""
    types = parts.encoder[TOKEN_TYPES]
    positions = parts.encoder[POSITIONS][_positions(parts, reading.order)]
    positions[model.config.center_index] += types[reading.center_type] - types[reading.token_type]
    embeddings = model.context_encoder.embeddings
    embeddings.position_embeddings.weight.data = positions
    rows = torch.zeros_like(embeddings.token_type_embeddings.weight)
    rows[0] = types[reading.token_type]  # the only one that is read
    embeddings.token_type_embeddings.weight.data = rows


def _head(parts: PublishedParts, reading: HeadReading, config: "SpiderConfig") -> "SpiderForImageClassification":
    with torch.device("meta"):
        model = remote_code.model_class()(config)
    # It has buffers that no state dict holds, so that it cannot come from the meta device.
    model.context_encoder = BertModel(config.context_encoder_config(), add_pooling_layer=reading.pooler)
    state = dict(parts.encoder) | {WORDS: torch.zeros(1, parts.width)}
    state |= {name: parts.pooler[name] for name in POOLER if reading.pooler}
    state = {name: tensor.clone() for name, tensor in state.items() if name != TOKEN_TYPES}
    state[TOKEN_TYPES] = torch.zeros_like(model.context_encoder.embeddings.token_type_embeddings.weight)
    model.context_encoder.load_state_dict(state)
    _fill(model.projection, *parts.projection)
    _fill(model.classifier, *_classifier(parts, reading))
    _place_tokens(model, parts, reading)
    return model.eval()


def _fill(layer: nn.Linear, weight: torch.Tensor, bias: torch.Tensor) -> None:
    layer.load_state_dict({"weight": weight.clone(), "bias": bias.clone()}, assign=True)
