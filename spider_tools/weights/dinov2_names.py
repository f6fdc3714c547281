"""Three spellings of the same vision transformer: Transformers 4, Transformers 5 and HistAI's own (that of DINOv2).

All three are cut into the same pieces, which are called as Transformers 5 calls its parameters. Queries, keys and
values, and the two halves of a SwiGLU layer, are pieces of their own; some spellings stack them in one tensor.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    import torch

_LEAVES = {"weight": "weight", "bias": "bias", "lambda1": "lambda1", "gamma": "lambda1"}
_LAYER = re.compile(r"(encoder\.layer|blocks)\.(\d+)\.(.+)\.(\w+)")
_OUTSIDE = (
    "embeddings.cls_token",
    "embeddings.mask_token",
    "embeddings.register_tokens",
    "embeddings.position_embeddings",
    "embeddings.patch_embeddings.projection.weight",
    "embeddings.patch_embeddings.projection.bias",
    "layernorm.weight",
    "layernorm.bias",
)
_NATIVE_OUTSIDE = (
    "cls_token",
    "mask_token",
    "register_tokens",
    "pos_embed",
    "patch_embed.proj.weight",
    "patch_embed.proj.bias",
    "norm.weight",
    "norm.bias",
)
_QUERY_KEY_VALUE = ("attention.q_proj", "attention.k_proj", "attention.v_proj")
_GATE_UP = ("mlp.gate_proj", "mlp.up_proj")
_SAME_EVERYWHERE = {name: (name,) for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2")}
_LAYER_SCALES = {name: (name,) for name in ("layer_scale1", "layer_scale2")}


@dataclass(frozen=True)
class Spelling:
    """How one code base calls the parameters.

    Attributes:
        title: For messages.
        layers: What comes before the number of a layer.
        outside: Names outside the layers, with the pieces that they stand for.
        inside: Names inside a layer, without the leaf, with the pieces that are stacked in them along the first axis.
    """

    title: str
    layers: str
    outside: Mapping[str, str]
    inside: Mapping[str, tuple[str, ...]]

    def pieces(self, name: str) -> tuple[str, ...]:
        """The pieces that a tensor of this name stacks, none if the name is not of this spelling."""
        if name in self.outside:
            return (self.outside[name],)
        match = _LAYER.fullmatch(name)
        if match is None or match[1] != self.layers or match[4] not in _LEAVES:
            return ()
        pieces = self.inside.get(match[3], ())
        return tuple(f"encoder.layer.{match[2]}.{piece}.{_LEAVES[match[4]]}" for piece in pieces)

    def name_of(self, piece: str) -> str:
        """The name of the tensor that a piece is in."""
        for name, outside_piece in self.outside.items():
            if piece == outside_piece:
                return name
        match = _LAYER.fullmatch(piece)
        if match is not None:
            for stem, pieces in self.inside.items():
                if match[3] in pieces:
                    leaf = "gamma" if match[4] == "lambda1" and self is NATIVE else match[4]
                    return f"{self.layers}.{match[2]}.{stem}.{leaf}"
        return piece


TRANSFORMERS_4 = Spelling(
    "Transformers 4",
    "encoder.layer",
    {name: name for name in _OUTSIDE},
    {
        **_SAME_EVERYWHERE,
        **_LAYER_SCALES,
        "attention.attention.query": _QUERY_KEY_VALUE[:1],
        "attention.attention.key": _QUERY_KEY_VALUE[1:2],
        "attention.attention.value": _QUERY_KEY_VALUE[2:],
        "attention.output.dense": ("attention.o_proj",),
        "mlp.weights_in": _GATE_UP,
        "mlp.weights_out": ("mlp.down_proj",),
    },
)
TRANSFORMERS_5 = Spelling(
    "Transformers 5",
    "encoder.layer",
    {name: name for name in _OUTSIDE},
    {
        **_SAME_EVERYWHERE,
        **_LAYER_SCALES,
        **{name: (name,) for name in (*_QUERY_KEY_VALUE, "attention.o_proj", *_GATE_UP, "mlp.down_proj")},
    },
)
NATIVE = Spelling(
    "HistAI's own",
    "blocks",
    dict(zip(_NATIVE_OUTSIDE, _OUTSIDE)),
    {
        **_SAME_EVERYWHERE,
        "attn.qkv": _QUERY_KEY_VALUE,
        "attn.proj": ("attention.o_proj",),
        "ls1": ("layer_scale1",),
        "ls2": ("layer_scale2",),
        "mlp.w12": _GATE_UP,
        "mlp.w3": ("mlp.down_proj",),
    },
)
SPELLINGS = (TRANSFORMERS_4, TRANSFORMERS_5, NATIVE)


def spelling_of(names: Iterable[str], prefix: str = "") -> Spelling:
    """The spelling that most of the names with this prefix belong to."""
    bare = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    return max(SPELLINGS, key=lambda spelling: sum(bool(spelling.pieces(name)) for name in bare))


def in_pieces(weights: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    """A state dict of a backbone in pieces, that is with the names of Transformers 5; other names stay as they are."""
    spelling = spelling_of(weights)
    pieces: dict[str, torch.Tensor] = {}
    for name, tensor in weights.items():
        names = spelling.pieces(name) or (name,)
        pieces.update(zip(names, tensor.chunk(len(names))))
    return pieces


def projection_names(weights: Iterable[str]) -> list[str]:
    """What the layers that make queries, keys and values are called, without their path, among parameter names."""
    inside = spelling_of(weights).inside.items()
    return [stem.rpartition(".")[2] for stem, pieces in inside if set(pieces) <= set(_QUERY_KEY_VALUE)]


def backbone_prefixes(names: Iterable[str]) -> list[str]:
    """What stands before the names of each vision transformer among the names, `""` included, in alphabetical order.

    One is recognised by parameters outside its layers together with a first layer, so that a few missing tensors do
    not hide it, and a text encoder, whose layers may be called the same, is not taken for one.
    """
    names = list(names)
    found = set()
    for spelling in SPELLINGS:
        distinctive = [name for name in spelling.outside if not name.startswith(("norm.", "layernorm."))]
        for name in names:
            prefix = next((p for p in (_before(name, end) for end in distinctive) if p is not None), None)
            if prefix is not None and prefix not in found and _has_layers(names, prefix, spelling):
                found.add(prefix)
    return sorted(found)


def _before(name: str, end: str) -> Optional[str]:
    """What stands before `end` in a dotted name, if it ends so."""
    return name.removesuffix(end) if name == end or name.endswith(f".{end}") else None


def _has_layers(names: list[str], prefix: str, spelling: Spelling) -> bool:
    start = f"{prefix}{spelling.layers}.0."
    return any(name.startswith(start) and spelling.pieces(name.removeprefix(prefix)) for name in names)
