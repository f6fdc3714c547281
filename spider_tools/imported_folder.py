"""Whether the weights of a model folder are those that its import was verified with."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Union

from .import_record import import_facts, import_record
from .model_folder import weights_sha256

if TYPE_CHECKING:
    from .remote_code import SpiderConfig


def import_of_folder(config: "Union[SpiderConfig, Mapping[str, Any]]", folder: Path) -> Optional[dict[str, Any]]:
    """`import_record.import_facts` of the weights in a folder, which are read only if the model was imported.

    Args:
        config: Of the model, see there.
        folder: Holds its weights.

    Raises:
        ValueError, OSError: They cannot be read, see `model_folder.weights_sha256`.
    """
    return None if import_record(config) is None else import_facts(config, weights_sha256(folder))
