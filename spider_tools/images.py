"""The one decoder: any image that Pillow opens becomes 8-bit RGB, the same for training, slides and masks.

The image processor of the model files decodes by the same rules in code of its own, since it travels alone.
"""

import numpy as np
from PIL import Image

# What Pillow raises for a file that is no image or not a whole one.
DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, MemoryError, Image.DecompressionBombError)

_UNUSABLE = ("I", "F", "La")  # no fixed range, or no way to RGB in Pillow
_TRANSPARENT = ("RGBA", "RGBa", "LA", "PA")


def unusable_mode(image: Image.Image) -> str | None:
    """Why images of this mode cannot become 8-bit RGB; None if they can."""
    if image.mode in _UNUSABLE:
        return f"its mode {image.mode!r} has no fixed range, expected RGB or another mode of 8 or 16 bits."
    return None


def to_rgb(image: Image.Image, background: str = "white") -> np.ndarray:
    """Decode an image.

    Args:
        image: Of any mode that `unusable_mode` has nothing against.
        background: Colour that transparency is flattened on.

    Returns:
        uint8 `(height, width, 3)`, writeable and its own. 16-bit levels become the nearest of 8 bits, 65535 being 255.

    Raises:
        ValueError: The mode cannot be used.
        Exception: One of `DECODING_ERRORS`, where the file is damaged.
    """
    problem = unusable_mode(image)
    if problem:
        raise ValueError(problem)
    _load(image)
    if image.mode.startswith("I;16"):
        return np.repeat(np.rint(np.asarray(image) / 257).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        image = image.convert("RGBA")
        pixels = np.asarray(image)
        if pixels[..., 3].min(initial=255) == 255:
            return pixels[..., :3].copy()
        image = Image.alpha_composite(Image.new("RGBA", image.size, background), image)
    return np.array(image.convert("RGB"))


def is_marked(image: Image.Image) -> np.ndarray:
    """Where a drawing is neither black nor transparent, bool `(height, width)`; levels may have any range."""
    _load(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return np.array(image, dtype=bool)
    return to_rgb(image, background="black").max(axis=2) > 0


def _load(image: Image.Image) -> None:
    """Decode an image; one that is damaged is closed, since Pillow hands out its half-decoded px at the next try."""
    try:
        image.load()
    except DECODING_ERRORS:
        image.close()
        raise
