"""Patches side by side on one picture, each over its rank and score."""

import io
import math
from collections.abc import Sequence
from typing import Optional

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MOST = 200
COLUMNS = 10
MARGIN = 8
TEXT_HEIGHT = 18
LEAST_SIDE = 64  # for the text
MOST_SIDE = 224
_TEXT_SIZE = 12


def contact_sheet(pixels: Sequence[Optional[np.ndarray]], captions: Sequence[str]) -> Optional[bytes]:
    """A PNG file of the first 200 patches, ten in a row; None if none of them can be shown.

    Args:
        pixels: Uint8 `(side, side, 3)` each, None for what cannot be shown, whose place is grey. Shown as they are, but
            for those of more than 224 px, which are reduced.
        captions: Of each.
    """
    shown = [None if patch is None else _reduced(patch) for patch in pixels[:MOST]]
    sides = [max(patch.size) for patch in shown if patch is not None]
    if not sides:
        return None
    side = max(LEAST_SIDE, *sides)
    columns = min(COLUMNS, len(shown))
    step_x, step_y = side + MARGIN, side + MARGIN + TEXT_HEIGHT
    size = (MARGIN + columns * step_x, MARGIN + math.ceil(len(shown) / columns) * step_y)
    sheet = Image.new("RGB", size, "white")
    pencil, font = ImageDraw.Draw(sheet), ImageFont.load_default(_TEXT_SIZE)
    for number, (patch, caption) in enumerate(zip(shown, captions)):
        x, y = MARGIN + number % columns * step_x, MARGIN + number // columns * step_y
        if patch is None:
            pencil.rectangle((x, y, x + side - 1, y + side - 1), fill="lightgray")
        else:
            sheet.paste(patch, (x, y))
        pencil.text((x, y + side + 2), caption, fill="black", font=font)
    content = io.BytesIO()
    sheet.save(content, "PNG")
    return content.getvalue()


def _reduced(pixels: np.ndarray) -> Image.Image:
    image = Image.fromarray(pixels)
    if max(image.size) > MOST_SIDE:
        image.thumbnail((MOST_SIDE, MOST_SIDE))
    return image
