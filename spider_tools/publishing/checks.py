"""What a model folder must hold, and whether a stranger can load it, before anything is uploaded."""

import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Optional

from ..hub import TOKENS_PAGE
from ..model_folder import CONFIG_FILES, code_files, weight_files
from ..processes import ending

logger = logging.getLogger(__name__)

_TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}\b")
_LOAD_CHECK = Path(__file__).with_name("load_check.py")
_LOAD_CHECK_SECONDS = 1800


def model_files(folder: Path) -> dict[str, Path]:
    """The files of a model, by the names that they get in a repository.

    Raises:
        ValueError: One is missing, leads out of the folder, or holds an access token.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder. Expected one that train.py wrote.")
    names = [*CONFIG_FILES, *code_files(folder), *weight_files(folder)]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} is no complete model: it lacks {', '.join(missing)}. train.py writes all of them.")
    files = {name: folder / name for name in names}
    for path in files.values():
        check_publishable(path, folder)
    return files


def check_publishable(path: Path, folder: Path) -> None:
    """Refuse a file of a model's folder that leads out of it, or holds an access token.

    Raises:
        ValueError: It does.
    """
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{path} leads out of the folder, to {path.resolve()}. Put the file itself there.")
    if _TOKEN.search(_text_of(path)):
        raise ValueError(f"{path} holds what looks like an access token. Remove it, and revoke it: {TOKENS_PAGE}")


def _text_of(path: Path) -> bytes:
    """What of a file may hold text: all of it, of safetensors the header with its metadata."""
    with path.open("rb") as file:
        if path.suffix != ".safetensors":
            return file.read()
        return file.read(min(int.from_bytes(file.read(8), "little"), 100_000_000))


def own_results(folder: Path) -> Optional[Path]:
    """The evaluation in a model's folder, unless the weights have changed since."""
    found = folder / "evaluation" / "results.json"
    if not found.is_file():
        return None
    newest = max((folder / name).stat().st_mtime for name in weight_files(folder))
    if found.stat().st_mtime < newest:
        logger.warning(
            "%s is older than the weights, so that the card shows no results: evaluate again, or pass --results %s if "
            "they are of these weights",
            found,
            found.parent,
        )
        return None
    return found.parent


def check_loads(files: Mapping[str, Path]) -> None:
    """Load a model from these files alone, in a clean process without network, and classify a region.

    The process has the interpreter's packages, but neither this project nor the user's caches, tokens and settings.

    Raises:
        ValueError: It does not load.
    """
    with tempfile.TemporaryDirectory(prefix="spider-load-check-") as temporary:
        bare = Path(temporary, "model")
        bare.mkdir()
        for name, path in files.items():
            (bare / name).symlink_to(path.resolve())
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "TRANSFORMERS_", "PYTHON"))}
        command = [sys.executable, "-I", str(_LOAD_CHECK), str(bare)]
        try:
            done = subprocess.run(
                command,
                env=kept | {"HF_HOME": str(Path(temporary, "cache")), "HF_HUB_OFFLINE": "1"},
                cwd=temporary,
                capture_output=True,
                encoding="utf-8",
                errors="backslashreplace",  # its locale need not be ours
                timeout=_LOAD_CHECK_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise ValueError(
                f"The model did not load and classify a region in {_LOAD_CHECK_SECONDS} s. Nothing was uploaded."
            ) from error
    if done.returncode != 0:
        last = "\n".join(done.stderr.strip().splitlines()[-12:])
        raise ValueError(
            f"The model does not load from its files alone, or does not classify a region. Nothing was uploaded. Its "
            f"process {ending(done.returncode)}." + (f" It said last:\n{last}" if last else "")
        )
