"""Everything that the image processor must refuse, by the name of the item and before any work.

Regions here are 5x5 patches of 8 px, and a region that is fine stands beside every item that is not.
"""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from spider_tools import remote_code

P = 8
SIDE = 5 * P


@pytest.fixture(scope="module")
def processor():
    """A processor for regions of 5x5 patches of 8 px."""
    return remote_code.image_processor_class()(context_size=5, patch_size=P)


def random_rgb(height=SIDE, width=SIDE):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image, file_format):
    file = io.BytesIO()
    image.save(file, file_format)
    return file.getvalue()


def opened(data):
    return Image.open(io.BytesIO(data))


def png():
    return encoded(Image.fromarray(random_rgb()), "PNG")


def jpeg():
    return encoded(Image.fromarray(random_rgb()), "JPEG")


def with_damaged_middle(data):
    middle = len(data) // 2
    return data[:middle] + bytes(255 - byte for byte in data[middle : middle + 40]) + data[middle + 40 :]


def closed_file():
    with opened(png()) as image:
        pass
    return image


def grey_with(value, dtype=np.float32):
    image = np.full((SIDE, SIDE, 3), 0.5, dtype=dtype)
    image[SIDE - 1, 0, 1] = value
    return image


REFUSED = {
    "smaller than one patch": (lambda: random_rgb(P - 1, 50), "is 7x50 px .* smaller than one patch.* 40x40 px region"),
    "narrow PIL": (lambda: Image.new("RGB", (P - 1, 50)), "is 50x7 px .* smaller than one patch"),
    "no rows": (lambda: np.zeros((0, 40, 3), np.uint8), "is 0x40 px .* smaller than one patch"),
    "no float rows": (lambda: torch.zeros(3, 40, 0), "is 40x0 px .* smaller than one patch"),
    "zero-sized PIL": (lambda: Image.new("RGB", (0, 40)), "is 40x0 px .* smaller than one patch"),
    "NaN": (lambda: grey_with(np.nan), r"holds floats from nan to nan, expected \[0, 1\] without NaN"),
    "NaN tensor": (
        lambda: torch.from_numpy(grey_with(np.nan, np.float64)),
        r"holds floats .* expected \[0, 1\] without NaN",
    ),
    "inf": (lambda: grey_with(np.inf), r"holds floats from 0.5 to inf, expected \[0, 1\]"),
    "-inf": (lambda: grey_with(-np.inf), r"holds floats from -inf to 0.5, expected \[0, 1\]"),
    "above 1": (lambda: grey_with(1.001), r"holds floats from 0.5 to 1.001, expected \[0, 1\]"),
    "below 0": (
        lambda: torch.from_numpy(grey_with(-0.25)).permute(2, 0, 1),
        r"holds floats from -0.25 to 0.5, expected",
    ),
    "0..255 floats": (
        lambda: random_rgb().astype(np.float32),
        r"holds floats from 0 to 255, expected \[0, 1\].* Pass 0..255 values as uint8",
    ),
    "int64": (lambda: random_rgb().astype(np.int64), "has dtype torch.int64, expected uint8, or floats"),
    "uint16": (lambda: random_rgb().astype(np.uint16), "has dtype torch.uint16, expected uint8, or floats"),
    "int8 tensor": (lambda: torch.zeros(40, 40, 3, dtype=torch.int8), "has dtype torch.int8, expected uint8"),
    "float8": (lambda: torch.zeros(40, 40, 3).to(torch.float8_e4m3fn), "has dtype torch.float8_e4m3fn, expected uint8"),
    "sparse": (lambda: torch.zeros(40, 40, 3).to_sparse(), "is a tensor of the layout torch.sparse_coo, expected a de"),
    "sparse bytes": (
        lambda: torch.ones(3, 40, 40, dtype=torch.uint8).to_sparse(),
        "is a tensor of the layout torch.sparse_coo, expected a dense one",
    ),
    "nested": (
        lambda: torch.nested.nested_tensor([torch.zeros(40, 40), torch.zeros(41, 40)], layout=torch.jagged),
        "is a nested tensor, expected a dense one",
    ),
    "floats without values": (lambda: torch.zeros(3, 40, 40, device="meta"), "is on the device 'meta', expected one"),
    "bytes without values": (
        lambda: torch.zeros(40, 40, 3, dtype=torch.uint8, device="meta"),
        "is on the device 'meta', expected one that holds values",
    ),
    "masked": (
        lambda: np.ma.masked_equal(random_rgb(), 7),
        "is an array with masked pixels, expected a value for each",
    ),
    "bool": (lambda: np.ones((40, 40, 3), bool), "has dtype torch.bool, expected uint8, or floats"),
    "complex": (lambda: np.ones((40, 40, 3), np.complex64), "has dtype torch.complex64, expected uint8"),
    "dates": (lambda: np.zeros((40, 40, 3), "M8[s]"), r"has dtype datetime64\[s\], expected uint8, or floats"),
    "object": (lambda: np.full((40, 40, 3), None), "has dtype object, expected uint8, or floats"),
    "text array": (lambda: np.full((40, 40, 3), "a"), "has dtype <U1, expected uint8, or floats"),
    "four channels last": (
        lambda: np.zeros((40, 40, 4), np.uint8),
        r"has shape \(40, 40, 4\), expected 1 or 3 channels",
    ),
    "four channels first": (
        lambda: torch.zeros(4, 40, 40),
        r"has shape \(4, 40, 40\), expected 1 or 3 .* RGBA with PIL",
    ),
    "two channels": (lambda: np.zeros((40, 40, 2), np.uint8), r"has shape \(40, 40, 2\), expected 1 or 3 channels"),
    "no dimension": (lambda: torch.tensor(0.5), r"has shape \(\), expected \(H, W\)"),
    "one dimension": (lambda: np.zeros(40, np.uint8), r"has shape \(40,\), expected \(H, W\)"),
    "five dimensions": (
        lambda: np.zeros((1, 1, 40, 40, 3), np.uint8),
        r"has shape \(1, 1, 40, 40, 3\), expected \(H, W",
    ),
    "None": (lambda: None, "is NoneType, expected a PIL image, a numpy array or a torch tensor"),
    "number": (lambda: 3, "is int, expected a PIL image"),
    "dict": (lambda: {"image": random_rgb()}, "is dict, expected a PIL image"),
    "generator": (lambda: (random_rgb() for _ in range(2)), "is generator, expected a PIL image.* flat list"),
    "path": (lambda: "slides/region.png", r"is a path, 'slides/region.png'. Open it first, as with PIL.Image.open"),
    "Path": (lambda: Path("slides") / "region.png", r"is a path, '.*region.png'. Open it first"),
    "bytes": (png, r"is \d+ raw bytes. Open them first, as with PIL.Image.open\(io.BytesIO"),
    "bytearray": (lambda: bytearray(jpeg()), r"is \d+ raw bytes. Open them first"),
    "truncated PNG": (lambda: opened(png()[:-2000]), r"cannot be decoded \(RGB, 40x40 px\), expected a whole image"),
    "truncated JPEG": (lambda: opened(jpeg()[:-700]), r"cannot be decoded \(RGB, 40x40 px\), expected a whole image"),
    "damaged PNG": (lambda: opened(with_damaged_middle(png())), r"cannot be decoded \(RGB, 40x40 px\)"),
    "closed file": (closed_file, r"cannot be decoded .* from a file that is still open"),
    "integers": (lambda: Image.new("I", (40, 40)), "has the mode 'I', expected RGB or one that Pillow converts to it"),
    "floats": (lambda: Image.new("F", (40, 40)), "has the mode 'F', expected RGB .* floats in"),
    "premultiplied grey": (lambda: Image.new("La", (40, 40)), "has the mode 'La', expected RGB"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_region_is_refused(processor, case):
    make, message = REFUSED[case]
    with pytest.raises(ValueError, match=f"^(The image|`images`) {message}"):
        processor(make(), allow_missing_context=True)


@pytest.mark.parametrize("case", REFUSED)
def test_in_a_list_the_refused_item_is_named(processor, case):
    make, message = REFUSED[case]
    good = random_rgb()
    with pytest.raises(ValueError, match=rf"^images\[2\] {message}"):
        processor([Image.fromarray(good), good, make(), good], allow_missing_context=True)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (np.stack([grey_with(0.5), grey_with(0.5), grey_with(np.nan)]), r"^images\[2\] holds floats"),
        (
            torch.from_numpy(np.stack([grey_with(0.5), grey_with(2.0)])).permute(0, 3, 1, 2),
            r"^images\[1\] holds floats .* to 2,",
        ),
        (np.zeros((2, 40, 40, 4), np.uint8), r"^Each of `images` has shape \(40, 40, 4\), expected 1 or 3 channels"),
        (torch.zeros(2, 5, 40, 40), r"^Each of `images` has shape \(5, 40, 40\), expected 1 or 3 channels"),
        (
            np.zeros((0, 40, 40, 3), np.uint8),
            r"^`images` is an empty batch of shape \(0, 40, 40, 3\), expected at least",
        ),
        (np.zeros((2, 39, 40, 3), np.uint8), r"^images\[0\] is 39x40 px .* expected at least 40x40 px"),
        (np.zeros((2, 0, 40, 3), np.uint8), r"^images\[0\] is 0x40 px"),
        ([], "^`images` is an empty list, expected at least one image"),
        ((), "^`images` is an empty list"),
        ([[random_rgb()]], r"^images\[0\] is list, expected .* or a flat list of these"),
        ([random_rgb(), [random_rgb(), random_rgb()]], r"^images\[1\] is list, expected .* or a flat list of these"),
        ([np.stack([random_rgb(), random_rgb()])], r"^images\[0\] has shape \(2, 40, 40, 3\), .* passed by itself"),
        ([random_rgb(), random_rgb(39, 40)], r"^images\[1\] is 39x40 px .* expected at least 40x40 px"),
    ],
)
def test_batches_and_lists_are_refused_by_item(processor, batch, message):
    with pytest.raises(ValueError, match=message):
        processor(batch)


