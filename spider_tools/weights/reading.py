"""Tensors and configurations of a model from elsewhere: a file, a folder or a Hub id. Its code is not looked at."""

import logging
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import safetensors
import safetensors.torch
import torch
from transformers.utils.import_utils import check_torch_load_is_safe

from ..files import read_json_object
from ..hub import download

logger = logging.getLogger(__name__)

_PICKLES = (".pth", ".pt", ".bin")
_INDEX = "*.safetensors.index.json"
_COMMIT = re.compile(r"[0-9a-f]{40}")  # names the folder of a snapshot
_DOWNLOADS = ["config.json", "preprocessor_config.json", "processor_config.json", "*.safetensors", _INDEX]


@dataclass(frozen=True)
class WeightSource:
    """A model from elsewhere.

    Attributes:
        name: What the user called it.
        tensors: By the names that the source gives them, on the CPU.
        config: Its `config.json`, None if it has none.
        preprocessor: Its `preprocessor_config.json`, None if it has none.
        folder: Where its files lie, None for a single file.
        revision: Its commit on the Hub, None for what lies on this machine.
    """

    name: str
    tensors: Mapping[str, torch.Tensor]
    config: Optional[dict[str, Any]] = None
    preprocessor: Optional[dict[str, Any]] = None
    folder: Optional[Path] = None
    revision: Optional[str] = None


def open_source(source: str, is_model: Callable[[Mapping[str, torch.Tensor]], bool]) -> WeightSource:
    """Read the tensors of a file (safetensors or `torch.save`), of a folder that holds one, or of a Hub repository.

    A folder with safetensors is read from these, sharded or not. `torch.save` files are read with
    `weights_only=True`, so that they cannot run code.

    Args:
        source: Path of a file or folder, or a Hub id.
        is_model: Whether tensors are those of the model. Finds it in a training checkpoint, which wraps its state
            dict in others.

    Raises:
        ValueError: The source is damaged or incomplete, or which of its files or state dicts is meant is not clear.
        OSError: There is no such source, or it cannot be downloaded; the message says what to do.
    """
    path = locate(source)
    if path.is_file():
        return WeightSource(source, _read_file(path, is_model))
    config, preprocessor = (read_json(path / name) for name in ("config.json", "preprocessor_config.json"))
    return WeightSource(source, _read_folder(path, is_model), config, preprocessor)


def open_published(
    source: str, is_model: Callable[[Mapping[str, torch.Tensor]], bool], revision: Optional[str] = None
) -> WeightSource:
    """Read a published model: like `open_source`, of a folder or a Hub repository, with its code, and no `.bin`.

    Args:
        source: Path of a folder, or a Hub id.
        is_model: See `open_source`.
        revision: Branch, tag or commit on the Hub.

    Raises:
        ValueError: See `open_source`; or it is a single file, or has its weights in pickles named `*.bin` only.
        OSError: There is no such source, or it cannot be downloaded; the message says what to do.
    """
    is_local = Path(source).exists()
    folder = Path(source) if is_local else download(source, "model", revision, allow_patterns=[*_DOWNLOADS, "*.py"])
    if is_local and revision is not None:
        raise ValueError(f"{source} lies on this machine, where there are no revisions: leave --revision out.")
    if folder.is_file():
        raise ValueError(f"{source} is a file: expected a folder or a Hub id, with class names in its config.json.")
    bins = sorted(path.name for path in folder.glob("*.bin"))
    if bins and not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"{source} has its weights in {', '.join(bins)}, pickles, which can run code: they are refused. Load the "
            "model where you trust it, and save it again with save_pretrained, which writes safetensors."
        )
    config, preprocessor = (read_json(folder / name) for name in ("config.json", "preprocessor_config.json"))
    commit = folder.resolve().name if _COMMIT.fullmatch(folder.resolve().name) else None
    return WeightSource(source, _read_folder(folder, is_model), config, preprocessor, folder, commit)


def locate(source: str, revision: Optional[str] = None) -> Path:
    """The file or folder of a source, downloaded, at a revision, if it is a Hub id.

    Raises:
        OSError: There is no such source, or it cannot be downloaded; the message says what to do.
    """
    path = Path(source)
    if path.exists():
        return path
    folder = download(source, "model", revision, allow_patterns=_DOWNLOADS, ignore_patterns="*/*")
    if not any(folder.glob("*.safetensors")):
        pickles = [f"*{suffix}" for suffix in _PICKLES]
        folder = download(source, "model", revision, allow_patterns=pickles, ignore_patterns="*/*")
    return folder


