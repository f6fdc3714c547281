"""A published SPIDER checkpoint, its parts recognised by name suffix and shape, as a model of this project.

What its tensors are called is not published, only its parts: a DINOv2 backbone, a BERT encoder over the patches of a
region, a projection from the one to the other and a classifier. Its own code is never read.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Optional

import torch
from torch import nn
from transformers import BertModel

from .. import remote_code
from .dinov2 import build_backbone
from .dinov2_config import CONFIG_FIELDS, with_heads
from .dinov2_pieces import FoundBackbone, find_backbone, holds_backbone, listed
from .reading import WeightSource, open_source
from .untrained import looks_untrained

if TYPE_CHECKING:
    from transformers import Dinov2WithRegistersModel

    from ..remote_code import SpiderConfig, SpiderForImageClassification, SpiderImageProcessor

_ENCODER_POSITIONS = "embeddings.position_embeddings.weight"
_TOKEN_TYPES = "embeddings.token_type_embeddings.weight"
_WORDS = "embeddings.word_embeddings.weight"
_POOLER = ("pooler.dense.weight", "pooler.dense.bias")
_INDEX_BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")
# Of BERT, where SpiderConfig has no field for another.
_FIXED = {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "position_embedding_type": "absolute", "is_decoder": False}
_PAPER_HEADS = 1


@dataclass
class ImportedSpider:
    """A published checkpoint as a model of this project.

    Attributes:
        model: In float32.
        image_processor: Its own.
        mapping: Pairs of what the source calls a part or tensor and what this project calls it.
        notes: What was left out and what had to be assumed, a sentence each.
    """

    model: "SpiderForImageClassification"
    image_processor: "SpiderImageProcessor"
    mapping: list[tuple[str, str]]
    notes: list[str]

    def report(self) -> str:
        """Mapping and notes as text."""
        width = max(len(theirs) for theirs, _ in self.mapping)
        lines = [f"{theirs:<{width}}  ->  {ours}" for theirs, ours in self.mapping]
        return "\n".join([*lines, *(f"- {note}" for note in self.notes)])


@dataclass
class _Import:
    """What is known of the source so far; every step takes from `left` what it recognises."""

    source: WeightSource
    left: dict[str, torch.Tensor]
    state: dict[str, torch.Tensor] = field(default_factory=dict)
    mapping: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def take(self, theirs: str, ours: str) -> None:
        tensor = self.left[theirs]
        if not tensor.dtype.is_floating_point or not bool(tensor.isfinite().all()):
            raise self.broken(f"{theirs} ({tensor.dtype}) must hold floats, all of them finite.")
        self.state[ours] = self.left.pop(theirs).float().clone()
        self.mapping.append((theirs, ours))

    def broken(self, problem: str) -> ValueError:
        shapes = listed(f"{name} {tuple(tensor.shape)}" for name, tensor in sorted(self.left.items()))
        return ValueError(f"{self.source.name}: {problem} Tensors without a place: {shapes or 'none'}.")


def import_spider(source: str, backbone_heads: Optional[int] = None) -> ImportedSpider:
    """Recognise the parts of a published SPIDER checkpoint.

    Args:
        source: Folder or Hub id, with a `class_names` list in its config.json.
        backbone_heads: Attention heads of its backbone, where config.json does not state them; see `load_backbone`.

    Raises:
        ValueError: A part is missing, ambiguous or of another shape, tensors are left over, the encoder ends in a
            trained pooler, or the configuration cannot be expressed here. The message names the tensors.
        OSError: There is no such source, or it cannot be downloaded.
    """
    opened = open_source(source, holds_backbone)
    class_names = _class_names(opened)
    found = find_backbone(source, opened.tensors)
    work = _Import(opened, {name: tensor for name, tensor in opened.tensors.items() if name not in found.names})
    backbone = _take_backbone(work, found, backbone_heads)
    prefix = _encoder_prefix(work)
    config = remote_code.config_class()(
        backbone_config=backbone.config.to_dict(),
        patch_size=backbone.config.image_size,
        class_names=class_names,
        **_head_sizes(work, prefix),
    )
    model = _assemble(work, prefix, config, backbone)
    image_processor = _image_processor(work, config.patch_size, config.context_size)
    work.notes.append(
        "Not published, and assumed: the encoder's tokens are the patches in row-major order, and the class is read at "
        f"the centre (token {config.center_index}). Evaluate the model before you rely on it."
    )
    return ImportedSpider(model, image_processor, work.mapping, work.notes)


def _take_backbone(work: _Import, found: FoundBackbone, heads: Optional[int]) -> "Dinov2WithRegistersModel":
    stated = _stated(work, found.hidden_size, CONFIG_FIELDS)
    backbone = build_backbone(found, with_heads(work.source.name, stated, heads))
    work.mapping.append((f"{found.prefix}*", f"backbone.* ({len(found.names)} tensors, {found.spelling.title} names)"))
    if "num_attention_heads" not in stated:
        origin = "Said with --backbone_heads" if heads else "Assumed, as published backbones of this shape have them"
        work.notes.append(f"{origin}: {backbone.config.num_attention_heads} attention heads in the backbone.")
    return backbone


def _assemble(
    work: _Import, prefix: str, config: "SpiderConfig", backbone: nn.Module
) -> "SpiderForImageClassification":
    """The model of a backbone and of what is left, every tensor of which is used."""
    with torch.device("meta"):
        model = remote_code.model_class()(config)
    # It has buffers that no state dict holds, so that it cannot come from the meta device.
    model.context_encoder = BertModel(config.context_encoder_config(), add_pooling_layer=False)
    _drop_unused(work, prefix)
    _take_encoder(work, prefix, model.context_encoder.state_dict())
    _take_linear(work, "projection", (config.head_hidden_size, backbone.config.hidden_size))
    _take_linear(work, "classifier", (config.num_labels, config.head_hidden_size))
    if work.left:
        raise work.broken("its architecture is another one, this one has no place for some of its tensors.")
    work.state |= {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    model.load_state_dict(work.state, assign=True)
    return model.eval()


def _class_names(source: WeightSource) -> list[str]:
    names = (source.config or {}).get("class_names")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{source.name}: expected a list of strings `class_names` in its config.json, got {names!r}.")
    return names


def _stated(work: _Import, hidden_size: Optional[int], fields: Sequence[str]) -> dict[str, Any]:
    """What the source's configuration says about its transformer of this width, wherever in it that stands."""
    stated: dict[str, Any] = {}
    for part in _dicts(work.source.config):
        if part.get("hidden_size") != hidden_size or "num_attention_heads" not in part:
            continue
        for name in fields:
            if name in stated and part.get(name) not in (None, stated[name]):
                raise work.broken(
                    f"its config.json has {name} {stated[name]} and {part[name]} for width {hidden_size}."
                )
        stated |= {name: part[name] for name in fields if part.get(name) is not None}
    return stated


