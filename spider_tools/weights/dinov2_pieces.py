"""The tensors of a DINOv2 backbone among others, cut into pieces that have one name in every spelling."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Optional

import torch

from .dinov2_names import Spelling, backbone_prefixes, spelling_of

CLASS_TOKEN, MASK_TOKEN, REGISTERS, POSITIONS, PATCHES = (
    "embeddings.cls_token",
    "embeddings.mask_token",
    "embeddings.register_tokens",
    "embeddings.position_embeddings",
    "embeddings.patch_embeddings.projection.weight",
)
PROBLEMS = ("missing", "unused", "mis-shaped", "not of floating point", "not finite")


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
        return len(self.pieces[PATCHES]) if PATCHES in self.pieces else None

    def note(self, problem: str, names: Iterable[str]) -> None:
        """Remember what is wrong with some names."""
        self.problems.setdefault(problem, []).extend(names)

    def refusal(self) -> ValueError:
        """An error that lists all problems."""
        noted = ((problem, self.problems.get(problem)) for problem in PROBLEMS)
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
            f"{source} holds no DINOv2 backbone: expected names such as {CLASS_TOKEN} and "
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


def listed(names: Iterable[str], most: int = 20) -> str:
    """Names in one line, the first `most` of them."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
