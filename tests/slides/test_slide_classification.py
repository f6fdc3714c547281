"""The promise of the tool: every patch is embedded once, and the result is that of one region after the other."""

import itertools
import shutil

import numpy as np
import pytest
import torch
from slide_files import draw_slide, write_pyramid

from spider_tools.slide_files.lattice import Lattice
from spider_tools.slide_files.reader import open_slide
from spider_tools.slide_files.view import SlideView, model_scale
from spider_tools.slides.classification import classify_positions
from spider_tools.slides.embedding import embed_slide, in_reading_order, table_rows
from spider_tools.slides.model import SlideModel
from spider_tools.slides.predictions import SlidePredictions
from spider_tools.slides.saved_embeddings import SavedEmbeddings
from spider_tools.slides.settings import SlideSettings
from spider_tools.tissue.tissue_mask import find_tissue

PATCH = 28


@pytest.fixture
def tiny(make_model, processor):
    """A model with a counter of the patches that its backbone has seen."""
    model = make_model()
    model.seen = 0

    def count(backbone, inputs, output):
        model.seen += len(inputs[0])

    model.backbone.register_forward_hook(count)
    model.for_slides = SlideModel(model, processor.image_processor, torch.device("cpu"))
    return model


@pytest.fixture
def settings(tmp_path):
    return SlideSettings("m", tmp_path, num_workers=0, batch_size=11)


def classified(slide, model, settings, stride=PATCH):
    """Lattice, tissue and logits."""
    view = SlideView(slide, model_scale(slide, 0.5, 0.02))
    lattice = Lattice.on(view, model.config, stride)
    tissue = find_tissue(slide, lattice).cells(lattice, 0.1)
    needed = lattice.with_context(tissue)
    saved = SavedEmbeddings(settings.output_dir, {"slide": slide.identity, "scale": view.scale})
    embed_slide(view, lattice.corners(np.argwhere(needed)), model, saved, settings)
    table = saved.finish(view.scale)
    rows = table_rows(lattice, needed, table)
    return lattice, tissue, classify_positions(model, lattice, tissue, rows, table.embeddings)


def one_region_at_a_time(pixels, corners, model, processor):
    """Logits of regions cut from the whole slide at the model's um/px, in memory; beyond its edge there is no patch."""
    height, width = pixels.shape[:2]
    margin = 2 * PATCH
    padded = np.full((height + 2 * margin, width + 2 * margin, 3), 77, dtype=np.uint8)
    padded[margin:-margin, margin:-margin] = pixels
    logits = []
    for x, y in corners:
        region = padded[y : y + 5 * PATCH, x : x + 5 * PATCH]
        mask = [
            [
                0 <= x + c * PATCH
                and x + (c + 1) * PATCH <= width
                and 0 <= y + r * PATCH
                and y + (r + 1) * PATCH <= height
                for c in range(-2, 3)
            ]
            for r in range(-2, 3)
        ]
        inputs = processor(images=region, return_tensors="pt")
        inputs["context_mask"] = torch.tensor(mask).view(1, 25)
        with torch.no_grad():
            logits.append(model(**inputs).logits[0])
    return torch.stack(logits).numpy()


@pytest.mark.parametrize(
    ("mpp", "size"),
    [(0.5, (443, 328)), (0.499, (443, 328)), (0.25, (887, 655)), (0.2527, (880, 640)), (0.46, (480, 360))],
)
def test_the_logits_of_a_whole_slide_are_those_of_one_region_at_a_time(tmp_path, tiny, settings, processor, mpp, size):
    pixels = draw_slide(*size, seed=5)
    slide = open_slide(write_pyramid(tmp_path / "s.tif", pixels, mpp, factors=(1,)))
    lattice, tissue, logits = classified(slide, tiny.for_slides, settings)
    forwards = tiny.seen

    # The whole slide at once; that these are the right pixels is tested in test_slide_view.
    at_model = pixels if mpp in (0.5, 0.499) else SlideView(slide, lattice.scale).read_all()
    corners = np.argwhere(tissue)[:, ::-1] * PATCH
    expected = one_region_at_a_time(at_model, corners, tiny, processor)
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert forwards == lattice.with_context(tissue).sum() <= tissue.size
    assert tissue[:, 0].any(), "no context beyond the left edge is tested"
    assert tissue[-1].any(), "no context beyond the lower edge is tested"
    assert (~tissue).sum() > 30, "no background is tested"
    assert expected.std(axis=0).min() > 0.05, "a model that ignores its input shows nothing"


