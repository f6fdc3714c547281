"""The picture of a region: where its patches lie, which one is named, and how much the model looked at each."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_SIDE = 1000  # px of the picture
_LOOKED_AT = np.array([0, 105, 60], np.float32)  # green, which neither haematoxylin nor eosin is
_STRONGEST = 0.5  # share of that colour where the model looks most
_LINE, _CENTER, _HALO = (255, 255, 255), (0, 0, 0), (255, 255, 255)


def draw_attention(pixels: np.ndarray, attention: np.ndarray, mask: np.ndarray, patch_size: int) -> Image.Image:
    """The classified part of an image under its grid of patches; a greener patch was looked at more.

    Args:
        pixels: uint8 `(height, width, 3)`.
        attention: Float `(n, n)`, summing to 1.
        mask: Bool `(n, n)`, True where a patch is present.
        patch_size: Side of a patch in px.

    Returns:
        RGB, `_SIDE` px a side.
    """
    count = len(attention)
    shown = _region(pixels, count * patch_size).astype(np.float32)
    strength = _STRONGEST * attention / max(float(attention.max()), 1e-9)
    shares = np.kron(strength, np.ones((patch_size, patch_size)))[..., None].astype(np.float32)
    absent = np.kron(~mask, np.ones((patch_size, patch_size), dtype=bool))
    shown += shares * (_LOOKED_AT - shown)
    shown[absent] = 0.25 * shown[absent] + 0.75 * 255
    picture = Image.fromarray(np.rint(shown).astype(np.uint8)).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    _draw_grid(ImageDraw.Draw(picture), attention, mask)
    return picture


def _region(pixels: np.ndarray, size: int) -> np.ndarray:
    """The part of an image that the image processor takes, `(size, size, 3)`, white where there is none."""
    region = np.full((size, size, 3), 255, np.uint8)
    (top, height), (left, width) = ((max(0, (length - size) // 2), min(length, size)) for length in pixels.shape[:2])
    down, right = (size - height) // 2, (size - width) // 2
    region[down : down + height, right : right + width] = pixels[top : top + height, left : left + width]
    return region


def _draw_grid(draw: ImageDraw.ImageDraw, attention: np.ndarray, mask: np.ndarray) -> None:
    count = len(attention)
    edges = [round(i * _SIDE / count) for i in range(count + 1)]
    for edge in edges[1:-1]:
        draw.line((edge, 0, edge, _SIDE), fill=_LINE, width=2)
        draw.line((0, edge, _SIDE, edge), fill=_LINE, width=2)
    font = ImageFont.load_default(size=round(min(34, 0.2 * _SIDE / count)))
    for row in range(count):
        for column in range(count):
            text = f"{attention[row, column]:.0%}" if mask[row, column] else "missing"
            place = (edges[column] + 8, edges[row + 1] - 6)
            draw.text(place, text, fill=_CENTER, font=font, anchor="ld", stroke_width=3, stroke_fill=_HALO)
    low, high = edges[count // 2], edges[count // 2 + 1]
    draw.rectangle((low - 3, low - 3, high + 3, high + 3), outline=_HALO, width=2)
    draw.rectangle((low - 1, low - 1, high + 1, high + 1), outline=_CENTER, width=6)
