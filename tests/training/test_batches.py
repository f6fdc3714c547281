"""Batches: every region once, equal whatever the number of processes, and weights that add up."""

import threading

import numpy as np
import pytest
import torch
from training_runs import PATCHES, REGIONS

from spider_tools.data.loaders import (
    EmbeddedBatchLoader,
    EmbeddedRegions,
    MicroBatch,
    PixelRegions,
    evaluation_loader,
    micro_batch_loader,
    turn,
)
from spider_tools.training.batches import BatchPlan, MicroBatchSampler, class_weights_of


def draw(plan, grid, process=0, accumulation=1, epoch=0, first_step=0):
    sampler = MicroBatchSampler(plan, grid, np.ones(3), process, accumulation)
    sampler.start_at(epoch, first_step)
    return list(sampler)


def test_every_region_comes_once_per_epoch_in_another_order(grid):
    first, second = (np.concatenate([b.regions for b in draw(BatchPlan(5), grid, epoch=e)]) for e in (0, 1))
    assert sorted(first) == sorted(second) == list(range(REGIONS))
    assert first.tolist() != second.tolist()


def test_the_same_seed_and_epoch_draw_the_same_batches(grid):
    plan = BatchPlan(5, seed=3, context_dropout=0.4, flip=True)
    for a, b in zip(draw(plan, grid, epoch=2), draw(plan, grid, epoch=2)):
        np.testing.assert_array_equal(a.regions, b.regions)
        np.testing.assert_array_equal(a.context_mask, b.context_mask)
        assert a.turn == b.turn


@pytest.mark.parametrize(("processes", "accumulation"), [(1, 3), (2, 1), (3, 2), (4, 4)])
def test_parts_of_a_step_make_up_the_batch_of_one_process(grid, processes, accumulation):
    whole = draw(BatchPlan(5, seed=3, context_dropout=0.4), grid)
    plan = BatchPlan(5, parts=processes * accumulation, seed=3, context_dropout=0.4)
    shares = [draw(plan, grid, process, accumulation) for process in range(processes)]
    assert {len(share) for share in shares} == {len(whole) * accumulation}
    for step, batch in enumerate(whole):
        parts = [share[step * accumulation + i] for share in shares for i in range(accumulation)]
        weighing = [part for part in parts if part.weights.any()]
        np.testing.assert_array_equal(np.concatenate([part.regions for part in weighing]), batch.regions)
        np.testing.assert_array_equal(np.concatenate([part.context_mask for part in weighing]), batch.context_mask)
        np.testing.assert_array_equal(np.concatenate([part.weights for part in weighing]), batch.weights)


def test_weights_of_a_step_sum_to_one_and_follow_the_classes(grid):
    class_weights = np.array([1.0, 2.0, 5.0])
    for step in BatchPlan(5, parts=4).epoch(grid, class_weights, 0):
        regions = np.concatenate([part.regions for part in step if part.weights.any()])
        weights = np.concatenate([part.weights for part in step if part.weights.any()])
        expected = class_weights[grid.labels[regions]] / class_weights[grid.labels[regions]].sum()
        np.testing.assert_allclose(weights, expected, rtol=1e-6)


def test_starting_at_a_step_leaves_out_those_before_it(grid):
    plan = BatchPlan(5, parts=2, seed=3, context_dropout=0.4)
    everything, rest = draw(plan, grid, accumulation=2), draw(plan, grid, accumulation=2, first_step=2)
    assert len(rest) == len(everything) - 4
    for a, b in zip(rest, everything[4:]):
        np.testing.assert_array_equal(a.regions, b.regions)
        np.testing.assert_array_equal(a.context_mask, b.context_mask)


def test_slide_order_keeps_the_regions_of_a_slide_together(grid):
    order = np.concatenate([b.regions for b in draw(BatchPlan(4, order="slide"), grid)])
    slides = grid.slides[order]
    assert np.count_nonzero(np.diff(slides)) == 3
    assert sorted(order) == list(range(REGIONS))


def test_context_dropout_spares_the_centre_and_masks_the_given_share(grid):
    masks = np.concatenate(
        [b.context_mask for epoch in range(60) for b in draw(BatchPlan(5, context_dropout=0.3), grid, epoch=epoch)]
    )
    assert masks[:, PATCHES // 2].all()
    others = np.delete(masks, PATCHES // 2, axis=1)
    assert abs((~others).mean() - 0.3) < 0.02


@pytest.fixture
def store():
    embeddings = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)).half()

    class Store:
        def __getitem__(self, rows):
            found = embeddings[torch.from_numpy(rows).clamp(min=0)]
            found[rows < 0] = 0
            return found

    return Store()


def test_embedded_regions_mask_what_is_missing_and_what_is_dropped(grid, store):
    keep = np.ones((2, PATCHES), dtype=bool)
    keep[1, 3] = False
    batch = MicroBatch(np.array([2, 7]), np.array([0.5, 0.5], dtype=np.float32), keep, 0)
    found = EmbeddedRegions(grid, store)[batch]
    assert found["patch_embeddings"].shape == (2, PATCHES, 6)
    assert found["labels"].tolist() == grid.labels[[2, 7]].tolist()
    expected = np.ones((2, PATCHES), dtype=bool)
    expected[0, 0] = expected[1, 3] = False
    np.testing.assert_array_equal(found["context_mask"].numpy(), expected)


