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
from typing import Optional

from .. import paper_results, remote_code
from ..model_folder import move_in, save_model_folder
from .import_spider import import_spider


def new_repository(organ: str, folder: Path) -> None:
    """Write the configurations and the code of a published organ's model, without weights.

    Args:
        organ: See `paper_results.organ_names`.
        folder: Made if absent; must be empty otherwise.

    Raises:
        ValueError: Nothing is published about the organ.
        FileExistsError: The folder is not empty.
    """
    config = remote_code.config_class()(class_names=paper_results.class_names(organ))
    config.architectures = [remote_code.model_class().__name__]
    processor = remote_code.processor_class()(remote_code.image_processor_class()())
    _require_empty(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder) as unfinished:
        config.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        shutil.copy(remote_code.REPOSITORY_ROOT / "modeling_spider.py", unfinished)
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
    new.add_argument("--organ", required=True, choices=paper_results.organ_names(), help="gives the class names")
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
