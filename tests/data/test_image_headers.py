"""A first look at a header says yes only where Pillow opens the file with that size and a mode that can be used."""

import io
import os
import random
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from spider_tools.data import image_headers
from spider_tools.data.image_headers import is_plain_header, is_plain_image
from spider_tools.data.patches import bad_images, check_image

SIDE = 12
MODES = ("RGB", "L", "RGBA", "LA", "P", "1", "CMYK", "I;16", "F", "YCbCr")
OPTIONS = {
    "PNG": [{}, {"optimize": True}, {"dpi": (72, 72)}, {"icc_profile": b"x" * 300}, {"gamma": 0.4}],
    "JPEG": [
        {},
        {"progressive": True},
        {"optimize": True, "quality": 100},
        {"subsampling": 0, "dpi": (300, 300), "comment": b"c"},
        {"restart_marker_rows": 1},
        {"icc_profile": b"p" * 200},
        {"icc_profile": b"p" * 200_000},
        {"exif": b"Exif\0\0" + b"\0" * 60_000},
    ],
    "TIFF": [{}],
    "BMP": [{}],
    "GIF": [{}],
    "WEBP": [{}],
    "PPM": [{}],
    "ICO": [{}],  # none that may be opened
}


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch):
    monkeypatch.setattr(image_headers, "_known", {})


def encoded(mode="RGB", kind="PNG", size=(SIDE, SIDE), **options):
    values = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    image = Image.fromarray(values)
    image = image.convert("L").convert("I").convert("I;16") if mode == "I;16" else image.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def every_kind():
    for kind, all_options in OPTIONS.items():
        for mode in MODES:
            for options in all_options:
                for size in ((SIDE, SIDE), (SIDE + 1, SIDE), (SIDE, SIDE - 1)):
                    try:
                        yield f"{kind} {mode} {list(options)} {size}", encoded(mode, kind, size, **options)
                    except (OSError, ValueError):
                        break  # no such mode in this format


def chunk(kind, content, crc=None):
    crc = zlib.crc32(kind + content) if crc is None else crc
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def png(ihdr=(SIDE, SIDE, 8, 2, 0, 0, 0), between=b"", data=b"x"):
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", *ihdr)) + between + chunk(b"IDAT", data)


def segment(marker, content, length=None):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2 if length is None else length) + content


def frame(marker=0xC0, bits=8, size=(SIDE, SIDE), channels=3, more=b""):
    places = b"".join(bytes([i + 1, 0x11, 0]) for i in range(channels))
    return segment(marker, struct.pack(">BHHB", bits, size[1], size[0], channels) + places + more)


SCAN = segment(0xDA, b"\3\1\0\2\0\3\0\0\x3f\0")
JFIF = segment(0xE0, b"JFIF\0\1\1\1\0H\0H\0\0")


def jpeg(*segments, scan=SCAN):
    return b"\xff\xd8" + b"".join(segments) + scan


