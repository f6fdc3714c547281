"""The card of a trained model, README.md: written from what its folder and its evaluation say, and nothing else."""

import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..evaluation.tables import headline_table
from ..files import read_json_object, replacing, write_text
from ..hub import is_hub_id
from ..import_record import import_facts, import_record
from ..model_folder import weights_sha256
from ..plain_text import markdown_cell
from .limit_sentences import limit_sentences
from .origin import base_model, hub_datasets, license_of, name_of, starting_weights

TEMPLATE = Path(__file__).with_name("model_card_template.md")
RESULT_FILES = ("results.json", "confusion_matrix.png")
_TAGS = ["pathology", "histology", "whole-slide-imaging", "spider", "custom_code", "arxiv:2503.02876"]
# Of the template, in every version of it.
_OWN_SENTENCE = (
    "A vision transformer embeds each patch, a small attention head reads the embeddings and names the class"
)
# Figure of results.json, metric of the Hub, name of both for people.
_HUB_METRICS = (
    ("accuracy", "accuracy", "Accuracy"),
    ("macro_precision", "precision", "Precision (macro)"),
    ("macro_f1", "f1", "F1 (macro)"),
)


def write_model_card(
    folder: Path,
    results: Optional[Path] = None,
    repo_id: Optional[str] = None,
    license: Optional[str] = None,
    served: bool = False,
) -> Path:
    """Write README.md, and copy results.json and confusion_matrix.png beside it.

    What is not known is left out of the card. Its content depends on nothing but the files and the arguments.

    Args:
        folder: Holds a model; what `training` says in its config.json goes into the card.
        results: Folder of an evaluation, as `reporting.write_report` leaves it.
        repo_id: `"org/name"` on the Hub, for the lines that load the model.
        license: Of the weights, as the Hub spells it. By default that of the SPIDER data sets, if the weights were
            trained on them or come from a published SPIDER model; otherwise the card names none.
        served: Whether handler.py is published with it, so that the card says how to ask an endpoint.

    Returns:
        The path of README.md.

    Raises:
        ValueError: config.json or results.json cannot be used, or they have different classes.
        OSError: A file cannot be read or written.
    """
    card = make_model_card(folder, results, repo_id, license, served)
    if results is not None:
        for name in RESULT_FILES:
            source = results / name
            if source.is_file() and not _is_same(source, folder / name):
                with replacing(folder / name) as unfinished:
                    shutil.copyfile(source, unfinished)
    write_text(folder / "README.md", str(card))
    return folder / "README.md"


def is_written_by_hand(readme: Path) -> bool:
    """Whether there is a README.md that is no card of `write_model_card`, of this version or an earlier one."""
    return readme.is_file() and _OWN_SENTENCE not in " ".join(readme.read_text("utf-8", "replace").split())


def make_model_card(
    folder: Path,
    results: Optional[Path] = None,
    repo_id: Optional[str] = None,
    license: Optional[str] = None,
    served: bool = False,
) -> ModelCard:
    """The card that `write_model_card` writes; see there."""
    config = read_config(folder)
    training = config.get("training") or {}
    told_apart = results is not None or import_record(config) is not None
    digest = _own_weights(folder) if told_apart else None
    measured = None if results is None else read_results(results, config["class_names"], digest)
    if measured is not None:
        _check_temperature(measured, config, results)
        _check_views(measured, results)
    license = license or license_of(config)
    title = repo_id.split("/")[-1] if repo_id else folder.resolve().name
    return ModelCard.from_template(
        _metadata(config, measured, title, license),
        template_path=str(TEMPLATE),
        title=title,
        repo_id=repo_id or "org/name",
        license=license,
        served=served,
        config=config,
        imported=import_facts(config, digest),
        limits=limit_sentences(config),
        region_size=config["context_size"] * config["patch_size"],
        classes=_class_rows(config["class_names"], training, measured),
        has_training_counts="regions_per_class" in training,
        measured=measured,
        measured_dataset=name_of(measured["dataset"]) if measured else None,
        headline=headline_table(measured) if measured else None,
        has_picture=results is not None and (results / "confusion_matrix.png").is_file(),
        training=_training_rows(config, _read_environment(folder)),
        cell=markdown_cell,
    )


def _metadata(
    config: Mapping[str, Any], measured: Optional[Mapping[str, Any]], title: str, license: Optional[str]
) -> ModelCardData:
    """What the Hub reads of a card."""
    return ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag="image-classification",
        base_model=base_model(config),
        datasets=hub_datasets(config),
        tags=_TAGS,
        metrics=[metric for _, metric, _ in _HUB_METRICS] if measured else None,
        model_name=title if measured else None,
        eval_results=_eval_results(measured) if measured else None,
    )


def read_config(folder: Path) -> dict[str, Any]:
    """What config.json of a SPIDER model says.

    Raises:
        ValueError: It is missing, or not of a SPIDER model.
    """
    config = read_json_object(folder / "config.json")
    missing = [name for name in ("class_names", "context_size", "patch_size", "mpp") if name not in config]
    if missing:
        raise ValueError(f"{folder / 'config.json'} is not of a SPIDER model: it lacks {', '.join(missing)}.")
    return config


