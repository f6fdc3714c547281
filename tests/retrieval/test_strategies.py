"""What to annotate next, beside slow loops: the least certain, the farthest from all others, the middle of clusters."""

import numpy as np
import pytest
from made_up_patches import clustered, table_of, unit
from sklearn.cluster import MiniBatchKMeans

from spider_tools.retrieval.choosing import Chooser
from spider_tools.retrieval.strategies import diverse, typical, uncertain
from spider_tools.retrieval.suggest import drawn_alike

SIDE = 28.0


def far_apart(count, slides=None):
    """Patches none of which overlaps another."""
    return table_of(slides or ["s"] * count, [(SIDE * (i % 20), SIDE * (i // 20)) for i in range(count)])


def slow_k_center(vectors, candidates, covered, count):
    """Distances of every pair, anew for every choice."""
    chosen, distances = [], []
    for _ in range(count):
        left = [i for i in candidates if i not in chosen and i not in covered]
        taken = [*covered, *chosen]
        if not taken:
            near = [float(vectors[i] @ vectors[candidates].mean(axis=0)) for i in left]
            chosen.append(left[int(np.argmax(near))])
            distances.append(2.0)
            continue
        gaps = [min(float(np.linalg.norm(vectors[i] - vectors[j])) for j in taken) for i in left]
        chosen.append(left[int(np.argmax(gaps))])
        distances.append(max(gaps))
    return chosen, distances


@pytest.mark.parametrize("covered", [[], [3], list(range(100, 160))])
@pytest.mark.parametrize("every", [1, 3])
def test_diverse_is_k_center_greedy(covered, every):
    vectors = unit(clustered(160, hidden=8)).astype(np.float32)
    rows = np.arange(0, 160, every)
    chooser = Chooser(far_apart(160), top=25)
    chooser.exclude(np.array(covered, dtype=np.int64))
    blocks = [vectors[covered[:40]], vectors[covered[40:]]] if len(covered) > 40 else [vectors[covered]] * bool(covered)
    distances = diverse(vectors[rows], rows, blocks, chooser)
    expected, gaps = slow_k_center(vectors.astype(np.float64), rows.tolist(), covered, 25)
    assert chooser.chosen == expected
    np.testing.assert_allclose(distances, gaps, atol=1e-3)


def test_diverse_covers_better_than_a_choice_at_random():
    vectors = unit(clustered(600, hidden=8)).astype(np.float32)
    chooser = Chooser(far_apart(600), top=30)
    diverse(vectors, np.arange(600), [], chooser)

    def radius(rows):
        return np.sqrt(np.maximum(2 - 2 * (vectors @ vectors[rows].T).max(axis=1), 0)).max()

    rng = np.random.default_rng(0)
    assert radius(chooser.chosen) < min(radius(rng.choice(600, 30, replace=False)) for _ in range(20))


def test_every_strategy_stops_when_nothing_is_left():
    vectors = unit(clustered(12)).astype(np.float32)
    for choose in (
        lambda chooser: diverse(vectors, np.arange(12), [], chooser),
        lambda chooser: typical(vectors, np.arange(12), chooser, 0),
        lambda chooser: uncertain(np.arange(12.0), lambda rows: vectors[rows], chooser, 1.0)[0],
    ):
        chooser = Chooser(far_apart(12, ["a"] * 6 + ["b"] * 6), top=50, per_slide=4)
        assert len(choose(chooser)) == len(chooser.chosen) <= 8
        nothing = Chooser(far_apart(12), top=5)
        nothing.exclude(np.arange(12))
        assert len(choose(nothing)) == 0


def slow_uncertain(margins, vectors, top, most_similar):
    chosen, same = [], 0
    for row in sorted(range(len(margins)), key=lambda row: (margins[row], row)):
        if len(chosen) == top:
            break
        if any(float(vectors[row] @ vectors[other]) > most_similar for other in chosen):
            same += 1
        else:
            chosen.append(row)
    return chosen, same


@pytest.mark.parametrize("most_similar", [0.3, 0.8, 1.0])
def test_uncertain_takes_the_smallest_margins_and_none_that_looks_like_an_earlier_one(most_similar):
    vectors = unit(clustered(5000, clusters=40)).astype(np.float32)
    margins = np.random.default_rng(2).random(5000)
    chooser = Chooser(far_apart(5000), top=60)
    scores, same = uncertain(margins, lambda rows: vectors[rows], chooser, most_similar)
    expected, left_out = slow_uncertain(margins, vectors, 60, most_similar)
    assert chooser.chosen == expected
    assert scores.tolist() == margins[expected].tolist()
    assert same == left_out
    assert (same > 0) == (most_similar < 1)


def test_typical_takes_the_medoid_of_each_cluster_from_the_largest_on():
    vectors = unit(clustered(500, clusters=9, spread=0.1)).astype(np.float32)
    chooser = Chooser(far_apart(500), top=9)
    scores = typical(vectors, np.arange(500), chooser, seed=1)
    labels = MiniBatchKMeans(9, random_state=1, batch_size=4096, n_init=3).fit(vectors).labels_
    found = set()
    for number in range(9):
        members = np.flatnonzero(labels == number)
        squares = ((vectors[members][:, None] - vectors[members][None]) ** 2).sum(axis=(1, 2))
        found.add(int(members[squares.argmin()]))  # of all members the one nearest to all
    assert set(chooser.chosen) == found
    sizes = np.bincount(labels)[labels[chooser.chosen]]
    assert (np.diff(sizes) <= 0).all()
    assert ((scores > 0.8) & (scores <= 1.0001)).all()


def test_typical_gives_the_same_for_the_same_seed():
    vectors = unit(clustered(400)).astype(np.float32)
    chosen = []
    for seed in (1, 1, 2):
        chooser = Chooser(far_apart(400), top=10)
        typical(vectors, np.arange(400), chooser, seed)
        chosen.append(chooser.chosen)
    assert chosen[0] == chosen[1] != chosen[2]


def test_candidates_are_drawn_from_all_slides_alike():
    groups = np.repeat([0, 1, 2, 3], [5, 400, 30, 800])
    rows = np.arange(1235) * 2
    drawn = drawn_alike(rows, groups, 135, seed=0)
    assert np.bincount(groups[drawn // 2]).tolist() == [5, 50, 30, 50]
    assert (np.diff(drawn) > 0).all()
    assert drawn_alike(rows, groups, 135, seed=0).tolist() == drawn.tolist()
    assert drawn_alike(rows, groups, 135, seed=1).tolist() != drawn.tolist()
    assert drawn_alike(rows, groups, 5000, seed=0).tolist() == rows.tolist()