def _read_folder(folder: Path, is_model: Callable[[Mapping[str, torch.Tensor]], bool]) -> dict[str, torch.Tensor]:
    indices = sorted(folder.glob(_INDEX))
    shards = _shard_names(indices[0]) if len(indices) == 1 else set()
    single = sorted(path for path in folder.glob("*.safetensors") if path.name not in shards)
    if len(indices) + len(single) > 1:
        names = ", ".join(path.name for path in indices + single)
        raise ValueError(f"{folder} holds several models: {names}. Leave one of them, or give the path of the file.")
    if indices:
        return _read_shards(indices[0])
    if single:
        return _read_safetensors(single[0])
    pickles = sorted(path for path in folder.iterdir() if path.suffix in _PICKLES)
    if len(pickles) != 1:
        found = ", ".join(path.name for path in pickles) or "none"
        raise ValueError(f"Expected one safetensors model or one of *{', *'.join(_PICKLES)} in {folder}, got {found}.")
    return _read_file(pickles[0], is_model)


def _read_file(path: Path, is_model: Callable[[Mapping[str, torch.Tensor]], bool]) -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in _PICKLES:
        return _model_in(path, _read_pickle(path), is_model)
    raise ValueError(f"Expected a file *.safetensors or *{', *'.join(_PICKLES)}, got {path}.")


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is damaged, or no safetensors file: {error}. Download it again.") from error


def _shard_names(index: Path) -> set[str]:
    return set(_weight_map(index).values())


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = (read_json(index) or {}).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index} has no weight_map, so that it is no index of safetensors files.")
    for shard in weight_map.values():
        # Only bare names of files beside the index, so that no path can leave the folder.
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise ValueError(f"{index} names {shard!r}, expected the name of a safetensors file beside it.")
    return weight_map


def _read_shards(index: Path) -> dict[str, torch.Tensor]:
    weight_map = _weight_map(index)
    tensors: dict[str, torch.Tensor] = {}
    for shard in sorted(set(weight_map.values())):
        path = index.with_name(shard)
        if not path.is_file():
            raise ValueError(f"{index} names {shard}, which is not beside it. Download it again.")
        part = _read_safetensors(path)
        promised = {name for name, file in weight_map.items() if file == shard}
        if part.keys() != promised:
            names = ", ".join(sorted(part.keys() ^ promised)[:10])
            raise ValueError(f"{shard} and {index.name} disagree about which tensors it holds: {names}.")
        tensors |= part
    return tensors


def _read_pickle(path: Path) -> Any:
    check_torch_load_is_safe()
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError) as error:
        raise ValueError(
            f"{path} is damaged, or holds more than tensors, which is refused because it could run code. "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no details'})"
        ) from error


def _model_in(
    path: Path, content: Any, is_model: Callable[[Mapping[str, torch.Tensor]], bool]
) -> dict[str, torch.Tensor]:
    """The state dict of the model in what a `torch.save` file holds, which may be wrapped, as `{"teacher": ...}`."""
    state_dicts = dict(_state_dicts(content))
    models = {where: tensors for where, tensors in state_dicts.items() if is_model(tensors)}
    if len(models) > 1:
        raise ValueError(f"{path} holds several models: {', '.join(sorted(models))}. Save the one that you want alone.")
    if models:
        where, tensors = models.popitem()
        logger.info("reading %s of %s", where or "the state dict", path)
        return tensors
    if len(state_dicts) == 1:
        return state_dicts.popitem()[1]
    found = ", ".join(sorted(state_dicts)[:10]) or type(content).__name__
    raise ValueError(f"{path} holds no state dict of a model that is known here, got {found}.")


def _state_dicts(content: Any, where: str = "") -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    if not isinstance(content, Mapping):
        return
    tensors = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if tensors and all(isinstance(name, str) for name in tensors):
        yield where, tensors
    for name, value in content.items():
        yield from _state_dicts(value, f"{where}[{name!r}]")


def read_json(path: Path) -> Optional[dict[str, Any]]:
    """The object in a JSON file, None if there is no such file.

    Raises:
        ValueError: The file holds no JSON object.
    """
    return read_json_object(path) if path.is_file() else None
