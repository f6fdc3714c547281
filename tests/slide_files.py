"""Small slides for the tests: tissue with glass around it, as TIFF pyramids and in the forms of scanners."""

import io
import struct
import zlib

import numpy as np
import tifffile
from PIL import Image

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
    slide += rng.integers(0, 4, slide.shape, dtype=np.uint8)  # no camera sees a patch of equal px
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


LEICA = "http://www.leica-microsystems.com/scn/2010/10/01"


def write_scn(path, pixels, corner, whole, mpp=0.5, factors=(1, 4)):
    """A Leica slide of `whole` px (width, height) of which only `pixels` at `corner` (x, y) were scanned."""
    height, width = pixels.shape[:2]
    nm = 1000 * mpp  # the unit of its places

    def image(dimensions, x, y, w, h):
        places = (
            f'{name}="{round(px * nm)}"' for name, px in zip(("sizeX", "sizeY", "offsetX", "offsetY"), (w, h, x, y))
        )
        return (
            f"<image><pixels>{dimensions}</pixels><view {' '.join(places)}/><scanSettings><objectiveSettings>"
            "<objective>20</objective></objectiveSettings><illuminationSettings><illuminationSource>brightfield"
            "</illuminationSource></illuminationSettings></scanSettings></image>"
        )

    levels = "".join(
        f'<dimension sizeX="{width // factor}" sizeY="{height // factor}" ifd="{number}"/>'
        for number, factor in enumerate(factors, start=1)
    )
    macro_level = '<dimension sizeX="64" sizeY="64" ifd="0"/>'
    text = (
        f'<?xml version="1.0"?><scn xmlns="{LEICA}"><collection sizeX="{round(whole[0] * nm)}" '
        f'sizeY="{round(whole[1] * nm)}">{image(macro_level, 0, 0, *whole)}'
        f"{image(levels, *corner, width, height)}</collection></scn>"
    )
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        macro = np.full((64, 64, 3), 200, dtype=np.uint8)
        file.write(macro, tile=(64, 64), photometric="rgb", description=text, metadata=None)
        for factor in factors:
            file.write(
                means_of_squares(pixels, factor),
                tile=(64, 64),
                photometric="rgb",
                compression="deflate",
                metadata=None,
                resolution=(1e4 / mpp / factor,) * 2,
                resolutionunit="CENTIMETER",
            )
    return path


