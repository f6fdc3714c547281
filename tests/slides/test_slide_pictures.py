"""Colours that all people can tell apart, and pictures of the class map and the probabilities."""

import io

import numpy as np
import pytest
from PIL import Image
from slide_predictions import CLASS_NAMES, make_predictions

from spider_tools.paper_results import organ_names, published_organ
from spider_tools.slides import outputs, pictures
from spider_tools.slides.colors import class_colors


def simulated(rgb, matrix):
    """CIE Lab of a colour as a viewer with this matrix sees it (Machado, Oliveira and Fernandes 2009)."""
    channels = np.asarray(rgb) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    xyz = np.clip(np.asarray(matrix) @ linear, 0, 1) @ np.array(
        [[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]]
    )
    x, y, z = np.cbrt(xyz / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


VIEWERS = {
    "normal": np.eye(3),
    "protanopia": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "deuteranopia": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
}


@pytest.mark.parametrize("viewer", VIEWERS)
@pytest.mark.parametrize(("classes", "least"), [(8, 15), (14, 8)])
def test_colours_differ_for_colour_blind_people_too(viewer, classes, least):
    colors = list(class_colors([f"{i:02}" for i in range(classes)]).values())
    labs = [simulated(color, VIEWERS[viewer]) for color in colors]
    distances = [np.linalg.norm(a - b) for i, a in enumerate(labs) for b in labs[:i]]
    assert min(distances) > least  # a difference of 2 can be seen


def test_a_class_has_one_colour_whatever_the_order_of_the_classes():
    for organ in organ_names():
        names = published_organ(organ).class_names
        colors = class_colors(names)
        assert colors == class_colors(names[::-1])
        assert len(set(colors.values())) == len(names)
    assert len(set(class_colors([f"class {i}" for i in range(80)]).values())) == 80


def colours_in(figure):
    """The colours of more than a few px of a picture."""
    image = np.asarray(Image.open(io.BytesIO(outputs.as_png(figure))).convert("RGB"))
    colours, counts = np.unique(image.reshape(-1, 3), axis=0, return_counts=True)
    return {tuple(colour.tolist()) for colour in colours[counts > 100]}


def test_the_overview_has_a_legend_of_the_classes_that_occur(predictions, thumbnail):
    figure = pictures.draw_overview(thumbnail, predictions, "costs $5 and $6")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["3  Stroma  57.1%", "1  Fat & <oil>  28.6%", "4  Vessels  14.3%"]
    colors = class_colors(CLASS_NAMES)
    shown = colours_in(figure)
    for name in ("Stroma", "Fat & <oil>", "Vessels"):  # in the legend
        assert colors[name] in shown
    assert colors["Never"] not in shown


def test_heatmaps_show_every_class_on_one_scale(predictions, thumbnail):
    figure = pictures.draw_heatmaps(thumbnail, predictions, "slide")
    *panels, bar = figure.axes
    assert [axes.get_title().splitlines()[0] for axes in panels] == list(CLASS_NAMES)
    assert bar.get_ylabel() == "Probability of the class"
    for number, axes in enumerate(panels):
        heat = axes.images[1]
        assert heat.get_clim() == (0, 1)
        shown = heat.get_array()
        np.testing.assert_allclose(shown.compressed(), predictions.probabilities[:, number], rtol=1e-6)
        left, right, bottom, top = heat.get_extent()
        assert (left, right, top, bottom) == pytest.approx((0, 5 * 56 * 0.25 / 1000, 0, 4 * 84 * 0.2 / 1000))


@pytest.mark.parametrize("length", [0.0009, 0.07, 1.0, 4.99, 12.0])
def test_scale_bars_have_round_lengths(length):
    found = pictures._round_length(length)
    assert length / 2.5 <= found <= length
    assert f"{found:e}"[0] in "125"


@pytest.mark.parametrize("size", [(3000, 40), (40, 3000)])
def test_slides_of_extreme_shapes_can_be_drawn(size):
    width, height = size
    predictions = make_predictions(np.arange(width // 28 * (height // 28)).reshape(height // 28, width // 28) % 3)
    pixels = np.full((max(1, height // 2), max(1, width // 2), 3), 200, dtype=np.uint8)
    thumbnail = pictures.Thumbnail(pixels, (width * 0.5 / 1000, height * 0.6 / 1000))
    for draw in (pictures.draw_overview, pictures.draw_heatmaps):
        image = Image.open(io.BytesIO(outputs.as_png(draw(thumbnail, predictions, "s"))))
        assert min(image.size) > 100
        assert max(image.size) < 6000
