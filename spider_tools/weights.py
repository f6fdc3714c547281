"""Weights from elsewhere, strictly: every tensor is used once and every parameter is filled.

`python -m spider_tools.weights import-spider SOURCE OUT` turns a published SPIDER checkpoint into a repository of this
project, `python -m spider_tools.weights new --organ skin OUT` writes one without weights.
"""

import argparse
import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import torch

from . import published, remote
from .dinov2 import Positions, build_backbone, find_backbone, holds_backbone, listed
from .export import move_in, save_model_folder
from .import_spider import import_spider
from .weight_sources import locate, open_source, read_json

# What config.json of every model of this project has, and that of a published checkpoint has not.
_OWN_FIELDS = ("backbone_config", "class_names", "context_size", "head_hidden_size")
_HOW_TO_IMPORT = (
    "A checkpoint that was published with the paper is imported first: "
    "python -m spider_tools.weights import-spider SOURCE OUT"
)


def load_backbone(source: str, patch_size: Optional[int] = None, interpolate_positions: bool = False) -> Any:
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

    Returns:
        A `Dinov2WithRegistersModel` in float32 and evaluation mode, whatever the source's dtype. Its `pooler_output`,
        the class token after the last layer norm, is the embedding. A mask token that the source lacks is zero: only
        masked pre-training reads it.

    Raises:
        ValueError: Names that are missing, unused or mis-shaped, tensors of integers or not finite, sizes that do not
            fit, or a source that is damaged or ambiguous.
        OSError: There is no such source, or it cannot be downloaded; the message says what to do.
    """
    opened = open_source(source, holds_backbone)
    found = find_backbone(source, opened.tensors)
    found.note("unused", sorted(opened.tensors.keys() - found.names))
    return build_backbone(found, opened.config, Positions(patch_size, interpolate_positions))


def load_spider(source: str, revision: Optional[str] = None) -> Any:
    """A SPIDER model of this project, every parameter of which is in its files, in float32 and evaluation mode.

    Args:
        source: Folder or Hub id.
        revision: Branch, tag or commit on the Hub.

    Raises:
        ValueError: The source is no such model, or its weights do not fit it one to one.
        OSError: There is no such source, or it cannot be downloaded; the message says what to do.
    """
    folder = locate(source, revision)
    config = read_json(folder / "config.json") or {}
    if not config.keys() >= set(_OWN_FIELDS):
        raise ValueError(f"{source} is no SPIDER model of this project. {_HOW_TO_IMPORT}")
    model, report = remote.model_class().from_pretrained(
        folder, output_loading_info=True, ignore_mismatched_sizes=True, use_safetensors=True, dtype=torch.float32
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


def new_repository(organ: str, folder: Path) -> None:
    """Write the configurations and the code of a published organ's model, without weights.

    Args:
        organ: See `published.organ_names`.
        folder: Made if absent; must be empty otherwise.

    Raises:
        ValueError: Nothing is published about the organ.
        FileExistsError: The folder is not empty.
    """
    config = remote.config_class()(class_names=published.class_names(organ))
    config.architectures = [remote.model_class().__name__]
    processor = remote.processor_class()(remote.image_processor_class()())
    _require_empty(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder) as unfinished:
        config.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        shutil.copy(remote.REPOSITORY_ROOT / "modeling_spider.py", unfinished)
        move_in(Path(unfinished), folder)


def _require_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} must be a new or empty folder.")


def _import(source: str, out: Path) -> str:
    _require_empty(out)
    imported = import_spider(source)
    save_model_folder(imported.model, imported.image_processor, out)
    return f"{imported.report()}\nThe model is in {out}"


def _new(organ: str, out: Path) -> str:
    new_repository(organ, out)
    return f"Configurations of the {organ} model, without weights, are in {out}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m spider_tools.weights", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    importing = commands.add_parser("import-spider", help="turn a published SPIDER checkpoint into a repository")
    importing.add_argument("source", metavar="SOURCE", help="Hub id or folder, such as histai/SPIDER-skin-model")
    importing.add_argument("out", metavar="OUT", type=Path, help="new folder for the repository")
    importing.set_defaults(command=_import)
    new = commands.add_parser("new", help="write configurations and code of an organ's model, without weights")
    new.add_argument("--organ", required=True, choices=published.organ_names(), help="gives the class names")
    new.add_argument("out", metavar="OUT", type=Path, help="new folder for the repository")
    new.set_defaults(command=_new)
    return parser


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run a command and print what it did."""
    values = vars(_parser().parse_args(argv))
    command = values.pop("command")
    try:
        print(command(**values))
    except (ValueError, OSError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    main()
