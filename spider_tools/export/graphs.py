"""The two halves of a model as modules of tensors alone, and what a graph of each takes and gives."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from ..normalization import normalizing

if TYPE_CHECKING:
    from ..remote_code import SpiderForImageClassification, SpiderImageProcessor

Arrays = dict[str, np.ndarray]
Runner = Callable[..., Arrays]
"""Runs a graph: arrays by name in, as keywords, and arrays by name out."""


@dataclass(frozen=True, eq=False)
class Half:
    """One half of a model, to be made a graph of.

    Attributes:
        name: Of its file, without suffix.
        module: Takes the inputs in their order, gives a dict of the outputs.
        inputs: Examples by name; their first axis is free.
        outputs: Names.
    """

    name: str
    module: nn.Module
    inputs: dict[str, torch.Tensor]
    outputs: tuple[str, ...]


class PatchEncoder(nn.Module):
    """Patches, uint8 `(N, 3, P, P)`, to embeddings, float32 `(N, hidden)`.

    Args:
        model: In evaluation mode; its dtype is that of the backbone in the graph.
        image_processor: Its own, whose normalisation goes into the graph.
    """

    def __init__(self, model: "SpiderForImageClassification", image_processor: "SpiderImageProcessor") -> None:
        super().__init__()
        self.training = False
        self.model = normalizing(_only(model, ("backbone",)), image_processor)

    def forward(self, patches: torch.Tensor) -> dict[str, torch.Tensor]:
        """The model normalises in float32 and embeds in the backbone's dtype."""
        return {"patch_embeddings": self.model.embed_patches(patches).float()}


class Head(nn.Module):
    """Grids of embeddings, float32 `(B, context_size**2, hidden)`, and their mask, bool, to what `head_outputs` names.

    Args:
        model: In float32 and evaluation mode.
    """

    def __init__(self, model: "SpiderForImageClassification") -> None:
        super().__init__()
        self.training = False
        self.outputs = head_outputs(model)
        others = tuple(name for name, _ in model.named_children() if name != "backbone")
        self.model = _only(model, others)

    def forward(self, patch_embeddings: torch.Tensor, context_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the model says of each grid."""
        fixed = {"output_attentions": True, "output_hidden_states": False, "return_dict": True}
        said = self.model(patch_embeddings=patch_embeddings, context_mask=context_mask, **fixed)
        return {name: said[name].float() for name in self.outputs}


def head_outputs(model: "SpiderForImageClassification") -> tuple[str, ...]:
    """Names of what a head's graph gives, fields of `SpiderOutput`; the last two where the model knows them."""
    known = (("unfamiliarity", model.familiarity), ("class_p_values", model.class_sets))
    return ("logits", "context_attention", *(name for name, memory in known if memory is not None))


def halves(
    model: "SpiderForImageClassification", image_processor: "SpiderImageProcessor", dtype: torch.dtype
) -> Sequence[Half]:
    """The patch encoder in a dtype, and the head in float32.

    Args:
        model: In float32 and evaluation mode; it is not changed.
        image_processor: Its own.
        dtype: Of the backbone.
    """
    config = model.config
    embedding = model
    if dtype != torch.float32:
        embedding = copy.copy(_only(model, ("backbone",)))
        embedding._modules = {"backbone": copy.deepcopy(model.backbone).to(dtype)}
    side, patches, hidden = config.patch_size, config.num_context_patches, config.backbone_config.hidden_size
    mask = torch.ones(2, patches, dtype=torch.bool)
    mask[1, : config.center_index] = False
    pixels = torch.zeros(2, 3, side, side, dtype=torch.uint8)
    grids = {"patch_embeddings": torch.zeros(2, patches, hidden), "context_mask": mask}
    return (
        Half("patch_encoder", PatchEncoder(embedding, image_processor), {"patches": pixels}, ("patch_embeddings",)),
        Half("head", Head(model), grids, head_outputs(model)),
    )


def _only(model: "SpiderForImageClassification", children: Sequence[str]) -> "SpiderForImageClassification":
    """The same model, its tensors shared, with some of its parts: a graph carries all that a module has.

    Its mode cannot be changed: that needs the others.
    """
    part = copy.copy(model)
    part._modules = {name: module for name, module in model._modules.items() if name in children}
    return part
