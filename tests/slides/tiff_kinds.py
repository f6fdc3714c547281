"""TIFFs of many kinds for the tests, written by tifffile, with compressions that only Pillow writes here."""

import io

import numpy as np
import tifffile
from PIL import Image
from slide_files import draw_slide, means_of_squares

PIXELS = draw_slide(332, 252, seed=3)
HALF, QUARTER = means_of_squares(PIXELS, 2), means_of_squares(PIXELS, 4)
HALF_UM = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
RGB = {"photometric": "rgb"}
TILED = {"tile": (64, 64)}
OME_UM = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}


def write_pages(path, *levels, each=(), **options):
    """Directories one after the other, all but the first flagged as reduced; `each` has options of each."""
    writer = {name: options.pop(name) for name in ("bigtiff", "byteorder") if name in options}
    with tifffile.TiffWriter(path, **writer) as file:
        for number, level in enumerate(levels):
            own = each[number] if each else {"subfiletype": int(number > 0)}
            file.write(level, **{"metadata": None, **options, **own})
    return path


def write_subifds(path, *levels, ome=True, metadata=OME_UM, beside=(), before=(), **options):
    """A pyramid whose lower levels are SubIFDs; images `beside` it, and `before` it, are `(name, pixels)`."""
    options = {**RGB, **TILED, **options}
    with tifffile.TiffWriter(path, ome=ome) as file:
        for name, pixels in before:
            file.write(pixels, metadata={"Name": name}, **RGB)
        file.write(levels[0], subifds=len(levels) - 1, metadata=metadata if ome else None, **options)
        for level in levels[1:]:
            file.write(level, subfiletype=1, metadata=None, **options)
        for name, pixels in beside:
            file.write(pixels, metadata={"Name": name}, **RGB)
    return path


def in_planes(pixels):
    return np.ascontiguousarray(np.moveaxis(pixels, 2, 0))


def tiles_of(pixels, side=64):
    """Row by row, those at the edge filled up with their last px."""
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((0, -height % side), (0, -width % side), (0, 0)), mode="edge")
    for top in range(0, height, side):
        for left in range(0, width, side):
            yield padded[top : top + side, left : left + side]


def encoded(tile, kind):
    """The bytes of a tile as a TIFF holds them."""
    content = io.BytesIO()
    image = Image.fromarray(tile)
    if kind == "lzw":
        image.save(content, "TIFF", compression="tiff_lzw")
        with tifffile.TiffFile(io.BytesIO(content.getvalue())) as file:
            page = file.pages[0]
            (begin,), (count,) = page.dataoffsets, page.databytecounts
        return content.getvalue()[begin : begin + count]
    if kind == "jpeg":
        image.save(content, "JPEG", quality=95, subsampling=0)
    else:
        image.save(content, "JPEG2000", irreversible=False, no_jp2=True)
    return content.getvalue()


NUMBERS = {"lzw": 5, "jpeg": 7, "jpeg2000": 33005}


def write_compressed(path, kind, *levels):
    """An OME-TIFF with SubIFDs in a compression for which tifffile needs another package."""
    options = {**TILED, "photometric": "ycbcr" if kind == "jpeg" else "rgb", "compression": "deflate"}
    if kind == "jpeg":
        options["extratags"] = [(530, 3, 2, (1, 1), True)]
    with tifffile.TiffWriter(path, ome=True) as file:
        for number, level in enumerate(levels):
            below = {"subfiletype": 1, "metadata": None} if number else {"subifds": len(levels) - 1, "metadata": OME_UM}
            tiles = iter([encoded(tile, kind) for tile in tiles_of(level)])
            file.write(tiles, shape=level.shape, dtype=level.dtype, **options, **below)
    with tifffile.TiffFile(path, mode="r+b") as file:
        for page in (file.pages[0], *file.pages[0].pages):
            page.tags["Compression"].overwrite(NUMBERS[kind])
    return path


def damage(path, offset, count):
    """Write over so many bytes of a file."""
    content = bytearray(path.read_bytes())
    content[offset : offset + count] = b"\x55" * count
    path.write_bytes(content)
