"""Areas of tissue against those that were drawn: a cell of the map counts as much as there is tissue in it."""

import numpy as np
import pytest
from PIL import Image
from slide_files import GLASS
from slide_predictions import CLASS_NAMES

from spider_tools.slide_files.lattice import Lattice
from spider_tools.slide_files.reader import open_slide
from spider_tools.slides.composition import make_composition
from spider_tools.slides.predictions import SlidePredictions
from spider_tools.tissue.tissue_mask import find_tissue

MPP = 0.5
SIZE = 224 * 8  # px, 0.9 mm
Y, X = np.mgrid[:SIZE, :SIZE] * MPP  # um
SHAPES = {
    "a needle core 50 um wide": np.abs(X - 0.35 * Y - 180) < 25 * np.sqrt(1 + 0.35**2),
    "a needle core 200 um wide": np.abs(Y - 430) < 100,
    "a disk": (X - 400) ** 2 + (Y - 460) ** 2 < 260**2,
    "a ring": np.abs(np.hypot(X - 450, Y - 450) - 300) < 60,
    "two pieces": ((X - 250) ** 2 + (Y - 250) ** 2 < 140**2) | ((np.abs(X - 650) < 120) & (np.abs(Y - 600) < 200)),
}


def predictions_of(shape, tmp_path, stride):
    """As a run would make them, of one class."""
    texture = np.random.default_rng(0).integers(-25, 26, (SIZE, SIZE, 1))
    pixels = np.where(shape[..., None], np.array([200, 120, 170]) + texture, GLASS).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "slide.png")
    lattice = Lattice(224, stride, 5, (SIZE, SIZE), (1.0, 1.0))
    mask = find_tissue(open_slide(tmp_path / "slide.png", mpp=MPP), lattice)
    cells = mask.cells(lattice, 0.1)
    probabilities = np.tile(np.array([0.7, 0.1, 0.1, 0.1], dtype=np.float32), (cells.sum(), 1))
    return SlidePredictions(
        lattice,
        (MPP, MPP),
        np.argwhere(cells),
        probabilities,
        CLASS_NAMES,
        tissue_share=mask.share(lattice)[cells],
        found_mm2=mask.area_mm2((MPP, MPP)),
    )


@pytest.mark.parametrize("stride", [224, 56])
@pytest.mark.parametrize("name", SHAPES)
def test_an_area_is_that_of_the_tissue_within_5_percent(name, stride, tmp_path):
    predictions = predictions_of(SHAPES[name], tmp_path, stride)
    drawn = SHAPES[name].sum() * (MPP / 1000) ** 2
    composition = make_composition(predictions)
    classified = composition["tissue_mm2"]
    assert classified / (1 - composition["percent_left_out"] / 100) == pytest.approx(drawn, rel=0.05)
    inside = np.zeros_like(SHAPES[name])  # of cells that are predicted
    margin = round(predictions.lattice.cell_offset)
    for row, column in predictions.positions:
        y, x = margin + row * stride, margin + column * stride
        inside[y : y + stride, x : x + stride] = True
    assert classified == pytest.approx((SHAPES[name] & inside).sum() * (MPP / 1000) ** 2, rel=0.05)
    assert composition["cells_mm2"] == pytest.approx(len(predictions.positions) * (stride * MPP / 1000) ** 2)
    assert composition["classes"]["Stroma"]["area_mm2"] == pytest.approx(composition["tissue_mm2"])
    assert composition["cells_mm2"] > composition["tissue_mm2"]
    if name == "a needle core 50 um wide" and stride == 224:
        assert composition["cells_mm2"] > 2 * drawn
