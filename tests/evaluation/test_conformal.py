"""Prediction sets: p-values against a loop over slides, and the share of sets with the true class over many draws."""

import numpy as np
import pytest
import torch

from spider_tools.evaluation import conformal
from spider_tools.evaluation.conformal import class_scores, remember_scores


def draw(rng, slides, regions_of_a_slide, classes=3, spread=1.0):
    """Probabilities of a model that finds some slides harder than others."""
    logits, labels, names = [], [], []
    for slide in range(slides):
        n = int(rng.integers(*regions_of_a_slide))
        truth = rng.integers(0, classes, n)
        margin = rng.normal(1.5, spread)
        logits.append(rng.normal(size=(n, classes)) + margin * np.eye(classes)[truth])
        labels.append(truth)
        names += [f"slide {slide}"] * n
    exact = np.exp(np.concatenate(logits))
    return (exact / exact.sum(axis=1, keepdims=True)).astype(np.float32), np.concatenate(labels), names


def p_value_by_loop(probability, probabilities, slides, by_slide):
    """The module's definition, one region at a time; scores are rounded to 1e-4 as the model rounds them."""

    def score(p):
        return round((1 - float(p)) * 1e4)

    own = score(probability)
    if not by_slide:
        return (1 + sum(score(p) >= own for p in probabilities)) / (1 + len(probabilities))
    shares = []
    for slide in set(slides):
        of_slide = [p for p, name in zip(probabilities, slides) if name == slide]
        shares.append(np.mean([score(p) >= own for p in of_slide]))
    return (1 + sum(shares)) / (1 + len(shares))


@pytest.mark.parametrize("slides", [3, 14])
def test_a_model_gives_the_p_values_of_a_loop(make_model, slides):
    rng = np.random.default_rng(1)
    probabilities, labels, names = draw(rng, slides, (5, 12), classes=4)
    model = make_model()
    found = class_scores(probabilities, labels, names)
    assert [one.by_slide for one in found] == [slides == 14] * 4
    remember_scores(model, found)
    asked = draw(rng, 5, (4, 5), classes=4)[0]
    p_values = model.class_sets(torch.from_numpy(asked)).numpy()
    for region, k in np.ndindex(p_values.shape):
        members = labels == k
        expected = p_value_by_loop(
            asked[region, k], probabilities[members, k], np.array(names)[members].tolist(), slides == 14
        )
        assert p_values[region, k] == pytest.approx(expected, abs=1e-6)
    sure = np.full((1, 4), 1e-6, dtype=np.float32)  # of nothing
    assert model.class_sets(torch.from_numpy(sure))[0].tolist() == pytest.approx([one.least_alpha for one in found])


def test_a_class_without_a_region_is_never_ruled_out(make_model):
    probabilities, labels, names = draw(np.random.default_rng(2), 4, (10, 11), classes=4)
    kept = labels != 2
    model = make_model()
    found = class_scores(probabilities[kept], labels[kept], [n for n, k in zip(names, kept) if k])
    assert (found[2].regions, found[2].slides, found[2].least_alpha) == (0, 0, 1.0)
    remember_scores(model, found)
    assert (model.class_sets(torch.from_numpy(probabilities))[:, 2] == 1).all()


def test_of_many_scores_some_are_kept_and_no_p_value_gets_smaller(make_model, monkeypatch):
    rng = np.random.default_rng(3)
    probabilities, labels, names = draw(rng, 6, (400, 500))
    asked = torch.from_numpy(draw(rng, 5, (50, 60))[0])
    exact, thin = make_model(class_names=list("abc")), make_model(class_names=list("abc"))
    remember_scores(exact, class_scores(probabilities, labels, names))
    monkeypatch.setattr(conformal, "MOST_SCORES", 50)
    remember_scores(thin, class_scores(probabilities, labels, names))
    assert thin.config.conformal_scores == 50
    difference = (thin.class_sets(asked) - exact.class_sets(asked)).numpy()
    assert difference.min() >= -1e-6
    assert difference.max() <= 1 / 49 + 1e-3


@pytest.mark.parametrize(("slides", "alpha"), [(20, 0.1), (20, 0.3)])
def test_sets_of_new_slides_hold_the_true_class_as_often_as_promised(slides, alpha):
    """Over 300 draws of slides that differ much."""
    rng = np.random.default_rng(4)
    by_slide = []
    for _ in range(300):
        probabilities, labels, names = draw(rng, slides, (1, 40), classes=2, spread=1.5)
        found = class_scores(probabilities, labels, names)
        asked, truth, _ = draw(rng, 1, (8, 9), classes=2, spread=1.5)
        for p, k in zip(asked, truth):
            score = round((1 - float(p[k])) * 1e4) / 1e4
            exceeded = int(np.searchsorted(found[k].scores, np.float32(score)))
            by_slide.append(found[k].p_values[exceeded] > alpha)
    assert np.mean(by_slide) > 1 - alpha - 0.02
    assert np.mean(by_slide) < 1 - alpha + 0.08
