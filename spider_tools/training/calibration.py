"""The temperature of the model that training made, fitted on the validation split that chose it."""

import logging
from typing import Any

from ..data.loading import RegionData
from ..evaluation.predict import predict
from ..evaluation.temperature import TemperatureFit, fit_temperature
from ..patients import patients_or_slides
from .setup import TrainingSetup

logger = logging.getLogger(__name__)


def calibrate(setup: TrainingSetup, data: RegionData) -> None:
    """Set `logit_temperature` of the model, and note in its configuration what it rests on.

    Every process calls this. Neither train nor test is looked at; without a validation split the temperature stays 1.

    Args:
        setup: With the weights that are exported.
        data: Its validation split is that of `setup`.
    """
    if setup.validation is None:
        fit = TemperatureFit(1.0, 0, 0, "not calibrated: there is no validation split")
    else:
        fit = _fit(setup, data.splits["validation"])
    if fit.reason is not None and setup.accelerator.is_main_process:
        logger.warning("The model's probabilities: %s.", fit.reason)
    setup.model.config.logit_temperature = fit.temperature
    setup.model.config.calibration = {"dataset": data.name, "split": "validation", **fit.as_json()}


def _fit(setup: TrainingSetup, split: Any) -> TemperatureFit:
    size = setup.model.config.context_size
    labels, by_size = predict(setup.accelerator, setup.classifier, setup.validation, [size])
    return fit_temperature(by_size[size], labels, patients_or_slides(split["patient_id"], split["slide_id"]))
