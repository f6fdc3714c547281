"""The one place that loads the remote-code classes of this checkout or of a saved model folder.

The four files at the top of the repository import each other relatively, as the Hub wants it, so a script cannot
simply import them. They are loaded the way `AutoModel.from_pretrained(..., trust_remote_code=True)` does it.
"""

from pathlib import Path
from typing import Any

from transformers.dynamic_module_utils import get_class_from_dynamic_module

REPOSITORY_ROOT = Path(__file__).resolve().parent.parent


def config_class(folder: Path = REPOSITORY_ROOT) -> Any:
    """The class `SpiderConfig` of a model folder."""
    return _load("configuration_spider.SpiderConfig", folder)


def model_class(folder: Path = REPOSITORY_ROOT) -> Any:
    """The class `SpiderForImageClassification` of a model folder."""
    return _load("modeling_spider.SpiderForImageClassification", folder)


def image_processor_class(folder: Path = REPOSITORY_ROOT) -> Any:
    """The class `SpiderImageProcessor` of a model folder."""
    return _load("image_processor_spider.SpiderImageProcessor", folder)


def processor_class(folder: Path = REPOSITORY_ROOT) -> Any:
    """The class `SpiderProcessor` of a model folder."""
    return _load("processing_spider.SpiderProcessor", folder)


def _load(reference: str, folder: Path) -> Any:
    return get_class_from_dynamic_module(reference, str(folder), local_files_only=True)
