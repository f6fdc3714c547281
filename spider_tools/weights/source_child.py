"""Runs a model repository's own code on given regions, in a process of its own.

`python source_child.py FOLDER` reads FOLDER/request.json and writes FOLDER/answer.safetensors and, last,
FOLDER/answer.json. It needs torch, transformers, safetensors, numpy and Pillow, in any version that the repository's
code runs with, and nothing of spider_tools.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from tqdm import tqdm


def main(folder: Path) -> None:
    """Answer the request in a folder: `repository`, a path, and `regions`, names of `.npy` files beside it."""
    request = json.loads((folder / "request.json").read_text("utf-8"))
    repository = request["repository"]
    model, unfilled = load_model(repository)
    processor = transformers.AutoProcessor.from_pretrained(repository, trust_remote_code=True)
    tensors: dict[str, torch.Tensor] = {}
    names: list[Any] = []
    for number, name in enumerate(tqdm(request["regions"], desc="the source's own code", unit="region")):
        image = Image.fromarray(np.load(folder / name, allow_pickle=False))
        inputs = processor(images=image, return_tensors="pt")
        with torch.no_grad():
            outputs = model(**inputs)
        tensors[f"pixel_values.{number}"] = torch.as_tensor(inputs["pixel_values"]).float().contiguous().clone()
        tensors[f"logits.{number}"] = outputs["logits"].float().reshape(-1).contiguous().clone()
        names.append(names_of(outputs))
    save_file(tensors, folder / "answer.safetensors")
    versions = {module.__name__: module.__version__ for module in (transformers, torch, safetensors)}
    answer = {"names": names, "versions": versions, "unfilled": unfilled}
    (folder / "answer.json").write_text(json.dumps(answer), "utf-8")


def load_model(repository: str) -> tuple[Any, list[str]]:
    """The model in float32, and the names of parameters that its files leave unfilled."""
    loaded = transformers.AutoModel.from_pretrained(repository, trust_remote_code=True, output_loading_info=True)
    model, report = loaded if isinstance(loaded, tuple) else (loaded, {})
    return model.float().eval(), sorted(map(str, report.get("missing_keys", [])))


def names_of(outputs: Any) -> Any:
    """The names of predicted classes, None where the outputs have none."""
    names = getattr(outputs, "predicted_class_names", None)
    if names is None and isinstance(outputs, dict):
        names = outputs.get("predicted_class_names")
    return None if names is None else [str(name) for name in names]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
