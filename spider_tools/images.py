"""The one decoder: any image that Pillow opens becomes 8-bit RGB, the same for training, slides and masks."""

import numpy as np
from PIL import Image

# What Pillow raises for a file that is no image or not a whole one.
DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, MemoryError, Image.DecompressionBombError)


def unusable_mode(image: Image.Image) -> str | None:
    """Why images of this mode cannot become 8-bit RGB; None if they can."""
    if image.mode in ("I", "F"):
        return f"its mode {image.mode!r} has no fixed range, expected RGB or another mode of 8 or 16 bits."
    return None


def to_rgb(image: Image.Image) -> np.ndarray:
    """Decode an image to uint8 `(height, width, 3)`: transparency is flattened on white, 16 bits become 8."""
    problem = unusable_mode(image)
    if problem:
        raise ValueError(problem)
    if image.mode.startswith("I;16"):
        levels = np.asarray(image)
        return np.repeat(np.rint(levels / 257).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))
