"""A temperature, prediction sets and what is familiar, for a model that is there already, and the model with them."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from ..data.grid import center_patch_names
from ..data.loading import RegionData, load_regions
from ..data.settings import DataSettings
from ..evaluation.asking import AskedModel
from ..evaluation.calibration import calibration_figures
from ..evaluation.familiarity import fit_familiarity, regions_to_fit_to
from ..evaluation.limits import learn_limits
from ..evaluation.run import matching_split
from ..evaluation.temperature import with_temperature
from ..files import require_writable
from ..hugging_face_home import require_hugging_face_home
from ..import_record import RECORD
from ..launching import make_accelerator
from ..model_folder import INDEX, save_model_folder, weight_files, weights_sha256
from ..output_folder import only_run_in
from ..patients import patients_or_slides
from ..publishing.checks import model_files
from ..weights.loading import load_config
from ..weights.reading import locate
from .settings import CalibrationSettings

logger = logging.getLogger(__name__)

SPLIT = "validation"


def calibrate_model(settings: CalibrationSettings, data_settings: DataSettings) -> dict[str, Any]:
    """Fit a model's temperature and prediction sets on the validation split of a data set, and write the model.

    With `settings.familiarity` it also learns, from the train split, what is familiar. Weights stay as they are, in
    their dtype; the folder gets this version's code, which knows what was fitted. config.json notes it under
    `calibration`.

    Args:
        settings: See there.
        data_settings: The data set. Context size, patch size and class order are the model's.

    Returns:
        `temperature`, the whole of it; `regions` and `slides` that it was fitted on; `reason`, a doubt about it or
        None; `familiarity` and `sets` as in config.json; `before` and `after`, figures of `evaluation.calibration` on
        these regions.

    Raises:
        ValueError: Model and data do not fit each other, or there are too few regions to fit a temperature to.
        OSError: The output folder or the Hugging Face home cannot be written, or another run writes the output folder.
    """
    require_writable(settings.output_dir, "--output_dir")
    settings.require_store_folder()
    require_hugging_face_home()
    folder = locate(settings.model, settings.revision)
    model_files(folder)
    config = load_config(settings.model, settings.revision)
    accelerator = make_accelerator()
    data = _load(replace(data_settings, context_size=config.context_size, patch_size=config.patch_size))
    split = matching_split(data, SPLIT, config.class_names)
    with only_run_in(settings.output_dir, accelerator):
        # Where a run of training has left them.
        asked = AskedModel(accelerator, settings, data, settings.output_dir / "training" / "embeddings")
        fitted_to = _learn_familiarity(asked, data, data_settings.seed) if settings.familiarity else _fitted_to(config)
        answers = asked.answers(split, [config.context_size])
        drawn_by = patients_or_slides(split["patient_id"], split["slide_id"])
        old = config.logit_temperature
        made = learn_limits(asked.model, answers, drawn_by, fitted_to)
        if made["sets"] is None:
            raise ValueError(f"{data.name} leaves {settings.model} {made['reason']}.")
        asked.model.config.calibration = {"dataset": data.name, "split": SPLIT, **made}
        if accelerator.is_main_process:
            _write(asked, folder, settings.output_dir)
    accelerator.end_training()
    probabilities = answers.probabilities[config.context_size]
    calibrated = with_temperature(probabilities, made["temperature"] / old)
    return {
        **made,
        "before": calibration_figures(probabilities, answers.labels),
        "after": calibration_figures(calibrated, answers.labels),
    }


def _load(settings: DataSettings) -> RegionData:
    """The data set; of one without a validation split that is cut from train, with a warning."""
    data = load_regions(replace(settings, validation_fraction=0.0))
    if SPLIT in data.splits or settings.validation_fraction == 0:
        return data
    logger.warning(
        "%s has no validation split: one is cut from train, which a model that was trained on it knows, unless it was "
        "trained with the same --validation_fraction and --seed.",
        data.name,
    )
    return load_regions(settings)


def _learn_familiarity(asked: AskedModel, data: RegionData, seed: int) -> int:
    """Let the model learn what is familiar from the train split's central patches, which are embedded."""
    split = matching_split(data, "train", asked.model.config.class_names)
    split = split.select(regions_to_fit_to(len(split), seed))
    names = center_patch_names(split)
    store = asked.store_of(names)
    return fit_familiarity(asked.model, store[store.rows(names)].float().numpy(), np.asarray(split["label"]))


def _fitted_to(config: Any) -> int:
    """Regions that the model's familiarity was fitted to, as its configuration notes it."""
    noted = (getattr(config, "calibration", None) or {}).get("familiarity") or {}
    return int(noted.get("fitted_to", 0))


def _write(asked: AskedModel, source: Path, target: Path) -> None:
    """Write the model in the dtype that its files have; the record of an import stays that of the same weights."""
    record = getattr(asked.model.config, RECORD, None)
    is_of_these = isinstance(record, dict) and record.get("weights_sha256") == weights_sha256(source)
    model = asked.model.cpu().to(_dtype_of(source)).eval()
    save_model_folder(model, asked.image_processor, target, record if is_of_these else None)


def _dtype_of(folder: Path) -> torch.dtype:
    """The dtype of the classifier in a model's files."""
    for name in weight_files(folder):
        if name == INDEX:
            continue
        with safe_open(folder / name, framework="pt") as tensors:
            if "classifier.weight" in tensors.keys():
                return tensors.get_tensor("classifier.weight").dtype
    raise ValueError(f"{folder} has no weights named classifier.weight.")
