"""Training on several views: which region is shown how, from which store, and that a seed decides all of it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from training_runs import PATCHES, REGIONS, assert_equal_weights, weights_of

from spider_tools.data.disturbances import UNDISTURBED, views
from spider_tools.data.disturbed_patches import disturbed, turned_grid
from spider_tools.data.grid import region_grid, rows_among, unique_patch_names
from spider_tools.data.loaders import EmbeddedRegions, EmbeddedViews, MicroBatch, PixelRegions
from spider_tools.flags import as_json
from spider_tools.training import loop
from spider_tools.training.batches import BatchPlan, MicroBatchSampler
from spider_tools.training.progress import Progress
from spider_tools.training.resuming import check_settings
from spider_tools.training.run import train
from spider_tools.training.setup import load_training_data, prepare_accelerator, set_up


def draw(plan, grid, process=0, accumulation=1, epoch=0):
    sampler = MicroBatchSampler(plan, grid, np.ones(3), process, accumulation)
    sampler.start_at(epoch)
    return list(sampler)


def test_every_region_is_shown_once_per_epoch_and_in_every_view_equally_often(grid):
    shown = np.zeros((REGIONS, 4), dtype=int)
    for epoch in range(400):
        batches = draw(BatchPlan(5, views=4), grid, epoch=epoch)
        assert len(batches) == len(draw(BatchPlan(5), grid))
        np.add.at(shown, tuple(np.concatenate([getattr(b, name) for b in batches]) for name in ("regions", "views")), 1)
    assert (shown.sum(axis=1) == 400).all()
    assert np.abs(shown - 100).max() < 45  # five standard deviations


def test_the_same_seed_and_epoch_draw_the_same_views_and_one_view_draws_nothing(grid):
    several = [np.concatenate([b.views for b in draw(BatchPlan(5, seed=s, views=8), grid)]) for s in (3, 3, 4)]
    np.testing.assert_array_equal(several[0], several[1])
    assert several[0].tolist() != several[2].tolist()
    assert not any(b.views.any() for b in draw(BatchPlan(5), grid))


@pytest.mark.parametrize(("processes", "accumulation"), [(1, 3), (3, 2)])
def test_parts_of_a_step_show_the_views_of_one_process(grid, processes, accumulation):
    whole = draw(BatchPlan(5, views=4), grid)
    plan = BatchPlan(5, parts=processes * accumulation, views=4)
    shares = [draw(plan, grid, process, accumulation) for process in range(processes)]
    for step, batch in enumerate(whole):
        parts = [share[step * accumulation + i] for share in shares for i in range(accumulation)]
        shown = np.concatenate([part.views for part in parts if part.weights.any()])
        np.testing.assert_array_equal(shown, batch.views)


class Store:
    """Embeddings that say of which view and which row they are."""

    def __init__(self, view):
        self.view = view

    def __getitem__(self, rows):
        return torch.from_numpy(np.stack([np.full(rows.shape, self.view), rows], axis=-1).astype(np.float16))


def test_every_region_comes_from_the_store_and_the_grid_of_its_view(grid):
    grids = [turned_grid(grid, view.turn) for view in views(4)]
    regions = EmbeddedViews([EmbeddedRegions(g, Store(view)) for view, g in enumerate(grids)])
    assert len(regions) == REGIONS
    numbers, shown = np.array([7, 2, 5, 11, 2, 0]), np.array([3, 1, 0, 3, 2, 1])
    keep = np.random.default_rng(0).random((6, PATCHES)) > 0.3
    weights = np.arange(6, dtype=np.float32)

    found = regions[MicroBatch(numbers, weights, keep, 0, shown)]

    for i, (number, view) in enumerate(zip(numbers, shown)):
        square = np.rot90(grid.rows[number].reshape(3, 3), view)
        assert found["patch_embeddings"][i, :, 0].eq(view).all()
        assert found["patch_embeddings"][i, :, 1].tolist() == square.flatten().tolist()
        assert found["context_mask"][i].tolist() == ((square.flatten() >= 0) & keep[i]).tolist()
    assert found["regions"].tolist() == numbers.tolist()
    assert found["labels"].tolist() == grid.labels[numbers].tolist()
    assert found["weights"].tolist() == weights.tolist()
    first = regions[MicroBatch(numbers, weights, keep, 0)]
    assert first["patch_embeddings"][..., 0].eq(0).all()


# --- Runs


def embedded_from_pixels(setup, data, split, batch, view):
    """Embeddings `(regions, patches, hidden)` of a batch whose regions are all shown in one view."""

    class Stained:
        def read(self, name):
            return disturbed(data.patches.read(name), replace(view, turn=0), mpp=0.5)

    names = unique_patch_names({split: data.splits[split]})
    grid = region_grid(data.splits[split], rows_among(names))
    pixels = PixelRegions(grid, names.to_pylist(), Stained())[replace(batch, turn=view.turn)]
    with torch.no_grad():
        return setup.classifier.eval().embed(pixels)


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_accelerator")
def test_train_is_turned_and_restained_as_pixels_and_validation_is_as_it_is(settings, data_settings):
    settings = replace(settings, views=10)
    accelerator = prepare_accelerator(settings)
    data = load_training_data(accelerator, settings, data_settings)
    setup = set_up(accelerator, settings, data)
    setup.sampler.start_at(0)
    found, batch = next(iter(setup.loader)), next(iter(setup.sampler))
    assert len(set(batch.views.tolist())) > 5

    def compare(found, place, split, batch, view):
        expected = embedded_from_pixels(setup, data, split, batch, view)
        present = found["context_mask"][place]
        embeddings = found["patch_embeddings"][place][present].float()
        torch.testing.assert_close(embeddings, expected[present], atol=2e-3, rtol=1e-3)

    for view in set(batch.views.tolist()):
        place = np.flatnonzero(batch.views == view)
        compare(found, place, "train", batch.of(place), views(10)[view])
    found = next(iter(setup.validation))
    numbers = found["regions"].numpy()
    everything = MicroBatch(numbers, np.ones(len(numbers)), np.ones((len(numbers), 25), dtype=bool), 0)
    compare(found, np.arange(len(numbers)), "validation", everything, UNDISTURBED)


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_accelerator")
def test_a_killed_run_that_goes_on_has_the_weights_of_an_uninterrupted_one(settings, data_settings, monkeypatch):
    store = settings.output_dir.with_name("store")
    settings = replace(settings, views=3, checkpoint_every=2, embedding_store=store)
    whole = train(settings, data_settings)
    one_view = train(replace(settings, output_dir=settings.output_dir / "one", views=1), data_settings)
    assert not torch.equal(weights_of(whole)["classifier.weight"], weights_of(one_view)["classifier.weight"])
    assert json.loads((whole / "config.json").read_text())["training"]["settings"]["views"] == 3
    assert len(list(store.glob("*/index.json"))) == 3

    killed = replace(settings, output_dir=settings.output_dir / "killed")
    step = loop.optimizer_step
    steps = iter(range(3))

    def dies_after_three(*arguments):
        next(steps)
        return step(*arguments)

    monkeypatch.setattr(loop, "optimizer_step", dies_after_three)
    with pytest.raises(StopIteration):
        train(killed, data_settings)
    monkeypatch.setattr(loop, "optimizer_step", step)
    again = replace(killed, resume_from_checkpoint="latest")
    with pytest.raises(ValueError, match="--views was 3, is 2"):
        train(replace(again, views=2), data_settings)
    assert_equal_weights(weights_of(train(again, data_settings)), weights_of(whole))


def test_a_checkpoint_of_a_version_without_views_was_trained_with_one(settings):
    before = as_json(settings)
    del before["views"]
    check_settings(Progress(identity={"settings": before}), settings)
    with pytest.raises(ValueError, match="--views was 1, is 8"):
        check_settings(Progress(identity={"settings": before}), replace(settings, views=8))
