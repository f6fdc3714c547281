"""What the weights of a model come from, as its card says it: data sets, models, imports, and the licence of these."""

import re
from collections.abc import Mapping
from typing import Any, Optional

from ..hub import is_hub_id
from ..import_record import RECORD, import_record, origin_of
from ..paper_results import organ_names, published_organ

SPIDER_LICENSE = "cc-by-nc-4.0"  # of the published data sets, and so of what is trained on them


def license_of(config: Mapping[str, Any]) -> Optional[str]:
    """The licence of weights that come from published data or models, None where nobody knows it.

    Args:
        config: The content of config.json.
    """
    training, published = _training(config), [published_organ(name) for name in organ_names()]
    sources = (training.get("dataset"), training.get("base_model"), _published_source(config))
    if any(source in (organ.dataset, organ.model) for organ in published for source in sources):
        return SPIDER_LICENSE
    local = "dataset" in training and _organ_of_folder(training["dataset"], config["class_names"])
    return SPIDER_LICENSE if local else None


def base_model(config: Mapping[str, Any]) -> Optional[str]:
    """The Hub id of the model that weights were trained from, or of the published one that they were imported from."""
    return _training(config).get("base_model") or _published_source(config)


def hub_datasets(config: Mapping[str, Any]) -> Optional[list[str]]:
    """The Hub id of the data set that weights were trained on."""
    dataset = _training(config).get("dataset")
    if dataset is not None and is_hub_id(dataset):
        return [dataset]
    organ = None if dataset is None else _organ_of_folder(dataset, config["class_names"])
    return None if organ is None else [published_organ(organ).dataset]


def starting_weights(config: Mapping[str, Any]) -> Optional[str]:
    """What is known of the import of the model that weights were trained from, None if nothing of it was imported."""
    record = _base_model_import(config)
    if record is None:
        return None
    return f"imported from {origin_of(record)}, {'verified' if record.get('verified') is True else 'not verified'}"


def name_of(dataset: str) -> str:
    """The last part of a Hub id or of a path: where somebody keeps a folder does not belong in a card."""
    return re.split(r"[/\\]", dataset.rstrip("/\\"))[-1] or "unnamed"


def _training(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return config.get("training") or {}


def _published_source(config: Mapping[str, Any]) -> Optional[str]:
    """The published model that these weights, or those that they were trained from, were imported from.

    A folder with the name and the classes of a published model is taken for a copy of it.
    """
    source = (import_record(config) or _base_model_import(config) or {}).get("source")
    for organ in map(published_organ, organ_names()):
        is_copy = source == name_of(organ.model) and set(config["class_names"]) <= set(organ.class_names)
        if source == organ.model or is_copy:
            return organ.model
    return None


def _base_model_import(config: Mapping[str, Any]) -> Optional[dict[str, Any]]:
    return import_record({RECORD: _training(config).get("base_model_import")})


def _organ_of_folder(dataset: str, class_names: list[str]) -> Optional[str]:
    """The organ of a folder that has the name and the classes of a published data set."""
    for name in organ_names():
        published = published_organ(name)
        same_name = name_of(dataset).casefold() == name_of(published.dataset).casefold()
        if same_name and set(class_names) <= set(published.class_names):
            return name
    return None