def _dicts(content: Any) -> Iterator[dict[str, Any]]:
    if isinstance(content, dict):
        yield content
        for value in content.values():
            yield from _dicts(value)


def _encoder_prefix(work: _Import) -> str:
    ends = (_ENCODER_POSITIONS, f".{_ENCODER_POSITIONS}")
    prefixes = [name.removesuffix(ends[0]) for name in work.left if name == ends[0] or name.endswith(ends[1])]
    if not prefixes:
        raise work.broken(f"nothing is left for the context encoder; one has a tensor ...{_ENCODER_POSITIONS}.")
    if len(prefixes) > 1:
        candidates = ", ".join(f"{prefix}*" for prefix in sorted(prefixes))
        raise work.broken(f"the context encoder is ambiguous, candidates are {candidates}.")
    return prefixes[0]


def _head_sizes(work: _Import, prefix: str) -> dict[str, Any]:
    """The fields of SpiderConfig about the head and the region."""
    positions = work.left[prefix + _ENCODER_POSITIONS]
    side = math.isqrt(len(positions)) if positions.ndim == 2 else 0
    if side % 2 == 0 or side * side != len(positions):
        raise work.broken(
            f"{prefix}{_ENCODER_POSITIONS} has the shape {tuple(positions.shape)}, expected a row for each patch of a "
            "region: 25, or another odd number squared."
        )
    intermediate = work.left.get(f"{prefix}encoder.layer.0.intermediate.dense.weight")
    if intermediate is None:
        raise work.broken(f"the context encoder lacks {prefix}encoder.layer.0.intermediate.dense.weight.")
    hidden = positions.shape[1]
    stated = _stated(work, hidden, ("num_attention_heads", *_FIXED))
    for name, value in _FIXED.items():
        if stated.get(name, value) != value:
            raise work.broken(f"its context encoder has {name} {stated[name]!r}, which is always {value!r} here.")
    if "num_attention_heads" not in stated:
        work.notes.append(f"Assumed, as config.json does not say it: {_PAPER_HEADS} attention head, as in the paper.")
    start = f"{prefix}encoder.layer."
    return {
        "context_size": side,
        "head_hidden_size": hidden,
        "head_num_hidden_layers": len({n.removeprefix(start).split(".")[0] for n in work.left if n.startswith(start)}),
        "head_num_attention_heads": stated.get("num_attention_heads", _PAPER_HEADS),
        "head_intermediate_size": len(intermediate),
    }


