"""JPEG patches decoded by simplejpeg are Pillow's to the byte, and what is wrong with a file Pillow says as before."""

import io
import random
import sys

import numpy as np
import pytest
from PIL import Image

from spider_tools.data import jpeg_decoding, patches
from spider_tools.data.jpeg_decoding import exact_decoder, read_plain_jpeg
from spider_tools.data.patches import FolderPatches

SIDE = 52
KINDS = [
    {},
    {"quality": 5},
    {"quality": 100, "subsampling": 0},
    {"subsampling": 1},
    {"optimize": True},
    {"restart_marker_blocks": 3},
    {"icc_profile": b"p" * 500},
    {"comment": b"c" * 6000},
    {"exif": b"Exif\0\0" + bytes(200)},
    {"progressive": True},
    {"keep_rgb": True},
]


@pytest.fixture(autouse=True)
def _tried_anew():
    exact_decoder.cache_clear()
    yield
    exact_decoder.cache_clear()


def picture(mode="RGB", side=SIDE):
    coarse = np.random.default_rng(1).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    fine = np.random.default_rng(2).integers(-20, 20, (side, side, 3))
    smooth = np.asarray(Image.fromarray(coarse).resize((side, side)))
    return Image.fromarray((smooth + fine).clip(0, 255).astype(np.uint8)).convert(mode)


def encoded(mode="RGB", side=SIDE, **options):
    buffer = io.BytesIO()
    picture(mode, side).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.fixture
def both_ways(tmp_path, monkeypatch):
    """`both_ways(content)`: the pixels or the error of a file, with simplejpeg and without."""
    source = FolderPatches(tmp_path, SIDE, tmp_path / "no table")
    monkeypatch.setattr(source, "_user_of", lambda name: "no record")

    def read():
        try:
            return source.read("patch.jpg")
        except ValueError as error:
            return str(error)

    def read_both(content):
        (tmp_path / "patch.jpg").write_bytes(content)
        with monkeypatch.context() as patched:
            patched.setattr(patches, "read_plain_jpeg", lambda path, side: None)
            expected = read()
        return read(), expected

    return read_both


def assert_same(pixels, expected):
    assert type(pixels) is type(expected)
    if isinstance(pixels, str):
        assert pixels == expected
    else:
        np.testing.assert_array_equal(pixels, expected)
        assert pixels.dtype == np.uint8
        assert pixels.flags.writeable
        assert pixels.flags.c_contiguous


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", KINDS, ids=lambda options: ",".join(options) or "plain")
def test_pixels_are_those_of_pillow(both_ways, mode, options):
    if mode != "RGB" and "keep_rgb" in options:
        pytest.skip("there is no RGB to keep")
    assert_same(*both_ways(encoded(mode, **options)))


def test_everyday_files_are_decoded_by_simplejpeg(tmp_path):
    pytest.importorskip("simplejpeg")
    for number, (mode, options) in enumerate([("RGB", {}), ("L", {}), ("RGB", {"subsampling": 0, "optimize": True})]):
        path = tmp_path / f"{number}.png"  # whatever they are called
        path.write_bytes(encoded(mode, **options))
        assert read_plain_jpeg(str(path), SIDE) is not None
    assert read_plain_jpeg(str(path), SIDE - 1) is None
    assert read_plain_jpeg(str(tmp_path), SIDE) is None
    assert read_plain_jpeg(str(tmp_path / "gone"), SIDE) is None


@pytest.mark.parametrize("options", [{}, {"restart_marker_blocks": 2}, {"subsampling": 0}])
def test_damaged_files_give_the_same_pixels_or_the_same_words(both_ways, options):
    generator, content = random.Random(0), encoded(**options)
    refused = 0
    for number in range(150):
        damaged = bytearray(content)
        for _ in range(generator.choice((1, 2, 5))):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        if number % 3 == 0:
            del damaged[generator.randrange(len(damaged)) :]
        elif number % 3 == 1:
            damaged += generator.randbytes(20)
        pixels, expected = both_ways(bytes(damaged))
        assert_same(pixels, expected)
        refused += isinstance(pixels, str)
    assert 0 < refused < 150
    assert_same(*both_ways(content[:-2]))  # whole but for its end


def test_a_library_that_gives_other_pixels_is_not_used(both_ways, monkeypatch, caplog):
    simplejpeg = pytest.importorskip("simplejpeg")
    decode = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *a, **k: decode(*a, **k, fastdct=True, fastupsample=True))
    assert exact_decoder() is None
    assert "decodes to other pixels than Pillow" in caplog.text
    assert_same(*both_ways(encoded()))


def test_without_the_library_pillow_decodes(both_ways, monkeypatch):
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    assert exact_decoder() is None
    assert_same(*both_ways(encoded()))


def test_the_samples_are_ones_that_pillow_reads():
    sizes = {jpeg_decoding._by_pillow(content).shape for content in jpeg_decoding._samples()}
    assert sizes == {(37, 45, 3)}
