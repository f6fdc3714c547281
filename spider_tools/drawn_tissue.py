"""Drawn H&E-like tissue, patch by patch: what the demo learns from, and what two models are compared on."""

import math

import numpy as np
from PIL import Image, ImageDraw


def draw_patch(tissue: str, size: int, rng: np.random.Generator) -> Image.Image:
    """An RGB image of `size` px a side that shows a tissue of `TISSUES`."""
    tile = Image.new("RGB", (size, size))
    _PAINTERS[tissue](ImageDraw.Draw(tile), size, rng)
    return tile


def draw_mosaics(count: int, patches: int, size: int, seed: int = 0) -> list[np.ndarray]:
    """Regions whose patches are of any tissue and colour, so that what is done with each shows in the result.

    Args:
        count: Of regions.
        patches: Along one side of a region.
        size: Side of a patch in px.
        seed: Same seed, same regions.

    Returns:
        uint8 `(patches * size, patches * size, 3)` each.
    """
    rng = np.random.default_rng(seed)
    side = patches * size
    regions = []
    for _ in range(count):
        pixels = np.empty((side, side, 3), np.uint8)
        for row in range(0, side, size):
            for column in range(0, side, size):
                patch = np.asarray(draw_patch(str(rng.choice(TISSUES)), size, rng), np.float32) / 255
                stained = patch ** rng.uniform(0.3, 3, size=3) + rng.normal(0, 0.03, size=patch.shape)
                pixels[row : row + size, column : column + size] = (stained.clip(0, 1) * 255).astype(np.uint8)
        regions.append(pixels)
    return regions


def _shade(rng: np.random.Generator, color: tuple[int, int, int], spread: int = 12) -> tuple[int, ...]:
    return tuple(int(v) for v in np.clip(np.array(color) + rng.integers(-spread, spread + 1), 0, 255))


def _dots(draw: ImageDraw.ImageDraw, size: int, rng: np.random.Generator, count: int, radii: tuple) -> None:
    """Nuclei: `count` purple ellipses with the half axes `radii` at 224 px."""
    rx, ry = (r * size / 224 for r in radii)
    for x, y in rng.uniform(0, size, size=(count, 2)):
        draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=_shade(rng, (90, 50, 130)))


def _fibres(draw: ImageDraw.ImageDraw, size: int, rng: np.random.Generator, colors: tuple, period: float) -> None:
    """Wavy horizontal bands that alternate between two colours, `period` px high at 224 px."""
    draw.rectangle((0, 0, size, size), fill=_shade(rng, colors[0], 5))
    step = period * size / 224
    phase, wave = rng.uniform(0, 2 * math.pi), rng.uniform(0.5, 1.5)
    for y in np.arange(-step, size + step, step):
        line = [
            (x, y + step * math.sin(phase + wave * 2 * math.pi * x / size)) for x in np.linspace(0, size, 12).tolist()
        ]
        draw.line(line, fill=_shade(rng, colors[1]), width=max(1, int(step * 0.45)))


def _paint_stroma(draw: ImageDraw.ImageDraw, size: int, rng: np.random.Generator) -> None:
    _fibres(draw, size, rng, ((242, 205, 220), (230, 178, 202)), period=28)
    _dots(draw, size, rng, count=10, radii=(9, 3))


def _paint_muscle(draw: ImageDraw.ImageDraw, size: int, rng: np.random.Generator) -> None:
    _fibres(draw, size, rng, ((214, 120, 150), (196, 92, 128)), period=14)
    _dots(draw, size, rng, count=14, radii=(10, 3))


def _paint_fat(draw: ImageDraw.ImageDraw, size: int, rng: np.random.Generator) -> None:
    draw.rectangle((0, 0, size, size), fill=_shade(rng, (247, 243, 247), 4))
    radius = 34 * size / 224
    for x, y in rng.uniform(0, size, size=(16, 2)):
        box = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(box, outline=_shade(rng, (222, 170, 195)), width=max(1, size // 75))


def _paint_gland(draw: ImageDraw.ImageDraw, size: int, rng: np.random.Generator) -> None:
    draw.rectangle((0, 0, size, size), fill=_shade(rng, (205, 150, 195), 6))
    for corner_x in (0.25, 0.75):
        for corner_y in (0.25, 0.75):
            x, y = (size * (corner + rng.uniform(-0.04, 0.04)) for corner in (corner_x, corner_y))
            radius = size * rng.uniform(0.16, 0.21)
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_shade(rng, (246, 240, 246), 5))
            for angle in np.linspace(0, 2 * math.pi, 22, endpoint=False).tolist():
                cx, cy, r = x + radius * math.cos(angle), y + radius * math.sin(angle), size * 0.026
                draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=_shade(rng, (90, 50, 130)))


def _paint_lymphocytes(draw: ImageDraw.ImageDraw, size: int, rng: np.random.Generator) -> None:
    draw.rectangle((0, 0, size, size), fill=_shade(rng, (190, 165, 210), 6))
    _dots(draw, size, rng, count=230, radii=(6, 6))


def _paint_mucus(draw: ImageDraw.ImageDraw, size: int, rng: np.random.Generator) -> None:
    _fibres(draw, size, rng, ((205, 215, 232), (186, 200, 226)), period=40)


_PAINTERS = {
    "Stroma": _paint_stroma,
    "Muscle": _paint_muscle,
    "Fat": _paint_fat,
    "gland": _paint_gland,
    "lymphocytes": _paint_lymphocytes,
    "mucus": _paint_mucus,
}

TISSUES = tuple(_PAINTERS)
