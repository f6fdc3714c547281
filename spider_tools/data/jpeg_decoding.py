"""Everyday JPEG patches decoded by simplejpeg, where it is installed, in half of Pillow's time and to the same bytes.

Both call libjpeg-turbo. That they agree is tried once in each process, and where they do not, Pillow decodes.
"""

import functools
import io
import itertools
import logging
import os
from collections.abc import Callable

import numpy as np
from PIL import Image

from ..images import to_rgb
from .image_headers import FIRST_BYTES, is_plain_header
from .regular_files import open_regular

logger = logging.getLogger(__name__)

_JPEG = b"\xff\xd8"
_PROGRESSIVE = b"\xff\xc2"  # left to Pillow: versions of the library smooth files that end early in different ways


def read_plain_jpeg(path: str, side: int) -> np.ndarray | None:
    """The pixels of a file that is an everyday JPEG of `side` x `side` px, uint8 `(side, side, 3)`.

    Returns:
        What `images.to_rgb` gives; None where only Pillow can say what the file holds, or what is wrong with it.
    """
    decode = exact_decoder()
    if decode is None:
        return None
    try:
        file, size = open_regular(path)
        try:
            head = os.read(file, FIRST_BYTES)
            if not head.startswith(_JPEG) or _PROGRESSIVE in head or not is_plain_header(head, side):
                return None
            parts = [head]
            while part := os.read(file, size):
                parts.append(part)
        finally:
            os.close(file)
        return decode(b"".join(parts))
    except (OSError, ValueError):  # of the decoder too, which stops where Pillow would only be warned
        return None


@functools.cache
def exact_decoder() -> Callable[[bytes], np.ndarray] | None:
    """A function from the bytes of a JPEG to those pixels that Pillow gives; None if no library here has one."""
    try:
        from simplejpeg import decode_jpeg
    except ImportError:
        return None
    decode = functools.partial(decode_jpeg, colorspace="RGB")
    try:
        same = all(np.array_equal(decode(content), _by_pillow(content)) for content in _samples())
    except ValueError:
        same = False
    if not same:
        logger.warning("simplejpeg decodes to other pixels than Pillow here: Pillow decodes, in twice the time.")
        return None
    return decode


def _by_pillow(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
        return to_rgb(image)


def _samples() -> list[bytes]:
    """JPEGs of noise in grey and in colour, of all samplings and several qualities, whose sides fill no whole block."""
    noise = np.random.default_rng(0).integers(0, 256, (37, 45, 3), dtype=np.uint8)
    samples = []
    for mode, subsampling, quality in itertools.product(("RGB", "L"), (0, 1, 2), (20, 75, 97)):
        buffer = io.BytesIO()
        Image.fromarray(noise).convert(mode).save(buffer, "JPEG", subsampling=subsampling, quality=quality)
        samples.append(buffer.getvalue())
    return samples