def read_results(folder: Path, class_names: list[str], weights_sha256: Optional[str] = None) -> dict[str, Any]:
    """What results.json of an evaluation says.

    Raises:
        ValueError: It is missing or broken, or of a model with other classes or weights.
    """
    path = folder / "results.json"
    results = read_json_object(path)
    try:
        figures = {name: figure["value"] for name, figure in results["metrics"].items()}
        evaluated = list(results["per_class"])
        missing = [name for name, _, _ in _HUB_METRICS if name not in figures]
        missing += [name for name in ("dataset", "split", "regions", "slides") if name not in results]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not what an evaluation writes: {error!r}. Evaluate the model again.") from error
    if missing:
        raise ValueError(f"{path} is not what an evaluation writes: it lacks {', '.join(missing)}.")
    for name, value in figures.items():
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"{path}: expected a number for {name}, got {value!r}.")
    if weights_sha256 is not None and results.get("weights_sha256") not in (None, weights_sha256):
        raise ValueError(
            f"{path} is of other weights, {results['weights_sha256']}; these are {weights_sha256}. Evaluate this model."
        )
    if evaluated != class_names:
        raise ValueError(
            f"{path} is of another model: it has the classes {evaluated}, config.json has {class_names}. "
            "Evaluate this model."
        )
    return results


def _check_temperature(measured: Mapping[str, Any], config: Mapping[str, Any], results: Optional[Path]) -> None:
    """Refuse figures of a model that was calibrated otherwise; those of earlier versions say nothing of it."""
    theirs = measured.get("calibration", {}).get("temperature")
    ours = config.get("logit_temperature", 1.0)
    if theirs not in (None, ours):
        raise ValueError(
            f"{results}/results.json is of the logit_temperature {theirs:g}, config.json has {ours:g}: the model was "
            "calibrated since. Evaluate it again."
        )


def _check_views(measured: Mapping[str, Any], results: Optional[Path]) -> None:
    """Refuse figures of several views: who loads the model gets the answer to one."""
    views = measured.get("test_time_views", 1)
    if views != 1:
        raise ValueError(
            f"{results}/results.json has means over {views} views of each region, which the model alone does not give. "
            "Evaluate it without --test_time_views."
        )


def _own_weights(folder: Path) -> Optional[str]:
    """The digest of a folder's weights, None where it has none yet."""
    return weights_sha256(folder) if any(folder.glob("*.safetensors")) else None


def _eval_results(measured: Mapping[str, Any]) -> list[EvalResult]:
    dataset = measured["dataset"]
    name = name_of(dataset)
    return [
        EvalResult(
            task_type="image-classification",
            task_name="Image classification",
            dataset_type=dataset if is_hub_id(dataset) else re.sub(r"[^\w.-]+", "-", name).strip("-._") or "unnamed",
            dataset_name=name,
            dataset_split=measured["split"],
            metric_type=metric,
            metric_name=title,
            metric_value=measured["metrics"][figure]["value"],
            metric_args={"average": "macro"} if figure.startswith("macro_") else None,
        )
        for figure, metric, title in _HUB_METRICS
    ]


def _class_rows(
    class_names: list[str], training: Mapping[str, Any], measured: Optional[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    counts = training.get("regions_per_class", {})
    return [
        {
            "name": name,
            "training_regions": counts.get(name, 0),
            "measured": measured["per_class"][name] if measured else None,
        }
        for name in class_names
    ]


def _training_rows(config: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, str]:
    """What the card says of the training, in its order; nothing if it was not trained."""
    training = config.get("training") or {}
    if not training:
        return {}
    rows: dict[str, Any] = {}
    if "dataset" in training:
        rows["data set"] = name_of(training["dataset"])
    started_from = starting_weights(config)
    if started_from is not None:
        rows["starting weights"] = started_from
    for name in ("regions", "slides"):
        if training.get(name) is not None:
            rows[f"training {name}"] = f"{training[name]:,}"
    if training.get("epochs") is not None:
        rows["epochs trained"] = training["epochs"]
    if training.get("best_validation_macro_f1") is not None:
        rows["best F1 (macro) on the validation split"] = f"{training['best_validation_macro_f1']:.3f}"
    for name, value in training.get("settings", {}).items():
        if value is not None:
            rows[name] = value
    versions = {"spider_tools": config.get("spider_tools_version"), "Python": environment.get("python")}
    versions |= environment.get("packages", {})
    software = [f"{name} {version}" for name, version in versions.items() if version is not None]
    if software:
        rows["software"] = ", ".join(software)
    if environment.get("gpu"):
        rows["GPU"] = environment["gpu"]
    return {name: str(value) for name, value in rows.items()}


def _read_environment(folder: Path) -> dict[str, Any]:
    path = folder / "training" / "environment.json"
    return read_json_object(path) if path.is_file() else {}


def _is_same(source: Path, target: Path) -> bool:
    return target.exists() and source.samefile(target)
