"""Models of random weights to measure, since those of Hibou-L are gated, and DINOv2 written plainly beside them."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from spider_tools import remote_code

VIT_S = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "patch_size": 14}
SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2, "patch_size": 28}


def random_model(backbone: dict[str, Any] | None = None, device: torch.device | None = None) -> Any:
    """A SPIDER model of 13 classes in evaluation mode; with Hibou-L's architecture where no other is given."""
    torch.manual_seed(0)
    fields = {} if backbone is None else {"backbone_config": {"use_swiglu_ffn": True, **backbone, "image_size": 224}}
    config = remote_code.config_class()(class_names=[f"Class {number}" for number in range(13)], **fields)
    return remote_code.model_class()(config).eval().to(device or "cpu")


class PlainDinov2(nn.Module):
    """DINOv2 with registers, one operation after the other, attention as two products and a softmax.

    This is how the models were published: nothing fused, the attention's weights in memory.

    Args:
        backbone: A `Dinov2WithRegistersModel` of Transformers 5 with a SwiGLU network, whose weights it shares.
    """

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = backbone.config.num_attention_heads

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Class tokens `(N, hidden)` of normalised patches `(N, 3, P, P)`."""
        embeddings = self.backbone.embeddings
        x = embeddings.patch_embeddings.projection(pixel_values).flatten(2).transpose(1, 2)
        x = torch.cat([embeddings.cls_token.expand(len(x), -1, -1), x], dim=1) + embeddings.position_embeddings
        registers = embeddings.register_tokens.expand(len(x), -1, -1)
        x = torch.cat([x[:, :1], registers, x[:, 1:]], dim=1)
        for layer in _layers(self.backbone):
            x = x + layer.layer_scale1.lambda1 * self._attention(layer, layer.norm1(x))
            x = x + layer.layer_scale2.lambda1 * self._feed_forward(layer.mlp, layer.norm2(x))
        return self.backbone.layernorm(x)[:, 0]

    def _attention(self, layer: Any, x: torch.Tensor) -> torch.Tensor:
        attention = layer.attention
        query, key, value = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        weights = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(dim=-1)
        return attention.o_proj((weights @ value).transpose(1, 2).flatten(2))

    def _feed_forward(self, mlp: Any, x: torch.Tensor) -> torch.Tensor:
        return mlp.down_proj(functional.silu(mlp.gate_proj(x)) * mlp.up_proj(x))


def flops_per_patch(config: Any) -> float:
    """Floating-point operations of one patch in a backbone with a SwiGLU network: its matrix products and no more.

    Args:
        config: Of the backbone.
    """
    squares = (config.image_size // config.patch_size) ** 2
    tokens = squares + 1 + config.num_register_tokens
    hidden = config.hidden_size
    inner = (int(hidden * config.mlp_ratio * 2 / 3) + 7) // 8 * 8
    per_token = 4 * hidden**2 + 3 * hidden * inner + 2 * tokens * hidden
    projection = squares * 3 * config.patch_size**2 * hidden
    return 2.0 * (tokens * config.num_hidden_layers * per_token + projection)


def _layers(backbone: Any) -> Any:
    return backbone.encoder.layer if hasattr(backbone, "encoder") else backbone.layers
