"""The state of a run as tensors and JSON: optimizer, schedule and random numbers. Nothing of it can run.

accelerate keeps these in pickles, which execute what a stranger has put into them.
"""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file


def save_optimizer(optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Write an optimizer's state; its tensors are named `<number of the parameter>.<key>`."""
    state = optimizer.state_dict()
    tensors = {
        f"{number}.{key}": tensor.detach().cpu().contiguous()
        for number, values in state["state"].items()
        for key, tensor in values.items()
    }
    save_file(tensors, path, {"param_groups": json.dumps(state["param_groups"])})


def load_optimizer(optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Restore what `save_optimizer` wrote, for the same parameters in the same order."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    with safe_open(path, framework="pt") as file:
        groups = json.loads(file.metadata()["param_groups"])
        for name in file.keys():
            number, _, key = name.partition(".")
            state.setdefault(int(number), {})[key] = file.get_tensor(name)
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def rebase_schedule(schedule: Any, optimizer: Any, learning_rate: float) -> None:
    """Go on with a peak learning rate and a number of epochs that may be others than before."""
    schedule.base_lrs = [learning_rate] * len(optimizer.param_groups)
    schedule._last_lr = [learning_rate * factor(schedule.last_epoch) for factor in schedule.lr_lambdas]
    for group, rate in zip(optimizer.param_groups, schedule._last_lr):
        group["initial_lr"], group["lr"] = learning_rate, rate


def save_random_state(path: Path) -> None:
    """Write the states of all random generators of this process."""
    version, words, gauss = random.getstate()
    kind, keys, *position = np.random.get_state()
    tensors = {
        "python": torch.tensor(words, dtype=torch.int64),
        "numpy": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        tensors |= {f"cuda.{number}": state for number, state in enumerate(torch.cuda.get_rng_state_all())}
    rest = {"python": [version, gauss], "numpy": [kind, *position]}
    save_file(tensors, path, {"rest": json.dumps(rest)})


def load_random_state(path: Path) -> None:
    """Restore what `save_random_state` wrote."""
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        rest = json.loads(file.metadata()["rest"])
    version, gauss = rest["python"]
    random.setstate((version, tuple(tensors["python"].tolist()), gauss))
    kind, *position = rest["numpy"]
    np.random.set_state((kind, tensors["numpy"].numpy().astype(np.uint32), *position))
    torch.set_rng_state(tensors["torch"])
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            if f"cuda.{number}" in tensors:
                torch.cuda.set_rng_state(tensors[f"cuda.{number}"], number)