ODD = {
    "png of no size": png((0, 0, 8, 2, 0, 0, 0)),
    "png interlaced": png((SIDE, SIDE, 8, 2, 0, 0, 1)),
    "png of 16 bits": png((SIDE, SIDE, 16, 2, 0, 0, 0)),
    "png of grey in 16 bits": png((SIDE, SIDE, 16, 0, 0, 0, 0)),
    "png of a depth that is none": png((SIDE, SIDE, 3, 2, 0, 0, 0)),
    "png of a colour type that is none": png((SIDE, SIDE, 8, 5, 0, 0, 0)),
    "png of another filter": png((SIDE, SIDE, 8, 2, 0, 1, 0)),
    "png with a wrong checksum": png(between=chunk(b"gAMA", b"\0\0\0\1", 7)),
    "png whose header has one": png()[:29] + b"\0\0\0\0" + png()[33:],
    "png with a gamma": png(between=chunk(b"gAMA", b"\0\0\0\1")),
    "png with a short gamma": png(between=chunk(b"gAMA", b"\0")),
    "png with a short pHYs": png(between=chunk(b"pHYs", b"\0" * 8)),
    "png with no sRGB": png(between=chunk(b"sRGB", b"")),
    "png of two headers": png(between=chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 5, 8, 2, 0, 0, 0))),
    "png that is animated": png(between=chunk(b"acTL", b"\0\0\0\2\0\0\0\0")),
    "png with text": png(between=chunk(b"tEXt", b"k\0" + b"t" * 5000)),
    "png with an unknown chunk": png(between=chunk(b"quIX", b"1")),
    "png with a chunk without a name": png(between=chunk(b"\0\0\0\0", b"1")),
    "png without data": png()[:33] + chunk(b"IEND", b""),
    "png of much text that is packed": png(between=chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**21)))),
    "jpeg": jpeg(JFIF, frame()),
    "jpeg without a frame": jpeg(JFIF),
    "jpeg of two frames": jpeg(frame(), frame(size=(5, 5))),
    "jpeg of two frames, the second good": jpeg(frame(size=(5, 5)), frame()),
    "jpeg of 12 bits": jpeg(frame(0xC1, bits=12)),
    "jpeg of 2 channels": jpeg(frame(channels=2)),
    "jpeg of 4 channels": jpeg(frame(channels=4)),
    "jpeg with more in the frame": jpeg(frame(more=b"\1")),
    "jpeg with less in the frame": jpeg(frame()[:-1]),
    "jpeg without loss": jpeg(frame(0xC3)),
    "jpeg of arithmetic codes": jpeg(frame(0xC9)),
    "jpeg of no height": jpeg(frame(size=(SIDE, 0))),
    "jpeg with tables of 16 bits": jpeg(segment(0xDB, b"\x10" + b"\0\1" * 64), frame()),
    "jpeg with a short table": jpeg(segment(0xDB, b"\0" * 64), frame()),
    "jpeg with a table that says 16 bits": jpeg(segment(0xDB, b"\x10" + b"\1" * 64), frame()),
    "jpeg with no table": jpeg(segment(0xDB, b""), frame()),
    "jpeg with a segment of length 0": jpeg(segment(0xFE, b"", 0), frame()),
    "jpeg with a segment of length 1": jpeg(segment(0xFE, b"", 1), frame()),
    "jpeg with a segment past its end": jpeg(segment(0xFE, b"c", 60_000), frame()),
    "jpeg with a short scan": jpeg(JFIF, frame(), scan=SCAN[:-1]),
    "jpeg without a scan": jpeg(JFIF, frame(), scan=b""),
    "jpeg with padding": jpeg(JFIF, b"\xff\xff", frame()),
    "jpeg with rubbish": jpeg(JFIF, b"\1\2\3", frame()),
    "jpeg with a short JFIF": jpeg(segment(0xE0, b"JFIF\0"), frame()),
    "jpeg with a short Adobe": jpeg(segment(0xEE, b"Adobe"), frame()),
    "jpeg of Adobe": jpeg(segment(0xEE, b"Adobe\0\x64\0\0\0\0\1"), frame()),
    "jpeg with a short profile": jpeg(segment(0xE2, b"ICC_PROFILE\0\1"), frame()),
    "jpeg with one of two profiles": jpeg(segment(0xE2, b"ICC_PROFILE\0\1\2pp"), frame()),
    "jpeg with Photoshop's": jpeg(segment(0xED, b"Photoshop 3.0\0008BIM\3\xed\0\0\0\0\0\2aa"), frame()),
    "jpeg with bad Exif": jpeg(segment(0xE1, b"Exif\0\0MM\0\1garbage"), frame()),
    "jpeg that says it holds two": jpeg(
        segment(0xE2, b"MPF\0MM\0*\0\0\0\x08\0\1\xb0\1\0\4\0\0\0\1\0\0\0\2\0\0\0\0"), frame()
    ),
    "nothing": b"",
    "zeros": bytes(2000),
    "text": b"no image",
}


def agrees(content, side=SIDE):
    """Whether the first look says yes; then Pillow must find nothing wrong."""
    plain = is_plain_header(content[:4096], side)
    if plain:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(io.BytesIO(content), formats=["PNG", "JPEG"]) as image:
                assert image.size == (side, side)
                assert image.mode in ("L", "RGB", "LA", "RGBA")
    return plain


def test_of_all_kinds_of_files_only_good_ones_are_told_at_once():
    told = [name for name, content in every_kind() if agrees(content)]
    for expected in ("PNG RGB [] (12, 12)", "PNG RGBA ['dpi'] (12, 12)", "JPEG L ['progressive'] (12, 12)"):
        assert expected in told
    assert all(f"({SIDE}, {SIDE})" in name and name.startswith(("PNG", "JPEG")) for name in told)
    assert sum(name.startswith("JPEG") for name in told) >= 12
    assert sum(name.startswith("PNG") for name in told) >= 12