@pytest.mark.parametrize("stride", [14, 7])
def test_finer_strides_give_the_same_logits_and_share_embeddings(tmp_path, tiny, settings, processor, stride):
    pixels = draw_slide(290, 215, seed=6)
    slide = open_slide(write_pyramid(tmp_path / "s.tif", pixels, 0.5))
    lattice, tissue, logits = classified(slide, tiny.for_slides, settings, stride)
    forwards = tiny.seen
    expected = one_region_at_a_time(pixels, np.argwhere(tissue)[:, ::-1] * stride, tiny, processor)
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert forwards == lattice.with_context(tissue).sum()
    assert forwards < 2 * tissue.sum()


def test_a_finer_map_of_the_same_slide_embeds_only_what_lies_between(tmp_path, tiny, settings):
    slide = open_slide(write_pyramid(tmp_path / "s.tif", draw_slide(290, 215, seed=6), 0.5))
    lattice, tissue, coarse = classified(slide, tiny.for_slides, settings)
    first = tiny.seen
    finer_lattice, finer_tissue, fine = classified(slide, tiny.for_slides, settings, 14)
    needed = finer_lattice.with_context(finer_tissue)
    on_both = needed[::2, ::2][: lattice.shape[0], : lattice.shape[1]] & lattice.with_context(tissue)
    assert on_both.sum() > 20
    assert tiny.seen == first + needed.sum() - on_both.sum()
    both = finer_tissue[::2, ::2] & tissue
    shared_fine = np.zeros_like(finer_tissue)
    shared_fine[::2, ::2] = both
    np.testing.assert_allclose(fine[shared_fine[finer_tissue]], coarse[both[tissue]], atol=1e-5)

    seen = tiny.seen
    classified(slide, tiny.for_slides, settings)
    assert tiny.seen == seen, "the coarse map is part of the fine one"


@pytest.mark.parametrize("workers", [1, 2])
def test_reading_in_other_processes_changes_nothing(tmp_path, make_model, processor, workers):
    slide = open_slide(write_pyramid(tmp_path / "s.tif", draw_slide(400, 300, seed=7), 0.5))
    results = []
    for number in (0, workers):
        folder = tmp_path / str(number)
        folder.mkdir()
        model = SlideModel(make_model(), processor.image_processor, torch.device("cpu"))
        results.append(classified(slide, model, SlideSettings("m", folder, num_workers=number, batch_size=16))[2])
    np.testing.assert_array_equal(*results)


def test_the_backbone_may_run_in_bfloat16(tmp_path, make_model, processor, settings):
    slide = open_slide(write_pyramid(tmp_path / "s.tif", draw_slide(300, 220, seed=8), 0.5))
    logits = {}
    for dtype in ("float32", "bfloat16"):
        model = SlideModel(make_model(), processor.image_processor, torch.device("cpu"), dtype)
        assert model.bytes_per_patch == {"float32": 128, "bfloat16": 64}[dtype]
        (tmp_path / dtype).mkdir()
        logits[dtype] = classified(slide, model, SlideSettings("m", tmp_path / dtype, num_workers=0))[2]
    difference = np.abs(logits["float32"] - logits["bfloat16"])
    assert 0 < difference.mean() < 0.1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler (g++) on this machine")
def test_the_backbone_may_be_compiled(tmp_path, make_model, processor):
    slide = open_slide(write_pyramid(tmp_path / "s.tif", draw_slide(300, 220, seed=8), 0.5))
    logits = []
    for compiled in (False, True):
        model = SlideModel(make_model(), processor.image_processor, torch.device("cpu"), compiled=compiled)
        folder = tmp_path / str(compiled)
        folder.mkdir()
        logits.append(classified(slide, model, SlideSettings("m", folder, num_workers=0))[2])
    np.testing.assert_allclose(*logits, atol=1e-4)


