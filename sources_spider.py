"""Where a model comes from: whether weights lie in its folder, and whether code files are copied and kept apart."""

import contextlib
import glob
import hashlib
import json
import os
import stat
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Optional

from transformers.utils import cached_file, logging

logger = logging.get_logger(__name__)

# Digests of the code of folders that models were loaded from; kept when Transformers 4 executes this module again.
_CODE_OF: dict[str, str] = globals().get("_CODE_OF", {})

_INDEXES = ("model.safetensors.index", "pytorch_model.bin.index")  # of weights in several files
_OF_LOOKUPS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


def refuse_weights_elsewhere(source: Any, options: dict[str, Any]) -> None:
    """Refuse weights that Transformers would read from outside of the folder or the repository of a model.

    Args:
        source: Folder, Hub id, or None for a model whose weights do not come from files.
        options: The other arguments of `from_pretrained`.

    Raises:
        ValueError: An index of weights, or `transformers_weights` in config.json, leads out.
    """
    if source is None or os.path.isfile(source):
        return
    lookup = {name: options[name] for name in _OF_LOOKUPS if options.get(name) is not None}
    config = options.get("config")
    if config is None or isinstance(config, (str, os.PathLike)):
        chosen = _read_json(config or source, "config.json", lookup).get("transformers_weights")
    else:
        # Transformers 4 takes the files of the commit that the configuration came from.
        commit = options.get("_commit_hash") or getattr(config, "_commit_hash", None)
        lookup |= {"revision": commit} if commit else {}
        chosen = getattr(config, "transformers_weights", None)
    _refuse_names(source, "config.json", [] if chosen is None else [chosen])
    variant = f".{options['variant']}" if options.get("variant") else ""
    indexes = [f"{name}{variant}.json" for name in _INDEXES[: 1 if options.get("use_safetensors") else None]]
    for index in [*indexes, *([] if chosen is None else [chosen])]:
        if index.endswith(".json"):
            names = _read_json(source, index, lookup).get("weight_map")
            _refuse_names(source, index, list(names.values()) if isinstance(names, dict) else [])


def _read_json(source: Any, name: str, lookup: dict[str, Any]) -> dict[str, Any]:
    """The object in a file of a model; empty where there is none, which Transformers tells better when it looks."""
    missing: dict[str, Any] = {f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "gated_repo")}
    path: Optional[str] = None
    content = None
    with contextlib.suppress(OSError, ValueError):
        path = cached_file(source, name, **lookup, **missing)
        if path is not None:
            with open(path, encoding="utf-8") as file:
                content = json.load(file)
    return content if isinstance(content, dict) else {}


def _refuse_names(source: Any, file: str, names: list[Any]) -> None:
    for name in names:
        forms = (PurePosixPath(str(name)), PureWindowsPath(str(name)))
        if not isinstance(name, str) or any(form.anchor or ".." in form.parts for form in forms):
            raise ValueError(
                f"{file} of {source} names {name!r} as a file of weights, which lies elsewhere. Expected files in the "
                "model's own folder: load no model that leads out of it."
            )


def make_replaceable() -> None:
    """Let this process overwrite copies of these files: those of a read-only repository are read-only too."""
    for path in glob.glob(os.path.join(os.path.dirname(__file__), "*_spider.py")):
        mode = os.stat(path).st_mode
        if not mode & stat.S_IWUSR:
            with contextlib.suppress(OSError):  # somebody else's cache
                os.chmod(path, mode | stat.S_IWUSR)


def warn_of_other_code(folder: Any) -> None:
    """Tell of a folder whose code differs from that of another one of its name, which this process has loaded too.

    Transformers 4 keeps one module for both: whatever was loaded from the first then runs code of the second.
    """
    folder = os.path.abspath(os.fspath(folder)) if isinstance(folder, (str, os.PathLike)) else ""
    files = sorted(glob.glob(os.path.join(glob.escape(folder), "*_spider.py")))
    if not files or os.path.basename(folder) not in __name__.split("."):
        return
    digest = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            digest.update(file.read())
    _CODE_OF[folder] = digest.hexdigest()
    others = sorted(other for other, code in _CODE_OF.items() if code != _CODE_OF[folder])
    if others:
        logger.warning(
            f"{folder} and {others[0]} have one name and different code, and Transformers keeps one of the two: models "
            "of the other run it. Load them in processes of their own, or rename a folder."
        )


def warn_unless_verified(config: Any) -> None:
    """Tell, once, of a model that was imported from elsewhere and never held against its own code."""
    record = getattr(config, "import", None)
    proven = isinstance(record, dict) and record.get("verified") is True and isinstance(record.get("proof"), dict)
    if record is None or proven:
        return
    source = record.get("source") if isinstance(record, dict) else None
    logger.warning_once(
        f"This model was imported from {source or 'elsewhere'} and never compared with the source's own code. What "
        "config.json lists as assumptions under `import` may be wrong, and its answers with them. Import it again with "
        "--verify: python -m spider_tools.weights import-spider --help"
    )