def test_profiles_of_usual_length_are_told_and_longer_ones_left_to_pillow():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert agrees(encoded(kind="JPEG", icc_profile=profile))
    assert not agrees(encoded(kind="JPEG", icc_profile=profile * 30))


@pytest.mark.parametrize("name", ODD)
def test_odd_files_are_never_called_good_where_pillow_objects(name):
    agrees(ODD[name])


def test_everyday_ones_among_them_are_told():
    assert {name for name in ODD if is_plain_header(ODD[name], SIDE)} >= {"jpeg", "jpeg of Adobe", "png with a gamma"}


@pytest.mark.parametrize(
    "content", [encoded(), encoded(kind="JPEG"), encoded(kind="JPEG", progressive=True), ODD["jpeg"]]
)
def test_damaged_headers_are_never_called_good_where_pillow_objects(content):
    generator = random.Random(0)
    told = 0
    for number in range(3000):
        damaged = bytearray(content)
        for _ in range(generator.choice((1, 1, 2, 4))):
            damaged[generator.randrange(min(len(damaged), 700))] = generator.choice(
                (0, 1, 255, generator.randrange(256))
            )
        if number % 3 == 0:
            del damaged[generator.randrange(len(damaged)) :]
        elif number % 3 == 1:
            place = generator.randrange(len(damaged))
            damaged[place:place] = generator.randbytes(generator.randrange(5))
        told += agrees(bytes(damaged))
    assert told


def test_a_header_known_from_another_file_counts_for_files_of_its_size_alone():
    content = encoded(kind="JPEG")
    assert agrees(content)
    assert agrees(content[: content.rindex(b"\xff\xda") + 14] + b"other data")
    assert not agrees(content[: content.rindex(b"\xff\xda") + 13])
    assert not is_plain_header(content, SIDE + 1)
    assert agrees(encoded(kind="JPEG", size=(SIDE + 1, SIDE + 1)), SIDE + 1)
    assert agrees(content)


def test_what_pillow_takes_for_a_bomb_is_left_to_it(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", SIDE * SIDE - 1)
    assert not is_plain_header(encoded(), SIDE)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_both_ways_give_the_same_words_for_files_of_a_folder(tmp_path, monkeypatch, kind):
    good = encoded(kind=kind)
    files = {
        "good": good,
        "wrong.png" if kind == "JPEG" else "wrong.jpg": good,
        "small": encoded(kind=kind, size=(SIDE, SIDE - 1)),
        "short": good[:40],
        "empty": b"",
        **{f"odd {number}": content for number, content in enumerate(ODD.values())},
        **{f"kind {number}": content for number, (_, content) in enumerate(every_kind())},
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "inside").symlink_to("good")
    (tmp_path / "outside").symlink_to("/etc/hostname")
    names = [*files, "folder", "pipe", "inside", "outside", "gone", "", "..", "a/b", "a\\b", "a\0b", "x" * 300]
    fast = bad_images(tmp_path, SIDE, False, names)
    one_by_one = [(name, problem) for name in names if (problem := check_image(tmp_path, name, SIDE, False))]
    assert fast == one_by_one
    assert {"small", "short", "empty", "folder", "pipe", "outside", "gone", "a/b"} <= dict(fast).keys()
    assert not {"good", "inside", "wrong.png", "wrong.jpg"} & dict(fast).keys()


def test_decoding_looks_at_the_pixels_of_every_file(tmp_path):
    content = encoded()
    (tmp_path / "cut").write_bytes(content[:-60])
    assert bad_images(tmp_path, SIDE, False, ["cut"]) == []
    assert [name for name, _ in bad_images(tmp_path, SIDE, True, ["cut"])] == ["cut"]


def test_where_files_cannot_be_opened_safely_pillow_has_the_word(tmp_path, monkeypatch):
    (tmp_path / "good").write_bytes(encoded())
    assert is_plain_image(str(tmp_path / "good"), SIDE)
    monkeypatch.setattr(image_headers, "_CAN_OPEN_SAFELY", False)
    assert not is_plain_image(str(tmp_path / "good"), SIDE)
    assert bad_images(tmp_path, SIDE, False, ["good"]) == []


def test_png_text_of_any_kind_is_left_to_pillow():
    text = PngImagePlugin.PngInfo()
    text.add_text("key", "value")
    assert not agrees(encoded(pnginfo=text))
