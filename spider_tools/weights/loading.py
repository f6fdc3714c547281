"""Backbones and SPIDER models from their files, strictly: every tensor is used once and every parameter is filled."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import torch

from .. import remote_code
from ..model_folder import weight_files
from .dinov2 import build_backbone
from .dinov2_config import Positions, with_heads
from .dinov2_pieces import find_backbone, holds_backbone, listed
from .reading import locate, open_source, read_json

if TYPE_CHECKING:
    from transformers import Dinov2WithRegistersModel

    from ..remote_code import SpiderConfig, SpiderForImageClassification, SpiderImageProcessor

# What config.json of every model of this project has, and that of a published checkpoint has not.
_OWN_FIELDS = ("backbone_config", "class_names", "context_size", "head_hidden_size")
_HOW_TO_IMPORT = (
    "A checkpoint that was published with the paper is imported first: "
    "python -m spider_tools.weights import-spider SOURCE OUT"
)


def load_backbone(
    source: str, patch_size: Optional[int] = None, interpolate_positions: bool = False, heads: Optional[int] = None
) -> "Dinov2WithRegistersModel":
    """A DINOv2 backbone, with registers or without, strictly from its tensors.

    Taken are folders and Hub repositories in the format of Transformers (parameter names of 4.x or 5.x, safetensors in
    one file or sharded), `Dinov2Model` and remote-code repositories such as histai/hibou-L included, whose code is
    never read; and state dicts with HistAI's own names, in safetensors or `torch.save` files, whatever stands before
    the names. Without registers it is the same architecture with none of them.

    Args:
        source: Path of a file or folder, or a Hub id.
        patch_size: Side in px of the patches to embed; by default what the source is for.
        interpolate_positions: Whether position embeddings of another grid of tokens are interpolated to that of
            `patch_size`, as DINOv2 does for images of another size. Otherwise they are refused.
        heads: Number of attention heads, which tensors do not show. Needed where the source's configuration does not
            state it; only a bare state dict of the shape of a published DINOv2 or Hibou does without.

    Returns:
        A `Dinov2WithRegistersModel` in float32 and evaluation mode, whatever the source's dtype. Its `pooler_output`,
        the class token after the last layer norm, is the embedding. A mask token that the source lacks is zero: only
        masked pre-training reads it.

    Raises:
        ValueError: Names that are missing, unused or mis-shaped, tensors of integers or not finite, sizes that do not
            fit, a number of attention heads that nobody says or that the source contradicts, or a source that is
            damaged or ambiguous.
        OSError: There is no such source, or it cannot be downloaded; the message says what to do.
    """
    opened = open_source(source, holds_backbone)
    found = find_backbone(source, opened.tensors)
    found.note("unused", sorted(opened.tensors.keys() - found.names))
    config = with_heads(source, opened.config or {}, heads)
    return build_backbone(found, config, Positions(patch_size, interpolate_positions))


def load_spider(source: str, revision: Optional[str] = None) -> "SpiderForImageClassification":
    """A SPIDER model of this project, every parameter of which is in its files, in float32 and evaluation mode.

    Args:
        source: Folder or Hub id.
        revision: Branch, tag or commit on the Hub.

    Raises:
        ValueError: The source is no such model, or its weights do not fit it one to one.
        OSError: There is no such source, or it cannot be downloaded; the message says what to do.
    """
    folder = _spider_folder(source, revision)
    weight_files(folder)  # refuses an index that leads out of the folder, which Transformers would follow
    model, report = remote_code.model_class().from_pretrained(
        folder,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        use_safetensors=True,
        dtype=torch.float32,
    )
    problems = {
        "missing": report["missing_keys"],
        "unused": report["unexpected_keys"],
        "mis-shaped": report["mismatched_keys"],
    }
    if any(problems.values()):
        text = "; ".join(
            f"{problem}: {listed(sorted(map(str, names)))}" for problem, names in problems.items() if names
        )
        raise ValueError(f"The weights of {source} do not fill a SPIDER model one to one. {text}. {_HOW_TO_IMPORT}")
    return model


def load_config(source: str, revision: Optional[str] = None, **changes: Any) -> "SpiderConfig":
    """The configuration of a SPIDER model of this project, with fields changed; arguments and errors as above."""
    return remote_code.config_class().from_pretrained(_spider_folder(source, revision), **changes)


def has_image_processor(source: str, revision: Optional[str] = None) -> bool:
    """Whether a SPIDER model of this project has an image processor; arguments and errors as above."""
    return _holds_image_processor(_spider_folder(source, revision))


def load_image_processor(source: str, revision: Optional[str] = None) -> "SpiderImageProcessor":
    """The image processor of a SPIDER model of this project; arguments and errors as above."""
    folder = _spider_folder(source, revision)
    if not _holds_image_processor(folder):
        raise ValueError(f"{source} has no preprocessor_config.json, so that nobody knows how it normalises patches.")
    return remote_code.image_processor_class().from_pretrained(folder)


def stated_normalization(source: str) -> dict[str, Any]:
    """What the preprocessor_config.json of a backbone says of colours, as fields of a configuration.

    Args:
        source: Path of a file or folder, or a Hub id, that `load_backbone` has taken.

    Returns:
        `image_mean` and `image_std`; nothing where the source has no such file, or it does not say both.

    Raises:
        ValueError: The file is damaged, or states what cannot be honoured.
    """
    place = locate(source)
    file = (place if place.is_dir() else place.parent) / "preprocessor_config.json"
    stated = read_json(file) or {}
    factor = stated.get("rescale_factor", 1 / 255)
    if not stated.get("do_rescale", True) or not isinstance(factor, (int, float)) or abs(factor * 255 - 1) > 1e-3:
        raise ValueError(
            f"{file} does not bring pixels to [0, 1] before it normalises them (do_rescale, rescale_factor), which is "
            "not supported. State mean and standard deviation for pixels in [0, 1] there, or take the file away."
        )
    if stated.get("do_normalize") is False:
        return {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    fields = {name: _per_channel(stated.get(name)) for name in ("image_mean", "image_std")}
    if None in fields.values():
        return {}
    try:
        remote_code.image_processor_class()(**fields)
    except ValueError as error:
        raise ValueError(f"{file} cannot be used: {error}") from error
    return fields


def _per_channel(stated: Any) -> Any:
    """The values of three channels, which Transformers also takes as one for all."""
    if isinstance(stated, (int, float)):
        return [stated] * 3
    return stated * 3 if isinstance(stated, list) and len(stated) == 1 else stated


def _holds_image_processor(folder: Path) -> bool:
    # Transformers 5 may write both into one file, as this project's processors do not.
    within = read_json(folder / "processor_config.json") or {}
    return (folder / "preprocessor_config.json").is_file() or "image_processor" in within


def _spider_folder(source: str, revision: Optional[str]) -> Path:
    folder = locate(source, revision)
    config = read_json(folder / "config.json") or {}
    if not config.keys() >= set(_OWN_FIELDS):
        raise ValueError(f"{source} is no SPIDER model of this project. {_HOW_TO_IMPORT}")
    return folder
