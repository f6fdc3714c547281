"""Which images of a TIFF are the levels of its slide; whatever could be read wrongly is refused in words."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional

from PIL import Image
from tifffile import EXTRASAMPLE, PHOTOMETRIC, TiffFile, TiffPage

from .file_check import CONVERT, TIFF_ERRORS, compression_name, is_tiff
from .ome import OmeImage
from .slide_error import SlideError
from .tiff_pieces import JPEG_2000
from .tiff_text import image_j_fields, ome_images, open_tiff, pages_of, size_of

# None, LZW, JPEG, deflate, PackBits, LZMA, Zstandard and two forms of JPEG 2000 that are RGB.
_DECODED = (1, 5, 7, 8, 32773, 32946, 34925, 50000, *JPEG_2000)
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_COLOURS = {PHOTOMETRIC.RGB: 3, PHOTOMETRIC.PALETTE: 1, PHOTOMETRIC.SEPARATED: 4, PHOTOMETRIC.YCBCR: 3}
_GREY = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE)
# Levels round their sides, some up to a few px; a label or an overview has another form altogether.
_MOST_ASKEW = 0.05
_BESIDE = ("label", "macro", "overview", "thumbnail", "barcode")
_AS_LARGE = 0.5  # of the area: an image beside the slide that is no smaller may as well be the slide
GREY = (
    "is grey: the models know stained tissue in colour only, and would answer all the same. Scan it in colour, or "
    "convert it to RGB if its colours are in another file."
)
"""What to tell of an image without colour."""


@dataclass(frozen=True)
class Place:
    """Where an image lies in a TIFF.

    Attributes:
        directory: Its number in the file.
        below: Its number among the SubIFDs of that directory, None for that one itself.
    """

    directory: int
    below: Optional[int] = None

    def page_of(self, tiff: TiffFile) -> TiffPage:
        """The opened directory."""
        page: Any = tiff.pages[self.directory]
        return page if self.below is None else pages_of(page)[self.below]


@dataclass(frozen=True)
class TiffLayout:
    """The levels of a slide in a TIFF.

    Attributes:
        places: From the finest level on.
        sizes: `(width, height)` of each, in px.
        undecoded: Why each cannot be decoded here, "" if it can.
        bits: Of a sample.
        is_in_planes: Whether each colour is stored by itself.
        has_unnamed_channel: Whether a fourth channel does not say what it is; OpenSlide takes it for opacity.
        warnings: What was left out, in sentences.
    """

    places: tuple[Place, ...]
    sizes: tuple[tuple[int, int], ...]
    undecoded: tuple[str, ...]
    bits: int
    is_in_planes: bool
    has_unnamed_channel: bool
    warnings: tuple[str, ...] = ()

    @property
    def is_in_subifds(self) -> bool:
        """Whether there are levels which lie where OpenSlide does not look."""
        return any(place.below is not None for place in self.places)

    def decoded(self, path: Path) -> "TiffLayout":
        """Those levels that can be decoded here.

        Raises:
            SlideError: The full resolution is none of them.
        """
        if self.undecoded[0]:
            raise SlideError(f"{path} is of a kind that is unsupported: {self.undecoded[0]}. {CONVERT}")
        kept = [number for number, reason in enumerate(self.undecoded) if not reason]
        left_out = tuple(
            f"The level of {width} x {height} px is not used: {reason}."
            for (width, height), reason in zip(self.sizes, self.undecoded)
            if reason
        )
        return replace(
            self,
            places=tuple(self.places[number] for number in kept),
            sizes=tuple(self.sizes[number] for number in kept),
            undecoded=("",) * len(kept),
            warnings=left_out,
        )


def read_layout(path: Path) -> Optional[TiffLayout]:
    """The levels of a TIFF; None for a file of another kind.

    Raises:
        SlideError: It is grey, has channels that are no colours, samples of another type than 8 or 16 bits, several
            planes or several images that may be the slide, or its px lie in another file.
    """
    if not is_tiff(path):
        return None
    try:
        with open_tiff(path) as tiff:
            pages = pages_of(tiff)
            number, stop = _slide_directory(path, pages, ome_images(path, pages[0]))
            problem = _pixel_problem(pages[number])
            if problem:
                raise SlideError(f"{path} {problem}")
            if 0 in size_of(pages[number]):
                raise SlideError(f"{path} is no whole TIFF file: its image has no pixels.")
            return _layout(path, pages, number, stop)
    except SlideError:
        raise
    except TIFF_ERRORS as error:
        raise SlideError(f"{path} is no whole TIFF file: {error}.") from error


def check_colours(path: Path) -> None:
    """Refuse a TIFF whose first image is grey, or of channels or samples that no model knows.

    Raises:
        SlideError: It is.
    """
    try:
        with open_tiff(path) as tiff:
            problem = _pixel_problem(pages_of(tiff)[0])
    except TIFF_ERRORS as error:
        raise SlideError(f"{path} is no whole TIFF file: {error}.") from error
    if problem:
        raise SlideError(f"{path} {problem}")


def _layout(path: Path, pages: Sequence[TiffPage], number: int, stop: int) -> TiffLayout:
    page = pages[number]
    promised = len(page.subifds or ())
    below = pages_of(page) if promised else []
    if len(below) < promised:
        raise SlideError(f"{path} is no whole TIFF file: of {promised} SubIFDs {len(below)} are there.")
    if below:
        _check_within(path, below)
        found = [(Place(number, index), inner) for index, inner in enumerate(below)]
    else:
        found = [
            (Place(other), pages[other])
            for other in range(stop)
            # A thumbnail in strips stands beside a pyramid of tiles.
            if int(pages[other].subfiletype) & _REDUCED and pages[other].is_tiled == page.is_tiled
        ]
    levels = {size_of(page): (Place(number), page)}  # which is never a level of itself
    for place, level in sorted(found, key=lambda each: -int(each[1].imagewidth)):
        if _is_level(page, level):
            levels.setdefault(size_of(level), (place, level))
    unnamed = page.photometric == PHOTOMETRIC.RGB and EXTRASAMPLE.UNSPECIFIED in page.extrasamples
    places = tuple(place for place, _ in levels.values())
    undecoded = tuple(_undecoded(level) for _, level in levels.values())
    return TiffLayout(
        places, tuple(levels), undecoded, int(page.bitspersample), int(page.planarconfig or 1) == 2, unnamed
    )


def _check_within(path: Path, pages: Sequence[TiffPage]) -> None:
    """Refuse levels that the file no longer holds; those of the main directories have been looked at before."""
    size = path.stat().st_size
    end = max(offset + count for page in pages for offset, count in zip(page.dataoffsets, page.databytecounts))
    if end > size:
        raise SlideError(f"{path} is truncated: its pixels end at byte {end:,}, the file at byte {size:,}.")


def _slide_directory(path: Path, pages: Sequence[TiffPage], images: Sequence[OmeImage]) -> tuple[int, int]:
    """The directory of level 0, and the first one that belongs to another image, with which its levels end."""
    told = [image for image in images if image.size != (0, 0)]
    if not told or all(image.directory >= len(pages) for image in told):
        return _largest(path, pages), len(pages)
    slides = [image for image in told if not any(word in image.name.lower() for word in _BESIDE)] or told
    slides.sort(key=lambda image: -image.size[0] * image.size[1])
    slide = slides[0]
    if len(slides) > 1 and _area(slides[1].size) > _AS_LARGE * _area(slide.size):
        names = ", ".join(f"{image.name or 'unnamed'}, {image.size[0]} x {image.size[1]} px" for image in slides[:5])
        raise SlideError(
            f"{path} holds {len(slides)} images that may be the slide ({names}): save the one that is meant alone, "
            "with bioformats2raw --series and raw2ometiff --rgb."
        )
    if slide.is_elsewhere:
        raise SlideError(f"{path} is one part of an OME-TIFF of several files, and its pixels lie in another one.")
    _check_planes(path, slide, pages)
    if slide.directory >= len(pages) or size_of(pages[slide.directory]) != slide.size:
        return _largest(path, pages), len(pages)  # the XML is that of another image, from which this one was made
    later = [image.directory for image in told if image.directory > slide.directory]
    return slide.directory, min([*later, len(pages)])


def _check_planes(path: Path, image: OmeImage, pages: Sequence[TiffPage]) -> None:
    depth, times, channels = image.planes
    for count, what in ((depth, "focal planes"), (times, "points in time"), (channels, "channels, as fluorescence")):
        if count > 1:
            more = " Where they are red, green and blue, raw2ometiff --rgb makes one image of them." * (count == 3)
            raise SlideError(
                f"{path} holds {count} {what}, expected one image in RGB: save the one that is meant alone.{more}"
            )


def _largest(path: Path, pages: Sequence[TiffPage]) -> int:
    """The directory that is the slide where nothing but its size says so."""
    whole = [number for number, page in enumerate(pages) if not int(page.subfiletype) & (_REDUCED | _MASK)]
    areas = {number: _area(size_of(pages[number])) for number in whole or range(len(pages))}
    first = max(areas, key=lambda number: (areas[number], -number))
    alike = sum(size_of(pages[number]) == size_of(pages[first]) for number in areas)
    count = max(alike, int(image_j_fields(pages[0].description).get("images", "1") or 1))
    if count > 1:
        raise SlideError(
            f"{path} holds {count} images of {pages[first].imagewidth} x {pages[first].imagelength} px, as of a stack "
            "of focal planes, times or channels: save the one that is meant alone, in RGB."
        )
    return first


def _pixel_problem(page: TiffPage) -> str:
    """Why the px of an image are none that a model knows, "" if they may be."""
    samples = int(page.samplesperpixel)
    photometric: Any = page.photometric
    opacity = sum(extra != EXTRASAMPLE.UNSPECIFIED for extra in page.extrasamples)
    if photometric in _GREY and samples - opacity > 1:
        more = " Where they are red, green and blue, raw2ometiff --rgb makes one image of them." * (samples == 3)
        return f"has {samples} channels that are no colours, as those of fluorescence, expected RGB.{more}"
    if photometric in _GREY:
        return GREY
    if photometric not in _COLOURS:
        name = photometric.name if isinstance(photometric, PHOTOMETRIC) else f"of number {photometric}"
        return f"has colours of the kind {name}, expected RGB. {CONVERT}"
    is_palette = photometric == PHOTOMETRIC.PALETTE
    bits = page.bitspersample
    if page.sampleformat not in (1, 4) or not (bits in (8, 16) or is_palette):
        kind = page.dtype.name if page.dtype is not None else f"{bits} bits"
        return f"has samples of {kind}, expected whole numbers of 8 or 16 bits. {CONVERT}"
    if not _COLOURS[photometric] <= samples <= _COLOURS[photometric] + (photometric == PHOTOMETRIC.RGB):
        return f"has {samples} channels, expected the {_COLOURS[photometric]} of {photometric.name}. {CONVERT}"
    return ""


def _is_level(page: TiffPage, level: TiffPage) -> bool:
    """Whether an image is another one at a lower resolution, not a label or an overview beside it."""
    (width, height), (w, h) = size_of(page), size_of(level)
    return 0 < w < width and 0 < h <= height and _is_reduced((width, height), (w, h))


def _is_reduced(full: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether a size is another one by a factor that is the same in both directions, up to rounding."""
    factor = max(full[0] / size[0], full[1] / size[1])
    return all(abs(side - whole / factor) <= max(1.5, _MOST_ASKEW * side) for side, whole in zip(size, full))


