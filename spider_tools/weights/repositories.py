"""New model folders: the architecture of an organ without weights, or a published checkpoint with them."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import __version__, paper_results, remote_code
from ..files import require_writable
from ..hugging_face_home import require_hugging_face_home
from ..model_folder import code_files, move_in, save_model_folder
from ..output_folder import LOCK_NAME, only_run_in
from .import_spider import import_spider


def new_repository(organ: str, folder: Path) -> None:
    """Write the configurations and the code of a published organ's model, without weights.

    Args:
        organ: See `paper_results.organ_names`.
        folder: Made if absent; must be empty otherwise.

    Raises:
        ValueError: Nothing is published about the organ.
        FileExistsError: The folder is not empty.
        OSError: The folder or the Hugging Face home cannot be written, or another run fills the folder.
    """
    _require_new(folder)
    config = remote_code.config_class()(class_names=paper_results.class_names(organ))
    config.spider_tools_version = __version__
    config.architectures = [remote_code.model_class().__name__]
    processor = remote_code.processor_class()(remote_code.image_processor_class()())
    with _filling(folder) as place, tempfile.TemporaryDirectory(prefix=".unfinished-", dir=place) as unfinished:
        config.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        for name in code_files(remote_code.REPOSITORY_ROOT):
            shutil.copyfile(remote_code.REPOSITORY_ROOT / name, Path(unfinished, name))
        move_in(Path(unfinished), place)


def import_repository(folder: Path, source: str, **options: Any) -> str:
    """Turn a published SPIDER checkpoint into a model folder.

    Args:
        folder: Made if absent; must be empty otherwise.
        source: Folder or Hub id.
        **options: Of `import_spider`.

    Returns:
        What became of each tensor, and what was assumed or proven, as text.

    Raises:
        ValueError, OSError: See `import_spider`.
        FileExistsError: The folder is not empty.
    """
    _require_new(folder)
    imported = import_spider(source, **options)
    with _filling(folder) as place:
        save_model_folder(imported.model, imported.image_processor, place, imported.record)
    return imported.report()


def _require_new(folder: Path) -> None:
    """Refuse, before the work, a folder that a model cannot go into."""
    _require_empty(folder)
    require_writable(folder, "OUT")
    require_hugging_face_home()


@contextmanager
def _filling(folder: Path) -> Iterator[Path]:
    """Keep others out of a folder that was new, and may have got another model meanwhile; gives its full path."""
    place = folder.resolve()
    with only_run_in(place):
        _require_empty(place)
        yield place
        (place / LOCK_NAME).unlink()  # whoever opened it before finds a folder that is not empty


def _require_empty(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and all(path.name == LOCK_NAME for path in folder.iterdir())):
        raise FileExistsError(f"{folder} must be a new or empty folder.")
