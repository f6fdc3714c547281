"""The end of SPIDER's head: what the class is read from, and what that looked at."""

from typing import Any, Optional

import torch
from torch import nn


def read_out(
    tokens: torch.Tensor, readout: str, center_index: int, context_mask: Optional[torch.Tensor] = None
) -> torch.Tensor:
    """What the class is read from. Masked tokens are never read, nor counted in a mean.

    Args:
        tokens: Float `(batch, patches, width)`.
        readout: `"center"`, `"first"` or `"mean"`, see `head_readout` of the configuration.
        center_index: Of the central patch.
        context_mask: Bool `(batch, patches)`, True where a patch is present; all by default.

    Returns:
        Float `(batch, width)`.
    """
    if readout == "center":
        return tokens[:, center_index]
    if context_mask is None:
        return tokens[:, 0] if readout == "first" else tokens.mean(dim=1)
    shares = _shares(readout, center_index, context_mask)
    # In float32: a share such as 1/7 is too coarse in bfloat16.
    return (shares[..., None].to(tokens.device) * tokens.float()).sum(dim=1).to(tokens.dtype)


def attention_of(
    encoder: nn.Module, hidden_states: torch.Tensor, config: Any, context_mask: Optional[torch.Tensor]
) -> torch.Tensor:
    """How much what the class is read from looks at each patch, in the last layer of the head's encoder.

    Attention kernels such as sdpa return no weights, so they are computed from the input of the last layer, whatever
    kernel the layer itself uses.

    Args:
        encoder: A `BertModel`.
        hidden_states: Float `(batch, patches, width)`, the input of its last layer.
        config: Of the model.
        context_mask: Bool `(batch, patches)`, True where a patch is present; all if None.

    Returns:
        Float32 `(batch, patches)`, averaged over attention heads and the tokens that are read; rows sum to 1.
    """
    attention = encoder.encoder.layer[-1].attention.self
    heads = config.head_num_attention_heads
    if context_mask is None:
        context_mask = hidden_states.new_ones(hidden_states.shape[:2], dtype=torch.bool)
    shares = _shares(config.head_readout, config.center_index, context_mask.to(hidden_states.device))
    query = attention.query(hidden_states).unflatten(-1, (heads, -1))
    key = attention.key(hidden_states).unflatten(-1, (heads, -1))
    scores = torch.einsum("bqhd,bnhd->bhqn", query, key).float() / query.shape[-1] ** 0.5
    scores = scores.masked_fill(~context_mask[:, None, None].to(scores.device), float("-inf"))
    return torch.einsum("bhqn,bq->bhn", scores.softmax(dim=-1), shares.to(scores.device)).mean(dim=1)


def _shares(readout: str, center_index: int, context_mask: torch.Tensor) -> torch.Tensor:
    """How much each token counts in what is read, float32 `(batch, patches)`; rows sum to 1, a masked token gets 0."""
    if readout == "mean":
        return context_mask / context_mask.sum(dim=1, keepdim=True)
    if readout == "first":
        read = context_mask.to(torch.uint8).argmax(dim=1)  # the first of several equal values: of True
    else:
        read = torch.full_like(context_mask[:, 0], center_index, dtype=torch.long)
    return nn.functional.one_hot(read, context_mask.shape[1]).float()
