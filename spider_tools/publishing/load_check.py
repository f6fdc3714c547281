"""Whether a model folder loads for a stranger: `python -I load_check.py FOLDER`, run by `publishing` on its own.

A stranger has transformers, torch, numpy and pillow, and only the folder. So this file imports nothing of the project.
"""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor


def check_folder(folder: Path) -> None:
    """Load the model and the processor of a folder and classify one region of noise.

    Args:
        folder: A model repository.

    Raises:
        ValueError: Weights are missing, left over or of another shape, or the output is not one of the classes.
        Exception: Whatever Transformers or the folder's own code raise when they cannot load it.
    """
    model, report = AutoModel.from_pretrained(
        folder, trust_remote_code=True, use_safetensors=True, output_loading_info=True
    )
    problems = {kind: sorted(map(str, names)) for kind, names in report.items() if names}
    if problems:
        listed = "; ".join(f"{kind}: {', '.join(names[:5])}" for kind, names in problems.items())
        raise ValueError(f"The weights do not fit the configuration. {listed}")
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    region = _region(model.config.context_size * model.config.patch_size)
    inputs = processor(images=region, return_tensors="pt")
    with torch.no_grad():
        output = model.float().eval()(**inputs)
    classes = model.config.class_names
    if output.logits.shape != (1, len(classes)) or not bool(output.logits.isfinite().all()):
        raise ValueError(f"Expected finite logits of shape (1, {len(classes)}), got {output.logits}.")
    if output.predicted_class_names[0] not in classes:
        raise ValueError(f"Expected one of {classes}, got {output.predicted_class_names}.")
    if inputs["pixel_values"].is_floating_point() and getattr(model.config, "image_mean", None) is not None:
        _check_bytes(model, processor, region, output.logits)


def _check_bytes(model: Any, processor: Any, region: np.ndarray, expected: torch.Tensor) -> None:
    inputs = processor(images=region, return_tensors="pt", do_rescale=False, do_normalize=False)
    with torch.no_grad():
        off = float((model(**inputs).logits - expected).abs().max())
    if not off <= 1e-3:
        raise ValueError(
            "config.json and preprocessor_config.json normalise pixels differently: bytes that the model normalises "
            f"give logits that are off by {off:.2g}. Bring image_mean and image_std of both files together."
        )


def check_handler(folder: Path) -> None:
    """Load handler.py as the toolkit of Inference Endpoints does, and have one region of noise classified.

    Args:
        folder: A model repository with handler.py.

    Raises:
        ValueError: The answer is not one that clients of image classification read.
        Exception: Whatever handler.py raises.
    """
    spec = importlib.util.spec_from_file_location("handler.EndpointHandler", folder / "handler.py")
    if spec is None or spec.loader is None:
        raise ValueError(f"{folder / 'handler.py'} cannot be imported.")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(folder))
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    region = _region(config["context_size"] * config["patch_size"])
    answer = module.EndpointHandler(str(folder))({"inputs": Image.fromarray(region)})
    answer = json.loads(json.dumps(answer, allow_nan=False))  # which refuses what is no JSON
    entries = answer if isinstance(answer, list) else []
    labels = [
        entry.get("label") for entry in entries if isinstance(entry, dict) and isinstance(entry.get("score"), float)
    ]
    if not labels or len(labels) < len(entries) or not set(labels) <= set(config["class_names"]):
        raise ValueError(
            f'Expected handler.py to answer a list of {{"label", "score"}} of classes, got {answer!r:.200}.'
        )


def _region(side: int) -> np.ndarray:
    """A region of noise, uint8 `(side, side, 3)`."""
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)


def forbid_network(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: no code of this process, the folder's own included, reaches another machine."""
    if event == "socket.getaddrinfo" or (event == "socket.connect" and isinstance(arguments[1], tuple)):
        raise PermissionError(f"Loading a model must not open network connections, got {event} {arguments[1:]}.")


if __name__ == "__main__":
    sys.addaudithook(forbid_network)
    # The project may be installed here; a stranger does not have it.
    sys.modules["spider_tools"] = None  # type: ignore[assignment]
    check_folder(Path(sys.argv[1]))
    if Path(sys.argv[1], "handler.py").is_file():
        check_handler(Path(sys.argv[1]))