def _undecoded(page: TiffPage) -> str:
    """Why an image is not decoded piece by piece, "" if it is."""
    if _pixel_problem(page):
        return "its pixels are of another kind than those of the full resolution"
    if int(page.compression) not in _DECODED:
        return f"its compression is not decoded here ({compression_name(int(page.compression))})"
    if page.photometric == PHOTOMETRIC.YCBCR and int(page.compression) != 7:
        return "it is YCbCr without JPEG, of which only a main image is decoded"
    is_rgb = page.photometric == PHOTOMETRIC.RGB and page.bitspersample == 8 and int(page.planarconfig or 1) == 1
    if int(page.compression) in JPEG_2000 and not is_rgb:
        return "it is JPEG 2000, of which only RGB of 8 bits is decoded"
    if page.bitspersample not in (8, 16):
        return f"its samples have {page.bitspersample} bits"
    width, height = piece_size(page)
    piece = width * height
    if not piece:
        return "it is in pieces of no size"
    if not page.is_memmappable and piece > (Image.MAX_IMAGE_PIXELS or piece):
        return f"it is compressed in pieces of {piece:,} px"
    return ""


def piece_size(page: TiffPage) -> tuple[int, int]:
    """`(width, height)` in px of a tile, or of a strip as it is before the last one."""
    if page.is_tiled:
        return (int(page.tilewidth), int(page.tilelength))
    return (int(page.imagewidth), min(int(page.rowsperstrip), int(page.imagelength)))


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]
