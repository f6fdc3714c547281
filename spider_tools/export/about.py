"""What the user of an export must know of its model: export.json, and the short form inside the graphs."""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from .. import __version__
from ..imported_folder import import_of_folder
from ..model_folder import weights_sha256
from ..normalization import normalization_of
from ..plain_text import escaped
from .graphs import head_outputs
from .onnx_files import OPSET
from .settings import ExportSettings

if TYPE_CHECKING:
    from ..remote_code import SpiderForImageClassification, SpiderImageProcessor

_PACKAGES = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True, eq=False)
class Exported:
    """A model to export.

    Attributes:
        model: In float32 and evaluation mode.
        image_processor: Its own.
        folder: Where its files lie.
    """

    model: "SpiderForImageClassification"
    image_processor: "SpiderImageProcessor"
    folder: Path


def about(exported: Exported, settings: ExportSettings) -> dict[str, Any]:
    """All of export.json but the drift, as JSON holds it."""
    config, processor = exported.model.config, exported.image_processor
    mean, std = normalization_of(processor, config)
    # Where somebody keeps a folder is nobody else's business.
    is_local = Path(settings.model).exists()
    return {
        "model": escaped(exported.folder.resolve().name if is_local else settings.model),
        "revision": None if is_local else exported.folder.resolve().name,  # the commit, of the Hub's cache
        "weights_sha256": weights_sha256(exported.folder),
        "import": import_of_folder(config, exported.folder),
        "format": settings.format,
        "dtype": {"patch_encoder": settings.dtype, "head": "float32"},
        "labels": list(config.class_names),
        "context_size": config.context_size,
        "patch_size": config.patch_size,
        "mpp": config.mpp,
        "normalization": {"done_by": "patch_encoder", "image_mean": mean, "image_std": std},
        "logit_temperature": config.logit_temperature,
        "unfamiliarity_threshold": config.unfamiliarity_threshold,
        "patch_encoder": _encoder_sides(config),
        "head": _head_sides(exported.model),
        "opset": OPSET if settings.format == "onnx" else None,
        "versions": {"spider_tools": __version__, **{name: _version(name) for name in _PACKAGES}},
    }


def _encoder_sides(config: Any) -> dict[str, Any]:
    side = config.patch_size
    return {
        "inputs": {"patches": f"uint8 (N, 3, {side}, {side}), RGB, not normalised"},
        "outputs": {"patch_embeddings": f"float32 (N, {config.backbone_config.hidden_size})"},
    }


def _head_sides(model: "SpiderForImageClassification") -> dict[str, Any]:
    config = model.config
    patches, classes = config.num_context_patches, config.num_labels
    outputs = {
        "logits": f"float32 (B, {classes}), already divided by logit_temperature: their softmax is calibrated",
        "context_attention": f"float32 (B, {patches}), how much the centre looks at each patch; rows sum to 1",
        "unfamiliarity": "float32 (B,), above unfamiliarity_threshold the class is a guess at best",
        "class_p_values": f"float32 (B, {classes}), in (0, 1]: classes above alpha cannot be ruled out",
    }
    embeddings = f"float32 (B, {patches}, {config.backbone_config.hidden_size}), row-major"
    mask = f"bool (B, {patches}), True where a patch is present, all of them without a mask; the centre always"
    return {
        "inputs": {"patch_embeddings": embeddings, "context_mask": mask},
        "outputs": {name: outputs[name] for name in head_outputs(model)},
    }


def _version(package: str) -> Optional[str]:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
