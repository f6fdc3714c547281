"""Which regions prototypes are made of, and what these say: by hand and against scikit-learn."""

import numpy as np
import pytest
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import normalize

from spider_tools.evaluation.prototypes import draw_regions, nearest_prototypes

LABELS = np.array([4] * 30 + [2] * 12 + [7] * 5)
SLIDES = np.array([f"s{i % 3}" for i in range(20)] + [f"t{i}" for i in range(10)] + ["u"] * 11 + ["v"] + ["w"] * 5)


@pytest.mark.parametrize("per_class", [1, 2, 5])
def test_every_class_gives_as_many_different_regions_by_class(per_class):
    for drawn in draw_regions(LABELS, SLIDES, per_class, draws=20):
        assert LABELS[drawn].tolist() == [2] * per_class + [4] * per_class + [7] * per_class
        assert len(set(drawn.tolist())) == 3 * per_class


def test_regions_are_of_different_slides_while_there_are_any():
    draws = draw_regions(LABELS, SLIDES, 5, draws=30)
    for drawn in draws:
        by_class = {label: SLIDES[drawn[LABELS[drawn] == label]] for label in (2, 4, 7)}
        assert len(set(by_class[4])) == 5
        assert sorted(by_class[2]) == ["u"] * 4 + ["v"]
        assert sorted(by_class[7]) == ["w"] * 5
    # Thirteen slides of class 4, as likely each: the first three hold two thirds of its regions.
    of_large = np.isin(SLIDES[draws[:, 5:10]], ["s0", "s1", "s2"]).mean()
    assert of_large == pytest.approx(3 / 13, abs=0.08)


def test_a_seed_draws_the_same_and_another_one_others():
    first, again, other = (draw_regions(LABELS, SLIDES, 5, seed) for seed in (0, 0, 1))
    assert first.shape == (10, 15)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len({tuple(drawn) for drawn in first.tolist()}) == 10


def test_prototypes_are_those_of_scikit_learn_on_normalised_embeddings():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 2, 5], 7)
    means = rng.normal(size=(6, 16))
    support = (means[labels] + rng.normal(size=(21, 16)) + 30).astype(np.float16)  # far from the origin
    queries = (means[rng.integers(0, 6, 300)] + rng.normal(size=(300, 16)) + 30).astype(np.float16)
    center = support.astype(np.float64).mean(axis=0)
    theirs = NearestCentroid().fit(normalize(support - center), labels).predict(normalize(queries - center))
    np.testing.assert_array_equal(nearest_prototypes(support, labels, queries), theirs)
    assert set(theirs) == {0, 2, 5}


def test_prototypes_by_hand():
    """The mean is (1, 1); class 3 lies to its right, class 8 to its left and above."""
    support = np.array([[3.0, 1.0], [0.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
    labels = np.array([3, 8, 8, 8])
    queries = np.array([[100.0, 2.0], [0.9, 1.0], [1.0, 1.0]])
    # Directions: (1, 0) for class 3; (-1, 0) twice and nothing for class 8, whose mean is (-2/3, 0). From the mean
    # itself, which has no direction, that of class 8 is nearer.
    assert nearest_prototypes(support, labels, queries).tolist() == [3, 8, 8]


def test_embeddings_that_are_all_the_same_give_the_first_class():
    same = np.ones((4, 3), dtype=np.float16)
    assert nearest_prototypes(same, np.array([1, 1, 2, 2]), same[:2]).tolist() == [1, 1]