def test_a_long_path_or_file_does_not_flood_the_message(processor):
    for text in ("base64" * 100_000, png() * 100):
        with pytest.raises(ValueError, match=r"Open (it|them) first") as error:
            processor(text)
        assert len(str(error.value)) < 400


def tiff(**options):
    """A TIFF file whose directory comes before its pixels, as scanners write it; Pillow writes it last."""
    file = io.BytesIO()
    tifffile.imwrite(file, random_rgb(48, 48), photometric="rgb", **options)
    return file.getvalue()


def tiff_of_planes():
    file = io.BytesIO()
    planes = random_rgb(48, 48).transpose(2, 0, 1)
    tifffile.imwrite(file, planes, photometric="rgb", planarconfig="separate", compression="deflate")
    return file.getvalue()


FILES = {
    "PNG": png,
    "JPEG": jpeg,
    "JPEG 2000": lambda: encoded(Image.fromarray(random_rgb()), "JPEG2000"),
    "BMP": lambda: encoded(Image.fromarray(random_rgb()), "BMP"),
    "TIFF": tiff,
    "TIFF with deflated strips": lambda: tiff(compression="deflate", rowsperstrip=16),
    "TIFF with deflated tiles": lambda: tiff(compression="deflate", tile=(16, 16)),
    "TIFF with deflated planes": tiff_of_planes,
}