class CountingSource:
    """Patches whose pixels hold their number, their row and their column."""

    def __init__(self):
        self.opened = []

    def read(self, name):
        self.opened.append(name)
        row, column = np.mgrid[:4, :4]
        return np.stack([np.full((4, 4), int(name)), row, column], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("number", range(8))
def test_pixel_regions_show_what_turning_the_whole_region_shows(grid, number):
    source = CountingSource()
    names = [str(i) for i in range(40)]
    regions = np.array([2, 5, 9])
    keep = np.ones((3, PATCHES), dtype=bool)
    batch = MicroBatch(regions, np.ones(3, dtype=np.float32), keep, number)
    found = PixelRegions(grid, names, source)[batch]
    patches, index, mask = (found[key].numpy() for key in ("patches", "patch_index", "context_mask"))
    assert sorted(source.opened) == sorted(set(source.opened)), "a shared patch is opened once"
    for i, region in enumerate(regions):
        whole = np.zeros((12, 12, 3), dtype=np.uint8)
        for place, row in enumerate(grid.rows[region]):
            if row >= 0:
                top, left = divmod(place, 3)
                whole[top * 4 : top * 4 + 4, left * 4 : left * 4 + 4] = CountingSource().read(str(row))
        whole = np.rot90(whole, number % 4)
        whole = whole[:, ::-1] if number >= 4 else whole
        for place in range(PATCHES):
            top, left = divmod(place, 3)
            tile = whole[top * 4 : top * 4 + 4, left * 4 : left * 4 + 4]
            assert bool(mask[i, place]) == bool(tile.any())
            if mask[i, place]:
                np.testing.assert_array_equal(patches[index[i, place]], tile)


def test_the_eight_turns_are_all_different():
    array = np.arange(9).reshape(3, 3)
    assert len({turn(array, number, (0, 1)).tobytes() for number in range(8)}) == 8
    np.testing.assert_array_equal(turn(array, 0, (0, 1)), array)


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_leaves_torchs_random_state_alone(grid, store, workers):
    sampler = MicroBatchSampler(BatchPlan(5), grid, np.ones(3), 0, 1)
    before = torch.get_rng_state()
    batches = list(micro_batch_loader(EmbeddedRegions(grid, store), sampler, workers))
    assert torch.equal(torch.get_rng_state(), before)
    assert sum(len(batch["labels"]) for batch in batches) == REGIONS


@pytest.mark.parametrize("first_step", [0, 3])
def test_reading_ahead_brings_the_batches_of_the_sampler_in_order(grid, store, first_step):
    regions = EmbeddedRegions(grid, store)
    sampler = MicroBatchSampler(BatchPlan(2, seed=3, context_dropout=0.4), grid, np.ones(3), 0, 1)
    sampler.start_at(1, first_step)
    expected = [regions[batch] for batch in sampler]
    before = torch.get_rng_state()

    found = list(EmbeddedBatchLoader(regions, sampler))

    assert torch.equal(torch.get_rng_state(), before)
    assert len(found) == len(expected) == 12 - first_step
    for batch, other in zip(found, expected):
        assert batch.keys() == other.keys()
        for key, tensor in batch.items():
            assert torch.equal(tensor, other[key])


def test_batches_are_read_while_the_model_works_on_an_earlier_one():
    read = {number: threading.Event() for number in range(9)}

    class Regions:
        def __getitem__(self, number):
            read[number].set()
            return {"number": torch.tensor(number)}

    batches = iter(EmbeddedBatchLoader(Regions(), range(9)))
    assert next(batches)["number"] == 0
    assert read[1].wait(timeout=10)
    assert not read[8].is_set(), "memory holds a few batches, not the epoch"
    assert [int(batch["number"]) for batch in batches] == list(range(1, 9))


def test_an_error_in_reading_ahead_is_raised_where_its_batch_would_come():
    class Regions:
        def __getitem__(self, number):
            if number == 2:
                raise OSError("the disk is gone")
            return {"number": torch.tensor(number)}

    batches = iter(EmbeddedBatchLoader(Regions(), range(9)))
    assert [int(next(batches)["number"]) for _ in range(2)] == [0, 1]
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)


def test_an_epoch_that_is_left_leaves_no_thread_behind(grid, store):
    before = threading.active_count()
    sampler = MicroBatchSampler(BatchPlan(2), grid, np.ones(3), 0, 1)
    batches = iter(EmbeddedBatchLoader(EmbeddedRegions(grid, store), sampler))
    next(batches)
    assert threading.active_count() > before
    batches.close()
    assert threading.active_count() == before


def test_evaluation_brings_every_region_once_in_order_with_all_its_context(grid, store):
    batches = list(evaluation_loader(EmbeddedRegions(grid, store), batch_size=6, num_workers=0))
    assert torch.cat([batch["regions"] for batch in batches]).tolist() == list(range(REGIONS))
    masks = torch.cat([batch["context_mask"] for batch in batches]).numpy()
    np.testing.assert_array_equal(masks, grid.rows >= 0)


def test_balanced_weights_give_every_class_the_same_total():
    labels = np.array([0] * 6 + [1] * 3 + [2])
    weights = class_weights_of(labels, 3, "balanced")
    np.testing.assert_allclose(weights * np.bincount(labels), [10 / 3] * 3)
    np.testing.assert_array_equal(class_weights_of(labels, 3, "none"), [1, 1, 1])
