"""Slides and images as levels of pixels: what OpenSlide reads, other TIFFs, and plain images through Pillow."""

import hashlib
import logging
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import numpy as np
import openslide
from PIL import Image

from ..images import DECODING_ERRORS, to_rgb
from ..plain_text import escaped
from .appearance import check_brightness, colour_warnings
from .content import content_sha256, files_of_slide
from .file_check import IMAGE_FORMATS, check_is_file, check_tiff_is_whole, image_error, is_unsupported, open_error
from .pixel_size import MPP_NAMES, Asked, check_given, find_pixel_size, numbers_of
from .slide import Slide, true_levels
from .slide_error import SlideError, UnreadableError
from .tiff_layout import GREY, TiffLayout, check_colours, read_layout
from .tiff_slide import TiffSlide
from .tiff_text import TiffText, read_tiff_text

logger = logging.getLogger(__name__)

_BOUNDS = (
    openslide.PROPERTY_NAME_BOUNDS_X,
    openslide.PROPERTY_NAME_BOUNDS_Y,
    openslide.PROPERTY_NAME_BOUNDS_WIDTH,
    openslide.PROPERTY_NAME_BOUNDS_HEIGHT,
)
_CENTER_OFFSET = ("hamamatsu.XOffsetFromSlideCentre", "hamamatsu.YOffsetFromSlideCentre")
_GENERIC = "generic-tiff"
_GREY_MODES = ("1", "L", "LA", "La", "I", "F")
_FIRST_IS_SLIDE = (_GENERIC, "aperio")  # of other scanners the first directory may be a label


def open_slide(path: Path, mpp: Optional[float] = None, mpp_from_objective: Optional[bool] = None) -> Slide:
    """Open a slide with OpenSlide, a TIFF that it does not read as a whole with tifffile, or an image with Pillow.

    Whatever a reader of the results must know of its um/px is logged, and among the slide's warnings.

    Args:
        path: The file. Of a DICOM or MIRAX slide, any one of the files that OpenSlide takes.
        mpp: um per px of level 0, instead of what the file says.
        mpp_from_objective: Whether the objective power may stand for um/px that nothing says; None where the caller's
            user cannot ask for that.

    Raises:
        SlideError: There is no such file, it is neither slide nor image, it is truncated, its compression is
            unsupported, its pixels are not RGB, or its um/px are unknown, absurd or contradictory.
    """
    if mpp is not None:
        check_given(path, mpp)
    check_is_file(path)
    check_tiff_is_whole(path)
    slide, properties, text = _opened(path)
    found = find_pixel_size(path, Asked(mpp, mpp_from_objective), properties, text)
    slide.mpp, slide.own_mpp = found.mpp, found.own
    slide.mpp_source, slide.mpp_is_guess = found.source, found.is_guess
    slide.warnings = (*found.warnings, *slide.warnings, *colour_warnings(slide))
    for warning in slide.warnings:
        logger.warning("%s: %s", escaped(path.name), warning)
    return slide


def _opened(path: Path) -> tuple[Slide, Mapping[str, str], TiffText]:
    """A slide that does not know its um/px yet, OpenSlide's properties, and what its TIFF says of them."""
    handle, refusal = None, None
    try:
        handle = openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError:
        pass
    except openslide.OpenSlideError as error:
        refusal = open_error(path, str(error))
        if not is_unsupported(str(error)):
            raise refusal from error
    # A copy: they end with the handle, which an error in reading closes.
    properties = {} if handle is None else dict(handle.properties)
    vendor = properties.get(openslide.PROPERTY_NAME_VENDOR)
    if handle is not None and vendor != _GENERIC:
        if vendor in _FIRST_IS_SLIDE:
            check_colours(path)
        slide = _OpenSlideFile(path, handle)
        is_said = numbers_of(properties, MPP_NAMES) is not None
        text = TiffText() if is_said and vendor not in _FIRST_IS_SLIDE else read_tiff_text(path, slide.size)
        return slide, properties, text
    layout = read_layout(path)
    if layout is None:
        if refusal is not None:
            raise refusal
        return _PlainImage(path), {}, TiffText()
    is_first = layout.places[0].directory == 0  # the one that OpenSlide and Pillow take for the slide
    tiff = _generic(path, layout, handle) if handle is not None and is_first else _unknown(path, layout, refusal)
    if layout.bits == 16:
        check_brightness(tiff)
    text = read_tiff_text(path, layout.sizes[0], layout.places[0].directory)
    return tiff, properties if is_first else {}, text


def _generic(path: Path, layout: TiffLayout, handle: openslide.OpenSlide) -> Slide:
    """A TIFF that OpenSlide reads; by it, unless it misses levels or takes for one what is none."""
    slide = _OpenSlideFile(path, handle)
    are_known = {level.size for level in slide.levels} <= set(layout.sizes)
    if are_known and not layout.has_unnamed_channel and not (layout.is_in_subifds and not layout.undecoded[0]):
        if layout.is_in_subifds:
            slide.warnings = (f"Only its full resolution is read, not its lower levels: {layout.undecoded[0]}.",)
        return slide
    return TiffSlide(path, layout.decoded(path), slide.identity)


