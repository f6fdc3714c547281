"""Small slides for the tests: tissue with glass around it, and tiled TIFF pyramids of them."""

import numpy as np
import tifffile

GLASS = (243, 241, 244)


def draw_slide(width, height, seed=0):
    """uint8 `(height, width, 3)`: pink, coarse noise that touches two edges, a second piece, and glass."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 110, (height // 6 + 2, width // 6 + 2, 3))
    noise = np.kron(coarse, np.ones((6, 6, 1), dtype=int))[:height, :width]
    tissue = np.clip(np.array([225, 130, 190]) - noise, 0, 255).astype(np.uint8)
    y, x = np.mgrid[:height, :width] / np.array([height, width]).reshape(2, 1, 1)
    inside = (y > 0.35 + 0.3 * x) & (x < 0.62) | ((x - 0.8) ** 2 / 0.02 + (y - 0.25) ** 2 / 0.03 < 1)
    slide = np.empty((height, width, 3), dtype=np.uint8)
    slide[:] = GLASS
    slide[inside] = tissue[inside]
    return slide


def write_pyramid(path, pixels, mpp, factors=(1, 4), description=None):
    """A tiled TIFF that OpenSlide reads, without loss; each level is made of means of whole squares of px.

    `description` "aperio" makes it an Aperio slide, whose um/px stand in its text, not in the resolution tags.
    """
    height, width = pixels.shape[:2]
    text = f"Aperio Image Library v11.2.1 \n{width}x{height} (64x64) RGB|AppMag = 20|MPP = {mpp}"
    with tifffile.TiffWriter(path) as file:
        for number, factor in enumerate(factors):
            level = means_of_squares(pixels, factor)
            resolution = (
                {} if mpp is None else {"resolution": (1e4 / mpp / factor,) * 2, "resolutionunit": "CENTIMETER"}
            )
            file.write(
                level,
                tile=(64, 64),
                photometric="rgb",
                compression="deflate" if description is None else None,
                subfiletype=int(number > 0),
                description=text if description and number == 0 else None,
                metadata=None,
                **resolution,
            )
    return path


def means_of_squares(pixels, factor):
    """The pixels reduced by a whole factor; an incomplete square at the edge is left out, as scanners do it."""
    height, width = (side // factor for side in pixels.shape[:2])
    squares = pixels[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    return np.rint(squares.mean(axis=(1, 3))).astype(np.uint8)


def resampled(pixels, factor):
    """The whole image reduced by a triangle filter, with one dense matrix per axis; halves are rounded up."""

    def weights(length):
        centers = (np.arange(int(length / factor + 1e-6)) + 0.5) * factor
        distances = np.abs(np.arange(length) + 0.5 - centers[:, None])
        triangle = np.maximum(0, 1 - distances / max(factor, 1.0))
        return triangle / triangle.sum(axis=1, keepdims=True)

    down, across = (weights(side) for side in pixels.shape[:2])
    exact = np.stack([down @ pixels[..., channel].astype(np.float64) @ across.T for channel in range(3)], axis=-1)
    return np.floor(exact + 0.5 + 1e-6).astype(np.uint8)
