"""DINOv2 with registers written down from its definition: plain tensors in float64, HistAI's own parameter names.

Nothing here comes from the code under test or from Transformers, so that both can be held against it.
"""

import json

import torch
from safetensors.torch import save_file


def random_state_dict(*, hidden, layers, token, grid, registers, swiglu, width, seed=0, std=0.15):
    """Random weights by native name, float32. `width` is that of the feed-forward layer, `grid` is tokens per side."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape, mean=0.0, scale=std):
        return mean + scale * torch.randn(shape, generator=generator)

    state = {
        "cls_token": normal(1, 1, hidden),
        "pos_embed": normal(1, 1 + grid * grid, hidden),
        "mask_token": normal(1, hidden),
        "patch_embed.proj.weight": normal(hidden, 3, token, token, scale=std / 3),
        "patch_embed.proj.bias": normal(hidden),
        "norm.weight": normal(hidden, mean=1.0),
        "norm.bias": normal(hidden),
    }
    if registers:
        state["register_tokens"] = normal(1, registers, hidden)
    linears = {"attn.qkv": (3 * hidden, hidden), "attn.proj": (hidden, hidden)}
    linears |= (
        {"mlp.w12": (2 * width, hidden), "mlp.w3": (hidden, width)}
        if swiglu
        else {"mlp.fc1": (width, hidden), "mlp.fc2": (hidden, width)}
    )
    for number in range(layers):
        block = f"blocks.{number}."
        for name in ("norm1", "norm2"):
            state[f"{block}{name}.weight"], state[f"{block}{name}.bias"] = normal(hidden, mean=1.0), normal(hidden)
        for name in ("ls1", "ls2"):
            state[f"{block}{name}.gamma"] = normal(hidden, mean=0.5)
        for name, shape in linears.items():
            state[f"{block}{name}.weight"], state[f"{block}{name}.bias"] = normal(*shape), normal(shape[0])
    return state


def forward(state, pixels, heads):
    """All tokens after the last layer norm, float64 `(N, 1 + registers + tokens, hidden)`, class token first."""
    state = {name: tensor.double() for name, tensor in state.items()}
    x = _tokens(state, pixels.double())
    number = 0
    while f"blocks.{number}.norm1.weight" in state:
        block = {n.removeprefix(f"blocks.{number}."): t for n, t in state.items() if n.startswith(f"blocks.{number}.")}
        x = x + block["ls1.gamma"] * _attention(block, _norm(x, block, "norm1"), heads)
        x = x + block["ls2.gamma"] * _feed_forward(block, _norm(x, block, "norm2"))
        number += 1
    return _norm(x, state, "norm")


def _tokens(state, pixels):
    weight = state["patch_embed.proj.weight"]
    side = weight.shape[-1]
    count, _, height, width = pixels.shape
    rows = []
    for top in range(0, height, side):
        for left in range(0, width, side):
            patch = pixels[:, :, top : top + side, left : left + side].reshape(count, -1)
            rows.append(patch @ weight.reshape(len(weight), -1).T + state["patch_embed.proj.bias"])
    class_token = state["cls_token"][0, 0].expand(count, 1, -1)
    x = torch.cat([class_token, torch.stack(rows, dim=1)], dim=1) + state["pos_embed"]
    if "register_tokens" in state:
        # Registers come after the class token and have no position.
        x = torch.cat([x[:, :1], state["register_tokens"].expand(count, -1, -1), x[:, 1:]], dim=1)
    return x


def _norm(x, state, name):
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + 1e-6).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def _linear(x, block, name):
    return x @ block[f"{name}.weight"].T + block[f"{name}.bias"]


def _attention(block, x, heads):
    query, key, value = _linear(x, block, "attn.qkv").split(x.shape[-1], dim=-1)
    size = x.shape[-1] // heads
    mixed = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = query[..., part] @ key[..., part].transpose(1, 2) / size**0.5
        mixed.append(scores.softmax(dim=-1) @ value[..., part])
    return _linear(torch.cat(mixed, dim=-1), block, "attn.proj")


def _feed_forward(block, x):
    if "mlp.w12.weight" in block:
        gate, up = _linear(x, block, "mlp.w12").chunk(2, dim=-1)
        return _linear(gate / (1 + (-gate).exp()) * up, block, "mlp.w3")
    inner = _linear(x, block, "mlp.fc1")
    return _linear(inner * 0.5 * (1 + torch.erf(inner / 2**0.5)), block, "mlp.fc2")


def in_transformers_4_names(state):
    """Native tensors under the names of Transformers 4."""
    outside = {
        "cls_token": "embeddings.cls_token",
        "mask_token": "embeddings.mask_token",
        "register_tokens": "embeddings.register_tokens",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
        "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
        "norm.weight": "layernorm.weight",
        "norm.bias": "layernorm.bias",
    }
    inside = {
        "attn.proj": "attention.output.dense",
        "ls1.gamma": "layer_scale1.lambda1",
        "ls2.gamma": "layer_scale2.lambda1",
        "mlp.w12": "mlp.weights_in",
        "mlp.w3": "mlp.weights_out",
    }
    renamed = {}
    for name, tensor in state.items():
        if name in outside:
            renamed[outside[name]] = tensor
            continue
        new = name.replace("blocks.", "encoder.layer.")
        for old_part, new_part in inside.items():
            new = new.replace(old_part, new_part)
        if ".attn.qkv." in new:
            for part, third in zip(("query", "key", "value"), tensor.chunk(3)):
                renamed[new.replace("attn.qkv", f"attention.attention.{part}")] = third.clone()
        else:
            renamed[new] = tensor
    return renamed


def in_transformers_5_names(state):
    """Native tensors under the names of Transformers 5."""
    renamed = {}
    for name, tensor in in_transformers_4_names(state).items():
        for older, newer in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
            name = name.replace(f"attention.attention.{older}", f"attention.{newer}")
        name = name.replace("attention.output.dense", "attention.o_proj").replace("weights_out", "down_proj")
        if "weights_in" in name:
            gate, up = tensor.chunk(2)
            renamed[name.replace("weights_in", "gate_proj")] = gate.clone()
            renamed[name.replace("weights_in", "up_proj")] = up.clone()
        else:
            renamed[name] = tensor
    return renamed


def save_folder(folder, tensors, config, shards=1):
    """Write config.json and safetensors, in so many files; returns the path as a string."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return str(folder)
    names = sorted(tensors)
    weight_map = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in names[number::shards]}
        save_file(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return str(folder)
