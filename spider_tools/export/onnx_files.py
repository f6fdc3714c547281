"""Graphs as ONNX files, in float or with the encoder's matrix products in int8, and onnxruntime, which runs them."""

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .graphs import Arrays, Half, Runner

SUFFIX = ".onnx"
OPSET = 18
METADATA = "spider"  # the property of each file that holds what its user must know, as JSON
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def check_packages() -> None:
    """Refuse ONNX where its packages are not installed.

    Raises:
        ValueError: One is not.
    """
    absent = [package for package in _PACKAGES if find_spec(package) is None]
    if absent:
        raise ValueError(
            f"--format onnx needs the package {absent[0]}, which is not installed: "
            f'pip install "spider-pathology[export]", or pip install {" ".join(absent)}.'
        )


def write_graph(half: Half, path: Path, metadata: Mapping[str, Any]) -> None:
    """Write one half of a model as a graph with a free first axis; weights above 2 GB go into a file beside it."""
    free = {name: {0: "batch"} for name in half.inputs}
    with torch.no_grad():
        program = torch.onnx.export(
            half.module,
            (),
            kwargs=half.inputs,
            input_names=list(half.inputs),
            output_names=list(half.outputs),
            dynamic_shapes=free,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    program.model.metadata_props[METADATA] = json.dumps(metadata, ensure_ascii=True)
    program.save(path)


def quantize(path: Path) -> None:
    """Turn the matrix products of a graph into int8, in its place: weights once, activations as they come.

    Weights get a scale for each output channel, and 7 of their 8 bits: with 8, CPUs without VNNI overflow silently.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    properties = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
    quantized = path.with_name(f"int8-{path.name}")
    quantize_dynamic(
        path,
        quantized,
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
        extra_options={"MatMulConstBOnly": True},
    )
    model = onnx.load(quantized)
    onnx.helper.set_model_props(model, properties)
    onnx.save(model, path)
    for left in (quantized, *path.parent.glob(f"{path.name}.data")):
        left.unlink()


def open_graph(path: Path) -> Runner:
    """What runs a graph on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # warnings are about the optimiser, and nobody's business here
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(**inputs: np.ndarray) -> Arrays:
        return dict(zip(names, session.run(names, inputs)))

    return run
