"""A temperature for a model that is there already, and the model with it."""

import json
import logging
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..data.loading import RegionData, load_regions
from ..data.settings import DataSettings
from ..evaluation.asking import AskedModel
from ..evaluation.calibration import calibration_figures
from ..evaluation.run import matching_split
from ..evaluation.temperature import fit_temperature, with_temperature
from ..files import read_json_object, require_writable, write_text
from ..hugging_face_home import require_hugging_face_home
from ..launching import make_accelerator
from ..model_folder import replace_model
from ..output_folder import only_run_in
from ..patients import patients_or_slides
from ..publishing.checks import model_files
from ..weights.loading import load_config
from ..weights.reading import locate
from .settings import CalibrationSettings

logger = logging.getLogger(__name__)

SPLIT = "validation"


def calibrate_model(settings: CalibrationSettings, data_settings: DataSettings) -> dict[str, Any]:
    """Fit a model's temperature on the validation split of a data set, and write the model with it.

    Weights and code are copied as they are; config.json gets `logit_temperature` and `calibration`.

    Args:
        settings: See there.
        data_settings: The data set. Context size, patch size and class order are the model's.

    Returns:
        `temperature`, the whole of it; `regions` and `slides` that it was fitted on; `reason`, a doubt about it or
        None; `before` and `after`, figures of `evaluation.calibration` on these regions.

    Raises:
        ValueError: Model and data do not fit each other, or there are too few regions to fit a temperature to.
        OSError: The output folder or the Hugging Face home cannot be written, or another run writes the output folder.
    """
    require_writable(settings.output_dir, "--output_dir")
    settings.require_store_folder()
    require_hugging_face_home()
    folder = locate(settings.model, settings.revision)
    files = model_files(folder)
    config = load_config(settings.model, settings.revision)
    accelerator = make_accelerator()
    data = _load(replace(data_settings, context_size=config.context_size, patch_size=config.patch_size))
    split = matching_split(data, SPLIT, config.class_names)
    with only_run_in(settings.output_dir, accelerator):
        stores = settings.output_dir / "training" / "embeddings"  # where a run of training has left them
        labels, by_size = AskedModel(accelerator, settings, data, split, stores).predict([config.context_size])
        probabilities = by_size[config.context_size]
        fit = fit_temperature(probabilities, labels, patients_or_slides(split["patient_id"], split["slide_id"]))
        if fit.temperature == 1 and fit.reason is not None:
            raise ValueError(f"{data.name} leaves {settings.model} {fit.reason}.")
        made = fit.as_json() | {"temperature": fit.temperature * config.logit_temperature}
        told = {"logit_temperature": made["temperature"], "calibration": {"dataset": data.name, "split": SPLIT, **made}}
        if accelerator.is_main_process:
            _write(files, settings.output_dir, read_json_object(folder / "config.json") | told)
    accelerator.end_training()
    calibrated = with_temperature(probabilities, fit.temperature)
    return {
        **made,
        "before": calibration_figures(probabilities, labels),
        "after": calibration_figures(calibrated, labels),
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


def _write(files: dict[str, Path], target: Path, config: dict[str, Any]) -> None:
    """Copy a model whole or not at all, config.json last; of a model in its own folder that alone is written."""
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    if target.is_dir() and (target / "config.json").is_file() and target.samefile(files["config.json"].parent):
        write_text(target / "config.json", text)
        return
    with tempfile.TemporaryDirectory(prefix=".model.", dir=target) as name:
        unfinished = Path(name)
        for file, path in files.items():
            if file != "config.json":
                shutil.copyfile(path, unfinished / file)
        write_text(unfinished / "config.json", text)
        replace_model(unfinished, target)