@pytest.mark.parametrize("kind", FILES)
def test_a_truncated_file_stays_refused_when_tried_again(processor, kind):
    data = FILES[kind]()
    image = opened(data[: len(data) * 2 // 3])
    for _ in range(3):
        with pytest.raises(ValueError, match="cannot be decoded"):
            processor(image)


@pytest.mark.filterwarnings("ignore:Truncated File Read", "ignore:Corrupt EXIF data")
@pytest.mark.parametrize("kind", FILES)
def test_a_file_cut_anywhere_is_refused_by_name(processor, kind):
    """Wherever the file ends, either Pillow cannot open it or the processor says so: no other error comes through."""
    data = FILES[kind]()
    outcomes = set()
    for end in range(1, len(data) - 20, 97):
        try:
            image = opened(data[:end])
        except OSError:
            outcomes.add("not an image")
            continue
        with pytest.raises(ValueError, match=r"^The image cannot be decoded"):
            processor(image)
        with pytest.raises(ValueError, match=r"^The image cannot be decoded"):
            processor(image)
        outcomes.add("refused")
    assert outcomes == {"not an image", "refused"}
    assert processor(opened(data), return_tensors="pt")["context_mask"].all()


def png_header_of(width, height):
    """A PNG file that claims a size and holds no pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_refused_before_it_is_decoded(processor):
    with pytest.warns(Image.DecompressionBombWarning):
        bomb = opened(png_header_of(12_000, 9_000))
    message = (
        r"^images\[1\] has 12000x9000 px, more than PIL.Image.MAX_IMAGE_PIXELS \(\d+\): it may be a decompression bomb"
    )
    with pytest.raises(ValueError, match=message):
        processor([random_rgb(), bomb])


def test_the_limit_of_pillow_is_the_users_choice(processor, monkeypatch):
    data = encoded(Image.fromarray(random_rgb(45, 50)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 45 * 50)
    image = opened(data)
    processor(image)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 45 * 50 - 1)
    with pytest.raises(ValueError, match=r"more than PIL.Image.MAX_IMAGE_PIXELS \(2249\)"):
        processor(image)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    processor(image)


def test_an_image_in_memory_is_no_bomb_whatever_its_size(processor, monkeypatch):
    image = Image.fromarray(random_rgb(90, 90))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    assert processor(image, return_tensors="pt")["context_mask"].all()


def test_nothing_is_decoded_if_a_later_item_cannot_be_used(processor):
    first = opened(jpeg()[:-700])
    with pytest.raises(ValueError, match=r"^images\[1\] is NoneType"):
        processor([first, None])


@pytest.mark.parametrize(
    "option", ["do_resize", "size", "do_center_crop", "crop_size", "do_normalise", "padding", "text", "device"]
)
def test_unknown_options_are_refused(processor, option):
    with pytest.raises(TypeError, match=rf"Unknown arguments \['{option}'\], .* never resizes"):
        processor(random_rgb(), **{option: True})
