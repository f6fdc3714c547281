"""The README.md of an export: what its files are, and the few lines that run them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from ..plain_text import markdown_cell

_IMPORTS = {"onnx": "import onnxruntime", "torch": "import torch"}
_RUNNING = {
    "onnx": """\
encoder = onnxruntime.InferenceSession("patch_encoder.onnx")
head = onnxruntime.InferenceSession("head.onnx")
embeddings = encoder.run(["patch_embeddings"], {"patches": patches})[0]
logits = head.run(["logits"], {"patch_embeddings": embeddings[None], "context_mask": mask})[0]""",
    "torch": """\
encoder = torch.export.load("patch_encoder.pt2").module()
head = torch.export.load("head.pt2").module()
with torch.no_grad():
    embeddings = encoder(patches=torch.from_numpy(patches))["patch_embeddings"]
    logits = head(patch_embeddings=embeddings[None], context_mask=torch.from_numpy(mask))["logits"]""",
}


def readme(about: Mapping[str, Any], suffix: str, weights: Sequence[str] = ()) -> str:
    """The text.

    Args:
        about: The content of export.json.
        suffix: Of the files of graphs.
        weights: Names of files beside them that hold the weights of large graphs.
    """
    chosen, imported = about["format"], about["import"]
    template = jinja2.Template(
        Path(__file__).with_name("README.md.j2").read_text(encoding="utf-8"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    return template.render(
        model=markdown_cell(about["model"]),
        format=chosen,
        side=about["context_size"] * about["patch_size"],
        mpp=about["mpp"],
        sentence=markdown_cell(imported["sentence"]) if imported and not imported["verified"] else None,
        suffix=suffix,
        weights=weights,
        patch_size=about["patch_size"],
        patches=about["context_size"] ** 2,
        dtype=about["dtype"]["patch_encoder"],
        drift=f"{max(row['logits'] for row in about['drift']):.1e}",
        needs={"onnx": "onnxruntime", "torch": "torch"}[chosen],
        imports=_IMPORTS[chosen],
        running=_RUNNING[chosen],
    )