def test_neighbours_are_read_together():
    corners = np.array([(x, y) for y in range(0, 5600, 224) for x in range(0, 9000, 224)])
    ordered = in_reading_order(np.random.default_rng(0).permutation(corners))
    assert sorted(map(tuple, ordered.tolist())) == sorted(map(tuple, corners.tolist()))
    squares = [tuple(square) for square in (ordered // 1792).tolist()]
    changes = sum(one != other for one, other in itertools.pairwise(squares))
    assert changes == len(set(squares)) - 1, "a square is left and read again"
    assert ordered[:9].tolist() == [[x * 224, 0] for x in range(8)] + [[0, 224]]


def predictions(probabilities, scale=(2.0, 3.0), mpp=(0.25, 0.2)):
    lattice = Lattice(224, 112, 5, (1120, 896), scale)
    positions = np.array([[0, 1], [2, 0], [5, 7]])
    return SlidePredictions(lattice, mpp, positions, np.array(probabilities, dtype=np.float32), ("A", "B", "C"))


def test_places_areas_and_entropy_of_predictions():
    made = predictions([[0.2, 0.7, 0.1], [1, 0, 0], [1 / 3, 1 / 3, 1 / 3]])
    assert made.predicted.tolist() == [1, 0, 0]
    assert made.corners_level0.tolist() == [[224, 0], [0, 672], [7 * 224, 5 * 336]]
    assert made.centers_level0.tolist() == [[224 + 224, 336], [224, 672 + 336], [7 * 224 + 224, 5 * 336 + 336]]
    assert made.cell_area_mm2 == pytest.approx(112 * 2 * 0.25 * 112 * 3 * 0.2 / 1e6)
    assert made.entropy == pytest.approx([0.801819, 0, np.log(3)], abs=1e-5)
    grid = made.map_of(made.predicted, -1)
    assert grid.shape == made.lattice.shape
    assert (grid[0, 1], grid[2, 0], grid[5, 7], (grid == -1).sum()) == (1, 0, 0, grid.size - 3)


def test_equal_patches_are_embedded_once(tiny, settings, tmp_path):
    """What a scanner painted without scanning it, of two colours, and a patch that comes twice."""
    pixels = draw_slide(12 * PATCH, 8 * PATCH, seed=3)
    for column, color in ((6, (255, 255, 255)), (8, (0, 0, 0)), (10, (255, 255, 255))):
        pixels[:, column * PATCH : (column + 2) * PATCH] = color
    pixels[3 * PATCH + 5, 7 * PATCH + 5] = (255, 255, 254)  # one px differs: a patch of its own
    pixels[7 * PATCH :, :PATCH] = pixels[5 * PATCH : 6 * PATCH, 2 * PATCH : 3 * PATCH]
    slide = open_slide(write_pyramid(tmp_path / "s.tif", pixels, 0.5))
    view = SlideView(slide, model_scale(slide, 0.5, 0.02))
    lattice = Lattice.on(view, tiny.config, PATCH)
    corners = lattice.corners(np.argwhere(np.ones(lattice.shape, dtype=bool)))
    saved = SavedEmbeddings(settings.output_dir, {"slide": slide.identity, "scale": view.scale})
    embedded = embed_slide(view, corners, tiny.for_slides, saved, settings)
    different = len({patch.tobytes() for patch in _patches(pixels)})
    assert different < 12 * 8 - 4 * 8
    assert embedded.patches == tiny.seen == different
    table = saved.finish(view.scale)
    found = table.embeddings[torch.from_numpy(table.rows(corners))]
    alone = [
        tiny.for_slides.embed(torch.from_numpy(view.read((x, y), (PATCH, PATCH)))[None])[0] for x, y in corners.tolist()
    ]
    torch.testing.assert_close(found.float(), torch.stack(alone).float(), rtol=1e-5, atol=1e-6)


def _patches(pixels):
    rows, columns = pixels.shape[0] // PATCH, pixels.shape[1] // PATCH
    return [
        pixels[r * PATCH : (r + 1) * PATCH, c * PATCH : (c + 1) * PATCH] for r in range(rows) for c in range(columns)
    ]
