"""The one place that loads the remote-code classes, of this repository or of a saved model folder.

The four files at the top of the repository import each other relatively, as the Hub wants it, so a script cannot
simply import them. They are loaded the way `AutoModel.from_pretrained(..., trust_remote_code=True)` does it. Their
classes stand here for annotations, under `TYPE_CHECKING` alone.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.dynamic_module_utils import get_class_from_dynamic_module

if TYPE_CHECKING:
    import torch

    from configuration_spider import SpiderConfig as SpiderConfig
    from image_processor_spider import SpiderImageProcessor as SpiderImageProcessor
    from modeling_spider import SpiderForImageClassification as SpiderForImageClassification
    from outputs_spider import SpiderOutput as SpiderOutput
    from processing_spider import SpiderProcessor as SpiderProcessor

_IN_A_WHEEL = Path(__file__).with_name("repository")
# Of the model files and scripts: the checkout, or what a wheel carries of it.
REPOSITORY_ROOT = _IN_A_WHEEL if _IN_A_WHEEL.is_dir() else Path(__file__).resolve().parent.parent


def config_class(folder: Path = REPOSITORY_ROOT) -> "type[SpiderConfig]":
    """The class `SpiderConfig` of a model folder."""
    return _load("configuration_spider.SpiderConfig", folder)


def model_class(folder: Path = REPOSITORY_ROOT) -> "type[SpiderForImageClassification]":
    """The class `SpiderForImageClassification` of a model folder."""
    return _load("modeling_spider.SpiderForImageClassification", folder)


def image_processor_class(folder: Path = REPOSITORY_ROOT) -> "type[SpiderImageProcessor]":
    """The class `SpiderImageProcessor` of a model folder."""
    return _load("image_processor_spider.SpiderImageProcessor", folder)


def processor_class(folder: Path = REPOSITORY_ROOT) -> "type[SpiderProcessor]":
    """The class `SpiderProcessor` of a model folder."""
    return _load("processing_spider.SpiderProcessor", folder)


def improbability(probabilities: "torch.Tensor") -> "torch.Tensor":
    """The score of prediction sets, as the model computes it: see there, in certainty_spider.py."""
    return _load("certainty_spider.improbability", REPOSITORY_ROOT)(probabilities)


def _load(reference: str, folder: Path) -> Any:
    return get_class_from_dynamic_module(reference, str(folder), local_files_only=True)