def _drop_unused(work: _Import, prefix: str) -> None:
    """Take away what no forward pass of this architecture reads, and refuse a pooler that the source may have read."""
    for name in _INDEX_BUFFERS:
        work.left.pop(prefix + name, None)
    if work.left.pop(prefix + _WORDS, None) is not None:
        work.notes.append(f"Left out: {prefix}{_WORDS}, because the encoder is fed embeddings.")
    weight, bias = (work.left.get(prefix + name) for name in _POOLER)
    if weight is None and bias is None:
        return
    if weight is None or bias is None:
        raise work.broken(f"expected both {prefix}{_POOLER[0]} and {prefix}{_POOLER[1]}, or neither.")
    ranges = [part["initializer_range"] for part in _dicts(work.source.config) if "initializer_range" in part] or [0.02]
    if not any(looks_untrained(weight, bias, initializer_range) for initializer_range in ranges):
        raise work.broken(
            f"{prefix}pooler is trained, so that the class may be read through it; this architecture reads the token "
            f"of the central patch and cannot express that. (An untrained pooler has a bias of 0, this one up to "
            f"{float(bias.abs().max()):.3g}, and weights of standard deviation {ranges[0]:g}, this one "
            f"{float(weight.float().std()):.3g}.)"
        )
    for name in _POOLER:
        del work.left[prefix + name]
    work.notes.append(f"Left out: {prefix}pooler, which is as BERT initialises it: nothing was learnt through it.")


def _take_encoder(work: _Import, prefix: str, expected: dict[str, torch.Tensor]) -> None:
    """Take the tensors of the context encoder; `expected` are ours, by their names in it."""
    shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    work.state[f"context_encoder.{_WORDS}"] = torch.zeros(shapes.pop(_WORDS))
    _fit_token_types(work, prefix + _TOKEN_TYPES, shapes[_TOKEN_TYPES])
    missing = [prefix + name for name in shapes if prefix + name not in work.left]
    mis_shaped = [
        f"{prefix}{name} {tuple(work.left[prefix + name].shape)}, expected {shape}"
        for name, shape in shapes.items()
        if prefix + name in work.left and work.left[prefix + name].shape != shape
    ]
    if missing or mis_shaped:
        problems = {"missing": missing, "mis-shaped": mis_shaped}
        text = "; ".join(f"{problem}: {listed(names)}" for problem, names in problems.items() if names)
        raise work.broken(f"the context encoder {prefix}* is not complete. {text}.")
    for name in shapes:
        work.take(prefix + name, f"context_encoder.{name}")


def _fit_token_types(work: _Import, name: str, shape: tuple[int, ...]) -> None:
    """Bring the embeddings of token types to our number of rows; all patches are of type 0, the first row."""
    table = work.left.get(name)
    if table is None or table.ndim != 2 or len(table) == shape[0] or not len(table):
        return
    rows = torch.zeros(shape[0], table.shape[1], dtype=table.dtype)
    rows[: len(table)] = table[: shape[0]]
    work.left[name] = rows
    work.notes.append(f"{name} has {len(table)} rows instead of {shape[0]}, of which only the first is read.")


def _take_linear(work: _Import, ours: str, shape: tuple[int, int]) -> None:
    """Take the one linear layer of this shape, a bias of 0 for one that has none."""
    stems = [
        name.removesuffix(".weight")
        for name, tensor in sorted(work.left.items())
        if name.endswith(".weight") and tuple(tensor.shape) == shape
    ]
    if not stems:
        raise work.broken(f"nothing is left for the {ours}, a linear layer with weights of the shape {shape}.")
    if len(stems) > 1:
        raise work.broken(f"the {ours}, with weights of the shape {shape}, is ambiguous: {', '.join(stems)}.")
    work.take(f"{stems[0]}.weight", f"{ours}.weight")
    bias = work.left.get(f"{stems[0]}.bias")
    if bias is None:
        work.state[f"{ours}.bias"] = torch.zeros(shape[0])
        work.notes.append(f"{stems[0]} has no bias: {ours}.bias is 0.")
    elif tuple(bias.shape) != shape[:1]:
        raise work.broken(f"{stems[0]}.bias has the shape {tuple(bias.shape)}, expected {shape[:1]}.")
    else:
        work.take(f"{stems[0]}.bias", f"{ours}.bias")


def _image_processor(work: _Import, patch_size: int, context_size: int) -> "SpiderImageProcessor":
    stated = work.source.preprocessor or {}
    fields = {name: stated[name] for name in ("image_mean", "image_std") if name in stated}
    if len(fields) < 2:
        work.notes.append("Assumed, as the source does not say it: colours are normalised as for Hibou.")
    return remote_code.image_processor_class()(patch_size=patch_size, context_size=context_size, **fields)
