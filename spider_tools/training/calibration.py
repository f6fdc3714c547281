"""What the model that training made knows of its own limits, from the validation split that chose it."""

import logging
from typing import Any

from ..data.loading import RegionData
from ..evaluation.familiarity import central_embeddings, fit_familiarity
from ..evaluation.limits import learn_limits, without_validation
from ..evaluation.predict import predict
from ..patients import patients_or_slides
from .setup import TrainingSetup

logger = logging.getLogger(__name__)


def calibrate(setup: TrainingSetup, data: RegionData) -> None:
    """Let the model know what is familiar, how sure it may be, and which classes it cannot rule out.

    What is familiar comes from the regions that it has learnt from, all else from the validation split; the test split
    is not looked at. Every process calls this. config.json notes under `calibration` what it rests on; without a
    validation split the temperature stays 1, and nobody says where the unfamiliar begins.

    Args:
        setup: With the weights that are exported.
        data: Its validation split is that of `setup`.
    """
    embeddings, labels = central_embeddings(setup.accelerator, setup.classifier, setup.train, setup.settings.seed)
    fitted_to = fit_familiarity(setup.model, embeddings, labels)
    made = _limits(setup, data, fitted_to)
    if made["reason"] is not None and setup.accelerator.is_main_process:
        logger.warning("The model's probabilities: %s.", made["reason"])
    setup.model.config.calibration = {"dataset": data.name, "split": "validation", **made}


def _limits(setup: TrainingSetup, data: RegionData, fitted_to: int) -> dict[str, Any]:
    if setup.validation is None:
        return without_validation(fitted_to)
    split = data.splits["validation"]
    answers = predict(setup.accelerator, setup.classifier, setup.validation, [setup.model.config.context_size])
    return learn_limits(setup.model, answers, patients_or_slides(split["patient_id"], split["slide_id"]), fitted_to)
