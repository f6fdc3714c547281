"""Graphs as files of `torch.export`, which PyTorch alone loads and runs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .graphs import Arrays, Half, Runner

SUFFIX = ".pt2"
METADATA = "export.json"  # the extra file of each that holds what its user must know


def write_graph(half: Half, path: Path, metadata: Mapping[str, Any]) -> None:
    """Write one half of a model as a graph with a free first axis."""
    free = {name: {0: torch.export.Dim.DYNAMIC} for name in half.inputs}
    with torch.no_grad():
        program = torch.export.export(half.module, (), half.inputs, dynamic_shapes=free, strict=False)
    torch.export.save(program, path, extra_files={METADATA: json.dumps(metadata, ensure_ascii=True)})


def open_graph(path: Path) -> Runner:
    """What runs a graph on the CPU."""
    module = torch.export.load(path).module()

    @torch.no_grad()
    def run(**inputs: np.ndarray) -> Arrays:
        given = module(**{name: torch.from_numpy(array) for name, array in inputs.items()})
        return {name: tensor.numpy() for name, tensor in given.items()}

    return run
