"""The backbone inside a SPIDER model: which parameters are its own, what they are called, where they are stored."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

# What adapter libraries put into the names of what they wrap.
_WRAPPERS = ("base_layer", "original_module")
_WRAPPED_MODEL = "base_model.model."

# Parameter names in Transformers 4, which both versions write, and in Transformers 5.
_NAMES = (
    ("attention.attention.query.", "attention.q_proj."),
    ("attention.attention.key.", "attention.k_proj."),
    ("attention.attention.value.", "attention.v_proj."),
    ("attention.output.dense.", "attention.o_proj."),
    ("mlp.weights_out.", "mlp.down_proj."),
)


def parameter_names(backbone: nn.Module) -> frozenset[str]:
    """Names of all parameters of a backbone that nothing has been added to yet."""
    return frozenset(name for name, _ in backbone.named_parameters())


def own_parameters(backbone: nn.Module, names: frozenset[str]) -> Iterator[nn.Parameter]:
    """The parameters that a backbone had before adapters were added to it.

    Args:
        backbone: With adapters or without.
        names: Of `parameter_names`.
    """
    for name, parameter in backbone.named_parameters():
        plain = ".".join(part for part in name.removeprefix(_WRAPPED_MODEL).split(".") if part not in _WRAPPERS)
        if plain in names:
            yield parameter


def has_adapters(backbone: nn.Module, names: frozenset[str]) -> bool:
    """Whether something was added to a backbone, as by peft."""
    return sum(1 for _ in backbone.parameters()) > sum(1 for _ in own_parameters(backbone, names))


def learns(backbone: nn.Module) -> bool:
    """Whether any parameter of a backbone, an adapter's included, takes gradients."""
    return any(parameter.requires_grad for parameter in backbone.parameters())


def accept_other_names(backbone: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Rename the backbone's entries of a raw state dict, in place, to the names of the running version of Transformers.

    `from_pretrained` does this by itself. `load_state_dict` does not, and `Trainer` calls it with `strict=False` to
    restore a checkpoint: without this hook the backbone would silently keep its previous values.
    """
    newer = any(".q_proj." in name for name, _ in backbone.named_parameters())
    for name in [name for name in state_dict if name.startswith(prefix)]:
        if newer and ".mlp.weights_in." in name:
            gate, up = state_dict.pop(name).chunk(2)
            state_dict[name.replace("weights_in", "gate_proj")] = gate
            state_dict[name.replace("weights_in", "up_proj")] = up
        elif not newer and ".mlp.gate_proj." in name and name.replace("gate_proj", "up_proj") in state_dict:
            halves = [state_dict.pop(name), state_dict.pop(name.replace("gate_proj", "up_proj"))]
            state_dict[name.replace("gate_proj", "weights_in")] = torch.cat(halves)
        for older, later in _NAMES:
            foreign, own = (older, later) if newer else (later, older)
            if f".{foreign}" in name and name in state_dict:
                state_dict[name.replace(foreign, own)] = state_dict.pop(name)


def give_own_storage(model: nn.Module) -> None:
    """Copy every parameter that is a view of a larger storage.

    Transformers 5 loads the two halves of a SwiGLU layer as views of one tensor; what saves training states takes
    them for tied weights and drops one.
    """
    for parameter in model.parameters():
        if parameter.device.type != "meta" and parameter.untyped_storage().nbytes() > parameter.nbytes:
            parameter.data = parameter.data.clone()
