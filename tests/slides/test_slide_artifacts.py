"""What lies on slides and is no tissue: markers' ink is told by its colours, and glass need not be white."""

import numpy as np
import pytest
from PIL import Image, ImageDraw
from slide_files import GLASS

from spider_tools.slide_files.lattice import Lattice
from spider_tools.slide_files.reader import open_slide
from spider_tools.slides import outputs, pictures
from spider_tools.tissue.artifacts import glass_of, ink_of
from spider_tools.tissue.pixel_tissue import tissue_of
from spider_tools.tissue.search import TissueSearch
from spider_tools.tissue.tissue_mask import find_tissue

HEIGHT, WIDTH = 240, 320  # px of 8 um
INKS = {
    "blue": [(25, 45, 160), (60, 90, 200), (10, 20, 90)],
    "green": [(10, 120, 70), (60, 170, 110), (0, 90, 80)],
    "red": [(210, 25, 35), (230, 60, 50), (160, 15, 20)],
    "black": [(22, 22, 26), (50, 48, 52), (70, 66, 72)],
}
ALL_INKS = [(name, color) for name, colors in INKS.items() for color in colors]


def tissue_pixels(strength=1.0, glass=GLASS, seed=0):
    """A piece of drawn H&E on glass: stroma, glands of dark nuclei, red cells; and where it is."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    inside = ((x - 120) / 90) ** 2 + ((y - 120) / 80) ** 2 < 1
    color = np.array([222, 150, 190.0]) + rng.normal(0, 14, (HEIGHT, WIDTH, 1))
    nuclei = rng.random((HEIGHT, WIDTH)) < 0.25
    color[nuclei] = np.array([95, 60, 140]) + rng.normal(0, 10, (nuclei.sum(), 1))
    cells = (np.hypot(x - 150, y - 150) < 9) & inside
    color[cells] = (200, 70, 100)
    optical = np.log(255 / np.clip(color, 1, 254)) * strength
    light = np.array(glass) / 255 * np.where(inside[..., None], np.exp(-optical), 1)
    pixels = 255 * light + rng.normal(0, 1.2, (HEIGHT, WIDTH, 3))
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8), inside


def with_strokes(pixels, color, points=((230, 20), (300, 60), (240, 110), (310, 160), (235, 220)), width=5):
    """A stroke beside the tissue, as smooth as ink is, with mixed px at its edge; and where it is."""
    large = Image.new("L", (WIDTH * 4, HEIGHT * 4))
    ImageDraw.Draw(large).line([(4 * x, 4 * y) for x, y in points], fill=255, width=4 * width, joint="curve")
    amount = np.asarray(large.resize((WIDTH, HEIGHT), Image.Resampling.BOX), dtype=np.float64)[..., None] / 255
    inked = pixels * (1 - amount) + np.array(color) * amount
    return np.rint(inked).astype(np.uint8), amount[..., 0] > 0.5


@pytest.mark.parametrize(("name", "color"), ALL_INKS)
@pytest.mark.parametrize("width", [2, 5, 14])
def test_ink_beside_tissue_is_left_out_and_the_tissue_is_kept(name, color, width):
    pixels, inside = tissue_pixels()
    inked, stroke = with_strokes(pixels, color, width=width)
    before, found = tissue_of(pixels), tissue_of(inked)
    assert found.ink[stroke].mean() > 0.97
    assert (found.mask & stroke).sum() == 0
    assert (found.mask & ~inside)[:, 215:].sum() < 20  # of the fringe of the stroke nothing is left to speak of
    agreement = (found.mask & before.mask).sum() / (found.mask | before.mask)[:, :215].sum()
    assert agreement > 0.97


@pytest.mark.parametrize("color", [colors[0] for colors in INKS.values()])
def test_ink_over_tissue_is_left_out_of_it(color):
    pixels, _ = tissue_pixels()
    inked, stroke = with_strokes(pixels, color, points=((60, 60), (120, 150), (190, 130)), width=6)
    found = tissue_of(inked)
    assert not found.mask[stroke].any()
    assert found.mask.sum() > 0.75 * tissue_of(pixels).mask.sum()


@pytest.mark.parametrize("strength", [0.2, 0.5, 1.0, 1.6])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_stain_is_taken_for_ink(strength, seed):
    pixels, _ = tissue_pixels(strength, seed=seed)
    assert not ink_of(pixels).any()


@pytest.mark.parametrize("strength", [0.2, 0.35, 1.0])
@pytest.mark.parametrize("glass", [GLASS, (250, 250, 250), (232, 226, 205), (220, 235, 222)])
def test_pale_tissue_is_found_on_glass_of_any_tint(strength, glass):
    pixels, inside = tissue_pixels(strength, glass)
    mask = tissue_of(pixels).mask
    assert (mask & inside).sum() / (mask | inside).sum() > 0.93


@pytest.mark.parametrize("saturation", [0.0, 0.05, 0.1, 0.15])
@pytest.mark.parametrize("channel", [0, 1, 2])
def test_blank_glass_that_is_tinted_is_no_tissue(saturation, channel):
    glass = np.full(3, 240.0)
    glass[channel] *= 1 - saturation
    pixels = np.rint(glass + np.random.default_rng(0).normal(0, 1.5, (HEIGHT, WIDTH, 3))).astype(np.uint8)
    assert not tissue_of(pixels).mask.any()
    np.testing.assert_allclose(glass_of(pixels).color, glass, atol=1.5)


def test_ink_is_kept_and_a_threshold_is_taken_when_told_to():
    inked, stroke = with_strokes(tissue_pixels()[0], (25, 45, 160))
    kept = tissue_of(inked, TissueSearch(keep_artifacts=True))
    assert kept.ink is None
    assert kept.mask[stroke].mean() > 0.9
    pale = tissue_pixels(0.2)[0]
    assert tissue_of(pale, TissueSearch(threshold=0.3)).mask.sum() < 0.1 * tissue_of(pale).mask.sum()
    assert tissue_of(pale, TissueSearch(threshold=0.3)).threshold == 0.3


def test_a_slide_with_ink_has_the_cells_of_its_tissue_and_the_picture_crosses_it_out(tmp_path):
    pixels, _ = tissue_pixels()
    lattice = Lattice(112, 112, 5, (WIDTH * 8, HEIGHT * 8), (1.0, 1.0))

    def found(name, content):
        large = Image.fromarray(content).resize((WIDTH * 8, HEIGHT * 8), Image.Resampling.NEAREST)
        large.save(tmp_path / name)
        slide = open_slide(tmp_path / name, mpp=1.0)
        return slide, find_tissue(slide, lattice)

    _, clean = found("clean.png", pixels)
    inked = pixels
    for number, color in enumerate(colors[0] for colors in INKS.values()):
        x = 225 + 20 * number
        inked, _ = with_strokes(inked, color, points=((x, 15), (x + 10, 225)), width=6)
    slide, dirty = found("dirty.png", inked)
    np.testing.assert_array_equal(dirty.cells(lattice, 0.1), clean.cells(lattice, 0.1))
    assert clean.left_out.shares["pen"] == 0
    assert 0.03 < dirty.left_out.shares["pen"] < 0.12
    thumbnail = pictures.make_thumbnail(slide)
    figure = pictures.draw_tissue(thumbnail, dirty, dirty.cells(lattice, 0.1), lattice, slide.mpp)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        f"pen {dirty.left_out.shares['pen']:.1%} of the slide"
    ]
    assert outputs.as_png(figure) != outputs.as_png(
        pictures.draw_tissue(thumbnail, clean, clean.cells(lattice, 0.1), lattice, slide.mpp)
    )
