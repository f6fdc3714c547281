"""Slides and images as levels of pixels: what OpenSlide reads, and plain images through Pillow."""

import hashlib
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np
import openslide
from PIL import Image

from ..annotations.frame import Frame
from ..images import DECODING_ERRORS, to_rgb
from .content import content_sha256, files_of_slide
from .file_check import IMAGE_FORMATS, check_is_file, check_tiff_is_whole, image_error, open_error
from .slide_error import SlideError, UnreadableError

_GIVE_MPP = "Give it as --mpp: usually 0.25 for a scan at 40x, 0.5 at 20x."
# Scanners lie between 0.1 and 1 um/px; beyond these bounds the tags of a file hold something else, as dots per inch.
_MPP_RANGE = (0.02, 10.0)
_MPP_RATIO = 1.1
_BOUNDS = (
    openslide.PROPERTY_NAME_BOUNDS_X,
    openslide.PROPERTY_NAME_BOUNDS_Y,
    openslide.PROPERTY_NAME_BOUNDS_WIDTH,
    openslide.PROPERTY_NAME_BOUNDS_HEIGHT,
)
_MPP = (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)
_CENTER_OFFSET = ("hamamatsu.XOffsetFromSlideCentre", "hamamatsu.YOffsetFromSlideCentre")


@dataclass(frozen=True)
class Level:
    """One magnification that a file holds.

    Attributes:
        size: `(width, height)` in px of this level.
        downsample: `(x, y)`, level-0 px per px of this level.
    """

    size: tuple[int, int]
    downsample: tuple[float, float]


