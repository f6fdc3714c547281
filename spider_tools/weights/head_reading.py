"""How the code of a published SPIDER checkpoint may put its parts together, and the model that then is the same."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
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


def possible_readings(parts: PublishedParts, heads: int) -> Iterator[HeadReading]:
    """All readings of a checkpoint with so many attention heads that this project's model can be."""
    types = range(len(parts.encoder[TOKEN_TYPES]))
    for readout, pooler, residual, last in product(
        _READOUTS,
        (False, True) if parts.pooler else (False,),
        (False, True),
        (False, True) if parts.beside else (False,),
    ):
        for order, token_type, center_type in product(token_orders(parts.context_size), types, types):
            yield HeadReading(
                heads, order, readout, pooler, token_type, center_type, residual, parts.beside, beside_last=last
            )


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


def assemble_head(parts: PublishedParts, reading: HeadReading) -> "SpiderForImageClassification":
    """The same without a backbone: for `classify_grid` alone."""
    small = {"hidden_size": parts.backbone.config.hidden_size, "num_hidden_layers": 1, "num_attention_heads": 1}
    small |= {"image_size": parts.patch_size, "patch_size": parts.patch_size}
    return _head(parts, reading, config_of(parts, reading, small))


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


def place_tokens(model: "SpiderForImageClassification", parts: PublishedParts, reading: HeadReading) -> None:
    """Give a model the positions of a reading's order and token types: ours are row-major, and all of type 0."""
    types = parts.encoder[TOKEN_TYPES]
    positions = torch.empty_like(parts.encoder[POSITIONS])
    positions[list(token_orders(parts.context_size)[reading.order])] = parts.encoder[POSITIONS]
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
    weight, bias = parts.classifier
    if reading.beside_last:
        weight = torch.cat([weight[:, parts.width :], weight[:, : parts.width]], dim=1)
    _fill(model.classifier, weight, bias)
    place_tokens(model, parts, reading)
    return model.eval()


def _fill(layer: nn.Linear, weight: torch.Tensor, bias: torch.Tensor) -> None:
    layer.load_state_dict({"weight": weight.clone(), "bias": bias.clone()}, assign=True)
