"""A model folder: a complete repository of code, configurations and weights."""

import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from transformers.dynamic_module_utils import get_relative_imports

from . import __version__, remote_code
from .files import file_sha256, read_json_object, readable_as_umask_says
from .import_record import RECORD
from .normalization import let_model_normalize

if TYPE_CHECKING:
    from .remote_code import SpiderForImageClassification, SpiderImageProcessor

_ENTRIES = ("configuration_spider.py", "image_processor_spider.py", "modeling_spider.py", "processing_spider.py")
CONFIG_FILES = ("config.json", "preprocessor_config.json", "processor_config.json")
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")


def save_model_folder(
    model: "SpiderForImageClassification",
    image_processor: "SpiderImageProcessor",
    folder: Path,
    import_record: Optional[dict[str, Any]] = None,
) -> None:
    """Write a model repository beside its place, then move its files there, config.json last.

    Without config.json a folder does not load, so that no reader takes a half-written one for a model.

    Args:
        model: Its configuration notes the version of this package and how the image processor normalises.
        image_processor: Its own.
        folder: Made if absent; files of an earlier model are replaced, others left alone.
        import_record: Goes into config.json with the digest of the weights that it is about.
    """
    unfinished = folder / ".model.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    model.config.spider_tools_version = __version__
    let_model_normalize(model, image_processor)
    model.save_pretrained(unfinished)
    if import_record is not None:
        setattr(model.config, RECORD, {**import_record, "weights_sha256": weights_sha256(unfinished)})
        model.config.save_pretrained(unfinished)
    remote_code.processor_class()(image_processor).save_pretrained(unfinished)
    replace_model(unfinished, folder)
    unfinished.rmdir()


def replace_model(unfinished: Path, folder: Path) -> None:
    """Move the files of a whole model to their place, config.json last; no weights of an earlier one stay there.

    Args:
        unfinished: Folder beside, of the model's files alone; empty afterwards.
        folder: Is there.
    """
    readable_as_umask_says(unfinished)
    (folder / "config.json").unlink(missing_ok=True)
    for stale in folder.glob("model*.safetensors*"):
        stale.unlink()
    move_in(unfinished, folder)


def code_files(folder: Path) -> list[str]:
    """Names of the Python files that a model needs: those that Transformers loads, and what these import of the folder.

    Raises:
        ValueError: One imports what is no file beside it.
    """
    names = list(_ENTRIES)
    for name in names:  # grows on the way
        if not (folder / name).is_file():
            continue  # whoever asks sees that it is missing
        for imported in get_relative_imports(folder / name):
            if not imported.isidentifier():
                raise ValueError(f"{folder / name} imports {imported!r}, expected a file beside it.")
            if f"{imported}.py" not in names:
                names.append(f"{imported}.py")
    return sorted(names)


def move_in(unfinished: Path, folder: Path) -> None:
    """Move the files of a model to their place, config.json last."""
    for path in sorted(unfinished.iterdir(), key=lambda path: path.name == "config.json"):
        os.replace(path, folder / path.name)


def weights_sha256(folder: Path) -> str:
    """sha256 over the files that hold a model's weights, in the order of their names: whose figures results are.

    Raises:
        ValueError: See `weight_files`.
    """
    digest = hashlib.sha256()
    for name in weight_files(folder):
        digest.update(f"{name} {file_sha256(folder / name)}\n".encode())
    return digest.hexdigest()


def weight_files(folder: Path) -> list[str]:
    """Names of the files that hold a model's weights, the index of shards first; whether they exist is not looked at.

    Raises:
        ValueError: There are only pickles, two models, or an index that is none.
    """
    index = folder / INDEX
    if not index.is_file():
        if not (folder / WEIGHTS).is_file() and any(folder.glob("*.bin")):
            raise ValueError(
                f"{folder} has its weights in pickles only, which run code when they are loaded. Load the model and "
                f"save it with save_pretrained: that writes {WEIGHTS}."
            )
        return [WEIGHTS]
    if (folder / WEIGHTS).is_file():
        raise ValueError(f"{folder} holds both {WEIGHTS} and {INDEX}. Remove what is left of the other model.")
    try:
        shards = sorted(set(read_json_object(index)["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{index} is no index of weights: {error!r}. Save the model again.") from error
    for shard in shards:
        if not isinstance(shard, str) or not SHARD.fullmatch(shard):
            raise ValueError(f"{index} names {shard!r}, expected files like model-00001-of-00002.safetensors.")
    return [INDEX, *shards]