def write_mirax(path, pixels, corner, whole, mpp=0.5, levels=3, side=64):
    """A MIRAX slide of `whole` px (width, height) of which only `pixels` at `corner` (x, y) were scanned.

    All of these are whole numbers of tiles of `side` px, of which each level halves the next finer one.
    """
    path.touch()
    folder = path.with_suffix("")
    folder.mkdir()
    across = whole[0] // side
    canvas = np.full((whole[1], whole[0], 3), 255, dtype=np.uint8)
    (x, y), (height, width) = corner, pixels.shape[:2]
    canvas[y : y + height, x : x + width] = pixels
    data, records = bytearray(), []
    for level in range(levels):
        step = side << level
        records.append([])
        # Tiles that hold nothing of what was scanned are not in the file.
        for top in range(y // step * step, y + height, step):
            for left in range(x // step * step, x + width, step):
                tile = np.full((step, step, 3), 255, dtype=np.uint8)
                part = canvas[top : top + step, left : left + step]
                tile[: part.shape[0], : part.shape[1]] = part
                content = io.BytesIO()
                Image.fromarray(means_of_squares(tile, 1 << level)).save(content, "png")
                number = top // side * across + left // side
                records[-1].append((number, len(data), len(content.getvalue()), 0))
                data += content.getvalue()
    (folder / "Data0000.dat").write_bytes(data)
    (folder / "Index.dat").write_bytes(_mirax_index(records))
    (folder / "Slidedat.ini").write_text(_mirax_ini(whole, mpp, levels, side))
    return path


MIRAX_ID = "0123456789ABCDEF0123456789ABCDEF"


def _mirax_index(records):
    index = bytearray(b"01.02" + MIRAX_ID.encode())
    index += struct.pack("<ii", len(index) + 8, 0)
    table = len(index)
    index += bytes(4 * len(records))
    for level, rows in enumerate(records):
        struct.pack_into("<i", index, table + 4 * level, len(index))
        index += struct.pack("<4i", 0, len(index) + 8, len(rows), 0)
        for row in rows:
            index += struct.pack("<4i", *row)
    return bytes(index)


def _mirax_ini(whole, mpp, levels, side):
    general = {
        "SLIDE_VERSION": "01.02",
        "SLIDE_ID": MIRAX_ID,
        "IMAGENUMBER_X": whole[0] // side,
        "IMAGENUMBER_Y": whole[1] // side,
        "OBJECTIVE_MAGNIFICATION": 20,
    }
    names = {f"HIER_0_VAL_{level}_SECTION": f"LEVEL_{level}" for level in range(levels)}
    zoom = {"HIER_0_NAME": "Slide zoom level", "HIER_0_COUNT": levels, **names}
    sections = {
        "GENERAL": general,
        "HIERARCHICAL": {"HIER_COUNT": 1, "NONHIER_COUNT": 0, "INDEXFILE": "Index.dat", **zoom},
        "DATAFILE": {"FILE_COUNT": 1, "FILE_0": "Data0000.dat"},
    }
    for level in range(levels):
        um = mpp * 2**level
        sections[f"LEVEL_{level}"] = {
            "OVERLAP_X": 0,
            "OVERLAP_Y": 0,
            "MICROMETER_PER_PIXEL_X": um,
            "MICROMETER_PER_PIXEL_Y": um,
            "IMAGE_FORMAT": "PNG",
            "IMAGE_FILL_COLOR_BGR": 0xFFFFFF,
            "DIGITIZER_WIDTH": side,
            "DIGITIZER_HEIGHT": side,
            "IMAGE_CONCAT_FACTOR": int(level > 0),
        }
    return "".join(
        f"[{name}]\n" + "".join(f"{key}={value}\n" for key, value in content.items())
        for name, content in sections.items()
    )


WSI_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"


def write_dicom(path, pixels, series, mpp=0.5, series_number=None, sop_class=WSI_CLASS, side=64):
    """One level of a DICOM slide: explicit little endian, uncompressed tiles of `side` px, row by row."""
    height, width = pixels.shape[:2]
    rows, columns = -(-height // side), -(-width // side)
    padded = np.zeros((rows * side, columns * side, 3), dtype=np.uint8)
    padded[:height, :width] = pixels
    tiles = padded.reshape(rows, side, columns, side, 3).swapaxes(1, 2)
    instance = f"{series}.{zlib.crc32(path.name.encode())}"
    spacing = dicom_element(0x0028, 0x0030, "DS", f"{mpp / 1000:g}\\{mpp / 1000:g}")
    measures = dicom_sequence(0x0028, 0x9110, spacing)
    elements = [
        dicom_element(0x0008, 0x0008, "CS", "DERIVED\\PRIMARY\\VOLUME\\NONE"),
        dicom_element(0x0008, 0x0016, "UI", sop_class),
        dicom_element(0x0008, 0x0018, "UI", instance),
        # A sequence of unknown length, with a series of another study inside, comes before the slide's own.
        dicom_sequence(0x0008, 0x1115, dicom_element(0x0020, 0x000E, "UI", "9.9.9"), known_length=False),
        dicom_element(0x0020, 0x000D, "UI", "1.2.3"),
        dicom_element(0x0020, 0x000E, "UI", series),
        *([] if series_number is None else [dicom_element(0x0020, 0x0011, "IS", str(series_number))]),
        dicom_element(0x0020, 0x9311, "CS", "TILED_FULL"),
        dicom_element(0x0028, 0x0002, "US", struct.pack("<H", 3)),
        dicom_element(0x0028, 0x0004, "CS", "RGB"),
        dicom_element(0x0028, 0x0006, "US", struct.pack("<H", 0)),
        dicom_element(0x0028, 0x0008, "IS", str(rows * columns)),
        *(
            dicom_element(0x0028, tag, "US", struct.pack("<H", value))
            for tag, value in ((0x10, side), (0x11, side), (0x100, 8), (0x101, 8), (0x102, 7), (0x103, 0))
        ),
        dicom_element(0x0048, 0x0006, "UL", struct.pack("<I", width)),
        dicom_element(0x0048, 0x0007, "UL", struct.pack("<I", height)),
        dicom_sequence(0x5200, 0x9229, measures),
        dicom_element(0x7FE0, 0x0010, "OB", tiles.tobytes()),
    ]
    meta = b"".join(
        [
            dicom_element(0x0002, 0x0001, "OB", b"\x00\x01"),
            dicom_element(0x0002, 0x0002, "UI", sop_class),
            dicom_element(0x0002, 0x0003, "UI", instance),
            dicom_element(0x0002, 0x0010, "UI", "1.2.840.10008.1.2.1"),
        ]
    )
    length = dicom_element(0x0002, 0x0000, "UL", struct.pack("<I", len(meta)))
    path.write_bytes(bytes(128) + b"DICM" + length + meta + b"".join(elements))
    return path


def dicom_element(group, number, kind, value):
    """One element with an explicit kind (VR); text is padded to an even length."""
    if isinstance(value, str):
        value = value.encode()
        value += (b"\x00" if kind == "UI" else b" ") * (len(value) % 2)
    long = kind in ("OB", "OW", "SQ", "UN", "UT")
    length = struct.pack("<HI", 0, len(value)) if long else struct.pack("<H", len(value))
    return struct.pack("<HH", group, number) + kind.encode() + length + value


def dicom_sequence(group, number, item, known_length=True):
    """A sequence of one item."""
    head = struct.pack("<HH", group, number) + b"SQ\x00\x00"
    if known_length:
        return head + struct.pack("<I", len(item) + 8) + struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item
    ends = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return head + b"\xff" * 4 + struct.pack("<HH", 0xFFFE, 0xE000) + b"\xff" * 4 + item + ends
