"""What is familiar: means and covariance against scikit-learn, and a threshold against a loop."""

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from tiny_spider import HIDDEN

from spider_tools.evaluation.familiarity import LEAST_REGIONS, fit_familiarity, threshold_of

RNG = np.random.default_rng(3)
LABELS = np.repeat([0, 2, 3], 40)  # class 1 has no region
MIXING = RNG.normal(size=(HIDDEN, HIDDEN))
EMBEDDINGS = (RNG.normal(size=(120, HIDDEN)) @ MIXING + 5 * LABELS[:, None] + 40).astype(np.float32)


def test_distances_are_those_of_another_implementation(make_model):
    model = make_model()
    assert fit_familiarity(model, EMBEDDINGS, LABELS) == 120
    assert model.config.familiarity_means == 3
    assert model.config.unfamiliarity_threshold is None
    means = {label: EMBEDDINGS[LABELS == label].mean(axis=0) for label in (0, 2, 3)}
    shrunk = LedoitWolf(assume_centered=True).fit(EMBEDDINGS - np.stack([means[label] for label in LABELS]))
    asked = np.concatenate([EMBEDDINGS[::10], EMBEDDINGS[:5] + 30]).astype(np.float32)
    nearest = np.min([shrunk.mahalanobis(asked - mean) for mean in means.values()], axis=0)
    found = model.familiarity.of_patches(torch.from_numpy(asked)).numpy()
    np.testing.assert_allclose(found, np.sqrt(nearest / HIDDEN), rtol=1e-3)
    assert 0.7 < np.median(found[:12]) < 1.2
    assert found[12:].min() > found[:12].max()


def test_fewer_regions_than_dimensions_will_do_and_constant_dimensions_too(make_model):
    model = make_model()
    few = EMBEDDINGS[::4].copy()
    few[:, 3] = 1.0
    assert len(few) < HIDDEN
    assert fit_familiarity(model, few, LABELS[::4]) == len(few)
    assert torch.isfinite(model.familiarity.of_patches(torch.from_numpy(EMBEDDINGS))).all()
    same = np.ones((40, HIDDEN), dtype=np.float32)
    assert fit_familiarity(model, same, LABELS[:40]) == 0


def test_too_few_regions_leave_a_model_without(make_model):
    model = make_model()
    fit_familiarity(model, EMBEDDINGS, LABELS)
    assert fit_familiarity(model, EMBEDDINGS[: LEAST_REGIONS - 1], LABELS[: LEAST_REGIONS - 1]) == 0
    assert model.familiarity is None
    assert model.config.familiarity_means == 0


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.3, 0.9])
def test_the_threshold_is_the_smallest_that_keeps_the_rate_on_average_over_slides(rate):
    scores = RNG.permutation(RNG.gamma(2, size=300).round(1))
    slides = [f"slide {min(int(9 * u**2), 8)}" for u in RNG.random(300)]

    def alarms(threshold):
        shares = [np.mean([s > threshold for s, of in zip(scores, slides) if of == slide]) for slide in set(slides)]
        return np.mean(shares)

    expected = min(score for score in scores if alarms(score) <= rate + 1e-9)
    assert threshold_of(scores, slides, rate) == expected
