"""The temperature: what it does to probabilities, that the fit is the best one, and where there is none."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from spider_tools.evaluation.temperature import LEAST_REGIONS, fit_temperature, with_temperature


def drawn(temperature, regions=4000, classes=5, seed=0):
    """Probabilities of logits, and labels that are drawn from the softmax of the logits over a temperature."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (regions, classes))
    labels = [rng.choice(classes, p=row) for row in softmax(logits / temperature, axis=1)]
    return softmax(logits, axis=1), np.array(labels), [f"slide {i % 12}" for i in range(regions)]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_the_true_temperature_is_found(temperature):
    probabilities, labels, slides = drawn(temperature)
    fit = fit_temperature(probabilities, labels, slides)
    assert fit.temperature == pytest.approx(temperature, rel=0.08)
    assert (fit.regions, fit.slides, fit.reason) == (4000, 12, None)


@pytest.mark.parametrize("seed", range(5))
def test_no_other_temperature_makes_the_smoothed_truth_likelier(seed):
    probabilities, labels, slides = drawn(1.7, regions=60, classes=4, seed=seed)
    found = fit_temperature(probabilities, labels, slides).temperature
    truth = np.where(np.eye(4)[labels] == 1, 61 / 62, 1 / 62 / 3)

    def loss(temperature):
        return -(truth * log_softmax(np.log(probabilities) / temperature, axis=1)).sum()

    grid = np.geomspace(0.06, 19, 4000)
    assert loss(found) <= min(map(loss, grid)) + 1e-9


def test_temperatures_do_to_probabilities_what_they_do_to_logits():
    logits = np.random.default_rng(1).normal(0, 4, (50, 6))
    for temperature in (0.2, 1.0, 7.0):
        tempered = with_temperature(softmax(logits, axis=1), temperature)
        np.testing.assert_allclose(tempered, softmax(logits / temperature, axis=1), atol=1e-12)
        assert (tempered.argmax(axis=1) == logits.argmax(axis=1)).all()
        np.testing.assert_allclose(with_temperature(tempered, 1 / temperature), softmax(logits, axis=1), atol=1e-7)
    assert np.isfinite(with_temperature(np.array([[1.0, 0.0]]), 3.0)).all()


@pytest.mark.parametrize("regions", [30, 100, 1000])
def test_who_is_never_wrong_on_few_regions_does_not_become_infallible(regions):
    labels = np.arange(regions) % 3
    probabilities = np.full((regions, 3), 0.15)
    probabilities[np.arange(regions), labels] = 0.7
    fit = fit_temperature(probabilities, labels, [str(i % 6) for i in range(regions)])
    sure = with_temperature(probabilities, fit.temperature).max(axis=1)
    np.testing.assert_allclose(sure, (regions + 1) / (regions + 2), rtol=1e-4)


@pytest.mark.parametrize(("regions", "slides"), [(LEAST_REGIONS - 1, 9), (500, 1)])
def test_too_few_give_no_temperature_and_a_reason(regions, slides):
    probabilities, labels, _ = drawn(2.0, regions)
    fit = fit_temperature(probabilities, labels, [str(i % slides) for i in range(regions)])
    assert fit.temperature == 1
    assert f"not calibrated: {regions} regions of {slides} patients or slides are too few" in fit.reason


def test_doubts_are_told():
    probabilities, labels, _ = drawn(1.0, 200)
    few = fit_temperature(probabilities, labels, [str(i % 3) for i in range(200)])
    assert "rests on 3 patients or slides" in few.reason
    wrong = (probabilities.argmax(axis=1) + 1) % 5
    astray = fit_temperature(probabilities, wrong, [str(i % 9) for i in range(200)])
    assert "at the end of 0.05 to 20" in astray.reason


def test_what_is_no_probability_is_refused():
    with pytest.raises(ValueError, match="Logits need a softmax first"):
        fit_temperature(np.ones((40, 3)), np.zeros(40, int), ["a", "b"] * 20)
