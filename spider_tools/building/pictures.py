"""Pictures to check labels by: a sheet of patches per class, and the labelled patches of each slide."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ..slides.colors import class_colors, class_numbers
from ..slides.pictures import make_thumbnail
from .cases import Case
from .labelling import LabelledSlide, open_case
from .settings import BuildSettings

_SIDE = 112  # px of a patch on a sheet
_ACROSS, _DOWN = 12, 8
_GAP, _LINE = 4, 18


def contact_sheet(title: str, patches: Sequence[tuple[str, Path]]) -> Image.Image:
    """Patches of one class side by side, each with a word below it.

    Args:
        title: Stands on top.
        patches: Pairs of a word and an image file; of more than 96 those that are shown lie evenly among them.
    """
    most = _ACROSS * _DOWN
    shown = [patches[i] for i in np.linspace(0, len(patches) - 1, min(most, len(patches))).round().astype(int)]
    rows = -(-len(shown) // _ACROSS)
    width = _GAP + _ACROSS * (_SIDE + _GAP)
    sheet = Image.new("RGB", (width, _LINE * 2 + rows * (_SIDE + _LINE + _GAP)), "white")
    pencil = ImageDraw.Draw(sheet)
    pencil.text((_GAP, _GAP), title, fill="black")
    for i, (word, path) in enumerate(shown):
        x, y = _GAP + i % _ACROSS * (_SIDE + _GAP), _LINE * 2 + i // _ACROSS * (_SIDE + _LINE + _GAP)
        with Image.open(path) as image:
            sheet.paste(image.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX), (x, y))
        pencil.text((x, y + _SIDE + 2), _shortened(word, pencil), fill="black")
    return sheet


def overlay(
    case: Case, settings: BuildSettings, slide: LabelledSlide, rows: np.ndarray, classes: Sequence[str]
) -> Image.Image:
    """A slide at low magnification with what was drawn on it, and squares where it became patches.

    Args:
        case: Whose slide.
        settings: See there.
        slide: What is on it.
        rows: Of its patches that became regions.
        classes: All classes of the data set, which decide the colours.
    """
    opened, _, lattice = open_case(case, settings)
    thumbnail = make_thumbnail(opened).pixels
    factor = np.array([thumbnail.shape[1] / opened.size[0], thumbnail.shape[0] / opened.size[1]])
    colors, numbers = class_colors(classes), class_numbers(classes)
    image = Image.fromarray(thumbnail)
    pencil = ImageDraw.Draw(image, "RGBA")
    # The middle of each patch, which no other one has: squares of whole patches would lie on each other.
    side, inset = (lattice.level0(np.full((1, 2), px))[0] for px in (float(lattice.stride), lattice.cell_offset))
    side = side * factor
    for row in rows.tolist():
        name, corner = slide.classes[row], (slide.corners_level0[row] + inset) * factor
        box = (*corner, *(corner + side))
        pencil.rectangle(box, outline=(*colors[name], 255), fill=(*colors[name], 70))
        if side.min() >= 12:
            pencil.text((box[0] + 2, box[1]), str(numbers[name]), fill="black")
    for name, polygons in slide.polygons.items():
        for polygon in polygons:
            for ring in (polygon.exterior, *polygon.interiors):
                points = [tuple(point) for point in (np.asarray(ring.coords)[:, :2] * factor).tolist()]
                pencil.line(points, fill=(*colors.get(name, (0, 0, 0)), 255), width=2)
    return _with_legend(image, colors, numbers)


def _with_legend(
    image: Image.Image, colors: Mapping[str, tuple[int, int, int]], numbers: Mapping[str, int]
) -> Image.Image:
    whole = Image.new("RGB", (max(image.width, 300), image.height + _LINE * len(colors) + _GAP), "white")
    whole.paste(image, (0, 0))
    pencil = ImageDraw.Draw(whole)
    for i, name in enumerate(sorted(colors)):
        y = image.height + _GAP + i * _LINE
        pencil.rectangle((_GAP, y, _GAP + 12, y + 12), fill=colors[name], outline="black")
        pencil.text((_GAP + 18, y), f"{numbers[name]} {name}", fill="black")
    return whole


def _shortened(word: str, pencil: ImageDraw.ImageDraw) -> str:
    while len(word) > 4 and pencil.textlength(word) > _SIDE:
        word = f"{word[:-4]}..."
    return word