def _unknown(path: Path, layout: TiffLayout, refusal: Optional[SlideError]) -> Slide:
    """A TIFF that OpenSlide does not read, or of which it reads another image than the slide.

    Args:
        path: The file.
        layout: Its levels.
        refusal: What OpenSlide has against it, if it knows the file.
    """
    is_small = math.prod(layout.sizes[0]) <= (Image.MAX_IMAGE_PIXELS or math.inf)
    is_image = is_small and layout.places[0].directory == 0
    misread = layout.bits == 16 and layout.is_in_planes  # Pillow mixes up what lies where
    if is_image and refusal is None and not misread and (len(layout.places) == 1 or layout.undecoded[0]):
        try:
            return _PlainImage(path)
        except SlideError as error:
            if layout.undecoded[0] or not isinstance(error.__cause__, Image.UnidentifiedImageError):
                raise
    if layout.undecoded[0] and refusal is not None:
        raise refusal
    size = layout.sizes[0]
    content = {"bytes": path.stat().st_size, "size": list(size), "content": content_sha256([path])}
    identity = image_identity(path, size) if is_image else {"format": "tiff", **content}
    return TiffSlide(path, layout.decoded(path), identity)


def image_identity(path: Path, size: tuple[int, int]) -> dict[str, Any]:
    """What tells an image from others, of which the whole file is read."""
    return {"format": "image", "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "size": list(size)}


class _OpenSlideFile(Slide):
    def __init__(self, path: Path, handle: openslide.OpenSlide) -> None:
        self.path = path
        self.levels = true_levels(handle.level_dimensions)
        self.bounds = bounds_of(handle.properties, self.size)
        self.center_offset_nm = numbers_of(handle.properties, _CENTER_OFFSET)
        vendor = handle.properties[openslide.PROPERTY_NAME_VENDOR]
        self.identity = {
            "format": vendor,
            "quickhash": handle.properties.get(openslide.PROPERTY_NAME_QUICKHASH1),
            "bytes": path.stat().st_size,
            "size": list(self.size),
            "content": content_sha256(files_of_slide(path, vendor, handle.properties)),
        }
        self._reported_downsamples = handle.level_downsamples
        self._handle: Optional[openslide.OpenSlide] = handle
        self._process = os.getpid()

    def read_level(self, level: int, corner: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        # OpenSlide takes the corner in level-0 px and divides it by the downsample that it reports itself.
        factor = self._reported_downsamples[level]
        location = (round(corner[0] * factor), round(corner[1] * factor))
        try:
            region = self._read_region(location, level, size)
        except openslide.OpenSlideError:
            try:
                region = self._read_region(location, level, size)  # a disk or a network may have failed only once
            except openslide.OpenSlideError as error:
                where = f"level {level}, x {corner[0]}, y {corner[1]}"
                raise UnreadableError(f"{self.path} is damaged at {where}: {error}.") from error
        return to_rgb(region)

    def _read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        handle = self._own_handle()
        try:
            return handle.read_region(location, level, size)
        except openslide.OpenSlideError:
            self._handle = None  # it answers all that follows with this error
            handle.close()
            raise

    def _own_handle(self) -> openslide.OpenSlide:
        """The handle of this process: a handle must not be shared with the process that this one was forked from."""
        if self._handle is None or self._process != os.getpid():
            try:
                self._handle, self._process = openslide.OpenSlide(self.path), os.getpid()
            except (openslide.OpenSlideError, OSError) as error:
                raise SlideError(f"{self.path} can no longer be opened: {error}.") from error
        return self._handle

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None}


class _PlainImage(Slide):
    """An image without levels, held in memory; its size is limited by `PIL.Image.MAX_IMAGE_PIXELS`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pixels = _decode_image(path)
        self.levels = true_levels([(self._pixels.shape[1], self._pixels.shape[0])])
        self.bounds = (0, 0, *self.size)
        self.identity = image_identity(path, self.size)

    def read_level(self, level: int, corner: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        return self._pixels[corner[1] : corner[1] + size[1], corner[0] : corner[0] + size[0]]


def bounds_of(properties: Mapping[str, str], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """What was scanned, as `Slide.bounds`; QuPath crops a slide only where the file gives all four of them."""
    try:
        x, y, width, height = (int(properties[name]) for name in _BOUNDS)
    except (KeyError, ValueError):
        return (0, 0, *size)
    return (x, y, width, height) if width > 0 and height > 0 else (0, 0, *size)


def _decode_image(path: Path) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=IMAGE_FORMATS) as image:
                is_grey = image.mode in _GREY_MODES or image.mode.startswith("I;16")
                pixels = None if is_grey else to_rgb(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise SlideError(
            f"{path} is a plain image of more than {Image.MAX_IMAGE_PIXELS} px, which has to be decoded as a whole. "
            "Convert it to a tiled pyramidal TIFF first."
        ) from error
    except Image.UnidentifiedImageError as error:
        reason = f"neither a slide that OpenSlide reads nor an image ({', '.join(IMAGE_FORMATS)})"
        raise image_error(path, reason) from error
    except DECODING_ERRORS as error:
        raise image_error(path, f"damaged or incomplete: {error}") from error
    if pixels is None:
        raise SlideError(f"{path} {GREY}")
    return pixels
