"""What a model learns of its own limits from a validation split: temperature, the unfamiliar, plausible classes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .conformal import class_scores, remember_scores
from .familiarity import FALSE_ALARM_RATE, FamiliarityFit, threshold_of
from .predict import Answers
from .temperature import TemperatureFit, fit_temperature, with_temperature

if TYPE_CHECKING:
    from ..remote_code import SpiderForImageClassification


def without_validation(fitted_to: int) -> dict[str, Any]:
    """What `learn_limits` would say if there were no regions to learn from."""
    fit = TemperatureFit(1.0, 0, 0, "not calibrated: there is no validation split")
    return {**fit.as_json(), "familiarity": FamiliarityFit(fitted_to, reason=fit.reason).as_json(), "sets": None}


def learn_limits(
    model: "SpiderForImageClassification", answers: Answers, drawn_by: Sequence[str], fitted_to: int
) -> dict[str, Any]:
    """Fit a temperature, a threshold of unfamiliarity and the scores of prediction sets, and let the model have them.

    Too few regions for a temperature are too few for all.

    Args:
        model: Gets them. Its temperature is multiplied by what the answers need.
        answers: Its own, to regions that it has not learnt from.
        drawn_by: The patient or slide of every region.
        fitted_to: Regions that its `familiarity` was fitted to, 0 without.

    Returns:
        What config.json says of it under `calibration`: the temperature and what it rests on, `familiarity` and
        `sets`, by class.
    """
    probabilities = answers.probabilities[model.config.context_size]
    fit = fit_temperature(probabilities, answers.labels, drawn_by)
    if not fit.is_fitted:
        model.remember(conformal_scores=0)
        familiarity = FamiliarityFit(fitted_to, reason=fit.reason)
        return {**fit.as_json(), "familiarity": familiarity.as_json(), "sets": None}
    temperature = model.config.logit_temperature * fit.temperature
    model.config.logit_temperature = temperature
    found = class_scores(with_temperature(probabilities, fit.temperature), answers.labels, drawn_by)
    remember_scores(model, found)
    familiarity = FamiliarityFit(fitted_to, reason="there is nothing that the model has learnt from to compare with")
    if answers.unfamiliarity is not None:
        threshold = threshold_of(answers.unfamiliarity, drawn_by)
        model.config.unfamiliarity_threshold = threshold
        familiarity = FamiliarityFit(fitted_to, threshold, FALSE_ALARM_RATE, fit.regions, fit.slides)
    return {
        **fit.as_json(),
        "temperature": temperature,
        "familiarity": familiarity.as_json(),
        "sets": {name: one.as_json() for name, one in zip(model.config.class_names, found)},
    }
