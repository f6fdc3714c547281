"""New model folders: the architecture of an organ without weights, or a published checkpoint with them."""

import shutil
import tempfile
from pathlib import Path

from .. import __version__, paper_results, remote_code
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
    config.spider_tools_version = __version__
    config.architectures = [remote_code.model_class().__name__]
    processor = remote_code.processor_class()(remote_code.image_processor_class()())
    _require_empty(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder) as unfinished:
        config.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        shutil.copy(remote_code.REPOSITORY_ROOT / "modeling_spider.py", unfinished)
        move_in(Path(unfinished), folder)


def import_repository(source: str, folder: Path) -> str:
    """Turn a published SPIDER checkpoint into a model folder.

    Args:
        source: Folder or Hub id.
        folder: Made if absent; must be empty otherwise.

    Returns:
        What became of each tensor, and what was assumed, as text.

    Raises:
        ValueError, OSError: See `import_spider`.
        FileExistsError: The folder is not empty.
    """
    _require_empty(folder)
    imported = import_spider(source)
    save_model_folder(imported.model, imported.image_processor, folder)
    return imported.report()


def _require_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} must be a new or empty folder.")
