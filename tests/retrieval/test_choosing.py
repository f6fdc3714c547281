"""Chosen patches do not overlap and keep to the limit per slide, as a slow loop has it."""

import numpy as np
import pytest
from made_up_patches import table_of

from spider_tools.retrieval.choosing import Chooser

SIDE = 28.0


def made(seed, count=300):
    """Patches on three slides, 7 px apart, so that most overlap; and of a data set, on one of these slides."""
    rng = np.random.default_rng(seed)
    slides = [str(name) for name in rng.choice(["a", "b", "c"], count)]
    places = [tuple((7.0 * rng.integers(0, 30, 2)).tolist()) for _ in range(count - 20)] + [None] * 20
    return slides, places


def slow_choice(slides, places, order, top, per_slide, examples=()):
    """By looking at every pair."""

    def overlap(one, other):
        if slides[one] != slides[other] or places[one] is None or places[other] is None:
            return False
        return all(abs(a - b) < SIDE for a, b in zip(places[one], places[other]))

    chosen = []
    for row in order:
        full = per_slide is not None and sum(slides[c] == slides[row] for c in chosen) >= per_slide
        near = any(row == other or overlap(row, other) for other in [*chosen, *examples])
        if len(chosen) < top and not full and not near:
            chosen.append(row)
    return chosen


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("top", "per_slide"), [(10, None), (1000, None), (40, 5), (1000, 17)])
def test_what_is_chosen_is_what_a_slow_loop_chooses(seed, top, per_slide):
    slides, places = made(seed)
    rng = np.random.default_rng(seed + 50)
    order, examples = rng.permutation(300).tolist(), rng.choice(300, 6, replace=False)
    chooser = Chooser(table_of(slides, places), top, per_slide)
    chooser.exclude(examples)
    taken = [row for row in order if chooser.take(row)]
    assert taken == chooser.chosen == slow_choice(slides, places, order, top, per_slide, examples.tolist())
    if chooser.missing:
        assert not chooser.allowed.any()


def test_neighbours_that_touch_do_not_overlap_whatever_the_rounding():
    scale = 0.5 / 0.2738
    side = 224 * scale
    table = table_of(["a"] * 5, [(i * side, 3 * side) for i in range(5)], side=side)
    chooser = Chooser(table, top=5)
    assert [chooser.take(row) for row in range(5)] == [True] * 5


def test_a_patch_is_not_chosen_twice():
    chooser = Chooser(table_of(["a"], [None]), top=5)
    assert chooser.take(0)
    assert not chooser.take(0)
    assert chooser.is_done


def test_fewer_than_wanted_is_said():
    chooser = Chooser(table_of(["a", "a"], [(0.0, 0.0), (5.0, 5.0)]), top=2)
    chooser.take(0)
    assert chooser.is_done
    assert chooser.shortfall()[0].startswith("1 of 2 wanted patches were found: no other one is left")
    full = Chooser(table_of(["a"], [(0.0, 0.0)]), top=1)
    full.take(0)
    assert full.shortfall() == []
