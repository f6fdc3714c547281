"""Folds and bubbles that are drawn are found where they are, and what only looks like them is left alone."""

import numpy as np
import pytest
from drawn_artifacts import HEIGHT, WIDTH, band, drawn_tissue, folded, mixed, with_bubble
from PIL import Image

from spider_tools.slide_files.reader import open_slide
from spider_tools.tissue.artifacts import glass_of, on_white_glass
from spider_tools.tissue.bubbles import bubbles_of
from spider_tools.tissue.folds import folds_of
from spider_tools.tissue.pixel_tissue import tissue_of

CURVE = ((70, 100), (130, 130), (180, 95), (230, 120))
RED_CELLS, LYMPHOCYTES, MUSCLE = (196, 60, 92), (112, 84, 160), (214, 110, 150)


def folds(pixels):
    return folds_of(on_white_glass(pixels, glass_of(pixels)), tissue_of(pixels).mask)


def bubbles(pixels):
    return bubbles_of(on_white_glass(pixels, glass_of(pixels)))


@pytest.mark.parametrize("width", [4, 8, 16])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_a_drawn_fold_is_found_and_little_else(width, strength):
    share = band(CURVE, width)
    found = folds(folded(drawn_tissue(strength)[0], share))
    assert found[share > 0.5].mean() > 0.9
    assert found[share == 0].mean() < 0.01


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("strength", [0.3, 1.0, 1.6])
def test_tissue_without_a_fold_has_none(seed, strength):
    pixels, _ = drawn_tissue(strength, seed)
    assert not folds(pixels).any()
    assert not bubbles(pixels).any()


@pytest.mark.parametrize("color", [RED_CELLS, LYMPHOCYTES, MUSCLE])
@pytest.mark.parametrize("width", [4, 8, 16])
def test_a_band_of_another_tissue_is_no_fold(color, width):
    pixels, _ = drawn_tissue()
    texture = np.random.default_rng(1).normal(0, 8, (HEIGHT, WIDTH, 1))
    assert not folds(mixed(pixels, np.clip(np.array(color) + texture, 0, 255), band(CURVE, width))).any()


def test_a_dark_edge_of_the_tissue_and_a_dark_lump_are_no_folds():
    pixels, inside = drawn_tissue()
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    edge = inside & (((x - 150) / 120) ** 2 + ((y - 120) / 95) ** 2 > 1)
    lump = np.hypot(x - 150, y - 120) < 25
    assert not folds(folded(pixels, edge)).any()
    assert not folds(folded(pixels, lump)).any()


@pytest.mark.parametrize("radius", [18, 30, 60])
@pytest.mark.parametrize(("center", "rim"), [((150, 120), 2), ((150, 120), 4), ((262, 60), 3)])
def test_a_drawn_bubble_is_found_with_what_lies_in_it(radius, center, rim):
    if radius == 60 and center[0] > 200:
        center = (240, 90)
    pixels, bubble = with_bubble(drawn_tissue()[0], center, radius, rim)
    found = bubbles(pixels)
    assert found[bubble].mean() > 0.95
    assert (found & ~bubble).sum() < 0.25 * bubble.sum()


@pytest.mark.parametrize("rim", [2, 4, 12])
def test_tissue_that_a_pen_has_ringed_is_no_bubble(rim):
    assert not bubbles(with_bubble(drawn_tissue()[0], radius=40, rim=rim, washed=1.0)[0]).any()
    assert not bubbles(with_bubble(drawn_tissue()[0], radius=112, rim=rim, washed=1.0)[0]).any()
    glass = np.full((HEIGHT, WIDTH, 3), 243, np.uint8)
    glass[100:110, 140:160] = (222, 150, 190)  # a small piece of tissue in a large ring on glass
    assert not bubbles(with_bubble(glass, radius=60, rim=rim, washed=1.0)[0]).any()


def test_round_things_of_tissue_are_no_bubbles():
    pixels, _ = drawn_tissue()
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for number, color in enumerate((RED_CELLS, LYMPHOCYTES, MUSCLE)):
        distance = np.hypot(x - 90 - 60 * number, y - 120)
        pixels[distance < 22] = (243, 241, 244)
        pixels[(distance >= 18) & (distance < 22)] = color  # an empty gland or vessel with its wall
    assert not bubbles(pixels).any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (3, 3), (20, 25)])
@pytest.mark.parametrize("color", [(243, 241, 244), (222, 150, 190), (20, 20, 22), (0, 0, 0), (255, 255, 255)])
def test_flat_and_tiny_pictures_have_neither(shape, color):
    pixels = np.full((*shape, 3), color, dtype=np.uint8)
    assert not folds(pixels).any()
    assert not bubbles(pixels).any()


def at_8_um(path, mpp):
    with Image.open(path) as image:
        pixels = image.convert("RGB")
    return np.asarray(pixels.resize([round(side * mpp / 8) for side in pixels.size], Image.Resampling.BOX))


def test_real_skin_and_gut_have_neither(shared_folder):
    slide = open_slide(shared_folder("slides") / "CMU-1-Small-Region.svs")
    skin = Image.fromarray(slide.read_level(0, (0, 0), slide.size))
    pictures = [np.asarray(skin.resize([side // 16 for side in skin.size], Image.Resampling.BOX))]
    fields = sorted((shared_folder("datasets") / "GlaS-fields" / "slides").glob("*.jpg"))
    pictures += [at_8_um(path, 0.62) for path in fields[::5]]
    assert len(pictures) > 20
    for pixels in pictures:
        assert not folds(pixels).any()
        assert not bubbles(pixels).any()