class Slide:
    """An opened slide. It can be sent to other processes, which open the file anew.

    Attributes:
        path: The file.
        mpp: `(x, y)`, um per px of level 0.
        levels: From the finest on; level 0 is the full resolution.
        bounds: `(x, y, width, height)` in level-0 px of what was scanned, which is all that QuPath shows: its
            coordinates begin at this corner. The whole slide, unless its file says otherwise.
        identity: What tells this slide from others, in the form of JSON.
        center_offset_nm: `(x, y)` of the scan's centre from that of the glass slide, where Hamamatsu's file says it.
        own_mpp: What the file itself says where `mpp` was given instead, if it says it.
    """

    path: Path
    mpp: tuple[float, float]
    levels: tuple[Level, ...]
    bounds: tuple[int, int, int, int]
    identity: dict[str, Any]
    center_offset_nm: Optional[tuple[float, float]] = None
    own_mpp: Optional[tuple[float, float]] = None

    @property
    def frame(self) -> Frame:
        """What the coordinates of annotations of this slide are relative to."""
        return Frame(self.path.name, self.size, self.mpp, self.bounds, self.center_offset_nm, self.own_mpp)

    @property
    def size(self) -> tuple[int, int]:
        """`(width, height)` in level-0 px."""
        return self.levels[0].size

    def read_level(self, level: int, corner: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        """Pixels of one level, uint8 `(height, width, 3)`; what was not scanned is white.

        Args:
            level: Index among `levels`.
            corner: `(x, y)` of the upper left px, in px of this level.
            size: `(width, height)` in px; the window lies inside the level.

        Raises:
            UnreadableError: The file is damaged there.
            SlideError: The file can no longer be opened.
        """
        raise NotImplementedError


def open_slide(path: Path, mpp: Optional[float] = None) -> Slide:
    """Open a slide with OpenSlide, or an image with Pillow.

    Args:
        path: The file. Of a DICOM or MIRAX slide, any one of the files that OpenSlide takes.
        mpp: um per px of level 0, instead of what the file says.

    Raises:
        SlideError: There is no such file, it is neither slide nor image, it is truncated, its compression is
            unsupported, or its um/px are unknown or absurd.
    """
    if mpp is not None:
        _check_mpp(path, (mpp, mpp))
    check_is_file(path)
    check_tiff_is_whole(path)
    try:
        handle = openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError:
        return _PlainImage(path, mpp)
    except openslide.OpenSlideError as error:
        raise open_error(path, str(error)) from error
    return _OpenSlideFile(path, mpp, handle)


class _OpenSlideFile(Slide):
    def __init__(self, path: Path, mpp: Optional[float], handle: openslide.OpenSlide) -> None:
        self.path = path
        self.levels = true_levels(handle.level_dimensions)
        self.mpp = (mpp, mpp) if mpp is not None else _mpp_of_properties(path, handle.properties)
        self.bounds = bounds_of(handle.properties, self.size)
        self.center_offset_nm = numbers_of(handle.properties, _CENTER_OFFSET)
        self.own_mpp = None if mpp is None else _plausible(numbers_of(handle.properties, _MPP))
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

    def __init__(self, path: Path, mpp: Optional[float]) -> None:
        self.path = path
        self._pixels = _decode_image(path)
        self.levels = true_levels([(self._pixels.shape[1], self._pixels.shape[0])])
        if mpp is None:
            raise SlideError(f"{path} is a plain image and does not say its um/px. {_GIVE_MPP}")
        self.mpp = (mpp, mpp)
        self.bounds = (0, 0, *self.size)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        self.identity = {"format": "image", "sha256": sha256, "size": list(self.size)}

    def read_level(self, level: int, corner: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        return self._pixels[corner[1] : corner[1] + size[1], corner[0] : corner[0] + size[0]]


def true_levels(sizes: Any) -> tuple[Level, ...]:
    """Levels from their sizes, `(width, height)` from level 0 on.

    Writers halve sizes and drop (or keep) the odd pixel, so that a ratio such as 3.9976 stands for exactly 4; to take
    the ratio would shift the far end of the slide by a pixel. Where no whole number explains both axes, the ratios
    are the truth.
    """
    (width, height), *_ = sizes
    levels = []
    for w, h in sizes:
        whole = round(max(width / w, height / h))
        explained = all(short in (full // whole, -(-full // whole)) for full, short in ((width, w), (height, h)))
        levels.append(Level((w, h), (float(whole),) * 2 if explained else (width / w, height / h)))
    return tuple(levels)


def bounds_of(properties: Mapping[str, str], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """What was scanned, as `Slide.bounds`; QuPath crops a slide only where the file gives all four of them."""
    try:
        x, y, width, height = (int(properties[name]) for name in _BOUNDS)
    except (KeyError, ValueError):
        return (0, 0, *size)
    return (x, y, width, height) if width > 0 and height > 0 else (0, 0, *size)


def numbers_of(properties: Mapping[str, str], names: tuple[str, str]) -> Optional[tuple[float, float]]:
    """Two properties that are finite numbers, None where the file has no such ones."""
    try:
        x, y = (float(properties[name]) for name in names)
    except (KeyError, ValueError):
        return None
    return (x, y) if math.isfinite(x) and math.isfinite(y) else None


def _mpp_of_properties(path: Path, properties: Any) -> tuple[float, float]:
    found = [properties.get(name) for name in _MPP]
    if None in found:
        raise SlideError(f"{path} does not say its um/px. {_GIVE_MPP}")
    try:
        mpp = (float(found[0]), float(found[1]))
    except ValueError as error:
        raise SlideError(f"{path} says {found} um/px, expected numbers. Give the true value as --mpp.") from error
    _check_mpp(path, mpp)
    return mpp


def _plausible(mpp: Optional[tuple[float, float]]) -> Optional[tuple[float, float]]:
    return mpp if mpp is not None and all(_MPP_RANGE[0] <= value <= _MPP_RANGE[1] for value in mpp) else None


def _check_mpp(path: Path, mpp: tuple[float, float]) -> None:
    low, high = _MPP_RANGE
    if not all(math.isfinite(value) and low <= value <= high for value in mpp):
        raise SlideError(
            f"{path}: {mpp[0]:g} x {mpp[1]:g} um/px is absurd, expected {low:g} to {high:g}. "
            "Give the true value as --mpp."
        )
    if max(mpp) > _MPP_RATIO * min(mpp):
        raise SlideError(
            f"{path}: {mpp[0]:g} x {mpp[1]:g} um/px, expected square pixels. Give the true value as --mpp."
        )


def _decode_image(path: Path) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=IMAGE_FORMATS) as image:
                return to_rgb(image)
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
