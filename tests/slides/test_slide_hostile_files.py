"""Files that are made to hang, to recurse or to start a program: each is refused in words, and at once."""

import json
import os
import struct

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image
from slide_files import draw_slide, write_pyramid

from spider_tools.cohorts.many import segment_slides
from spider_tools.slide_files import file_check
from spider_tools.slide_files.reader import SlideError, open_slide
from spider_tools.slide_files.view import SlideView
from spider_tools.slide_sources.manifests import read_manifest
from spider_tools.tissue.drawings import read_drawing

pytestmark = [pytest.mark.usefixtures("fresh_accelerator"), pytest.mark.slow]


def classic(*directories, order="<"):
    """A TIFF of directories without tags, from `(offset, offset of the next one)`."""
    content = bytearray((b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", directories[0][0]))
    for offset, following in directories:
        content.extend(bytes(max(0, offset + 6 - len(content))))
        struct.pack_into(f"{order}HI", content, offset, 0, following)
    return bytes(content)


CIRCLES = {
    "to itself": classic((8, 8)),
    "to itself, big endian": classic((8, 8), order=">"),
    "to the first of two": classic((8, 14), (14, 8)),
    "to the second of three": classic((8, 14), (14, 20), (20, 14)),
    "of more than tifffile looks at": classic(*((8 + 6 * i, 14 + 6 * i) for i in range(300)), (1808, 8 + 6 * 250)),
    "BigTIFF": b"II+\0" + struct.pack("<HHQQQ", 8, 0, 16, 0, 16),
    "with a tag": b"II*\0" + struct.pack("<IHHHIII", 8, 1, 256, 3, 1, 5, 8),
}


@pytest.mark.parametrize("circle", CIRCLES)
def test_a_tiff_whose_directories_lead_in_a_circle_is_refused(tmp_path, circle):
    (tmp_path / "s.tif").write_bytes(CIRCLES[circle])
    with pytest.raises(SlideError, match=r"s\.tif is no whole TIFF file: its directories lead in a circle, back to"):
        open_slide(tmp_path / "s.tif", mpp=0.5)


def test_a_pyramid_whose_last_level_leads_back_to_the_first_is_refused(tmp_path):
    path = write_pyramid(tmp_path / "s.tif", draw_slide(300, 230), 0.5)
    content = bytearray(path.read_bytes())
    (first,) = struct.unpack_from("<I", content, 4)
    here = first
    while here:
        link = here + 2 + 12 * struct.unpack_from("<H", content, here)[0]
        (here,) = struct.unpack_from("<I", content, link)
    struct.pack_into("<I", content, link, first)
    path.write_bytes(content)
    with pytest.raises(SlideError, match="lead in a circle"):
        open_slide(path)


def test_a_tiff_of_too_many_directories_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(file_check, "_MOST_DIRECTORIES", 50)
    links = [(8 + 6 * i, 14 + 6 * i) for i in range(60)]
    (tmp_path / "s.tif").write_bytes(classic(*links[:-1], (links[-1][0], 0)))
    with pytest.raises(SlideError, match="more than 50 directories"):
        open_slide(tmp_path / "s.tif", mpp=0.5)


def make_no_file(path, kind):
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "link to nowhere":
        path.symlink_to("nowhere")
    else:
        path.symlink_to(path.name)
    return path


NO_FILES = {
    "pipe": "is a pipe, expected a regular file",
    "device": "is a device, expected a regular file",
    "folder": "is a folder, expected a regular file",
    "link to nowhere": "There is no .*: it is a link to nowhere, which is not there",
    "link to itself": "cannot be opened: Too many levels of symbolic links",
}


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("suffix", [".svs", ".png", ".dcm"])
def test_what_is_no_file_fails_as_a_slide_and_takes_no_other_with_it(tmp_path, settings, kind, suffix):
    good = write_pyramid(tmp_path / "good.tif", draw_slide(200, 180), 0.5)
    bad = make_no_file(tmp_path / f"bad{suffix}", kind)
    (tmp_path / "list.csv").write_text(f"slide\n{bad.name}\n{good.name}\n")
    results = segment_slides([tmp_path / "list.csv"], settings)
    assert [(result.name, result.status) for result in results] == [("bad", "failed"), ("good", "done")]
    with pytest.raises(SlideError, match=NO_FILES[kind]):
        open_slide(bad, mpp=0.5)


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_refused_as_a_mask_of_a_manifest(tmp_path, settings, kind, caplog):
    good = write_pyramid(tmp_path / "good.tif", draw_slide(200, 180), 0.5)
    make_no_file(tmp_path / "m.png", kind)
    (tmp_path / "list.csv").write_text(f"slide,mask\n{good.name},m.png\n")
    (result,) = segment_slides([tmp_path / "list.csv"], settings)
    assert result.status == "failed"
    assert "mask" in result.message
    assert "m.png" in result.message


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt"])
def test_what_is_no_file_is_refused_as_a_manifest(tmp_path, kind, suffix):
    with pytest.raises(ValueError, match=NO_FILES[kind]):
        read_manifest(make_no_file(tmp_path / f"list{suffix}", kind))


@pytest.fixture
def view(tmp_path):
    return SlideView(open_slide(write_pyramid(tmp_path / "slide.tif", draw_slide(300, 230), 0.5)), (1.0, 1.0))


SQUARE = {"type": "Polygon", "coordinates": [[[10, 10], [90, 10], [90, 90], [10, 90], [10, 10]]]}
NESTS = {
    "lists": "[{}]",
    "collections of features": '{{"type": "FeatureCollection", "features": [{}]}}',
    "collections of geometries": '{{"type": "GeometryCollection", "geometries": [{}]}}',
    "coordinates": '{{"type": "Polygon", "coordinates": {}}}',
    "another member": '{{"type": "Polygon", "coordinates": [], "more": {}}}',
}


@pytest.mark.parametrize("depth", [2_000, 100_000])
@pytest.mark.parametrize("nest", NESTS)
def test_geojson_that_is_nested_too_deeply_is_refused(tmp_path, view, nest, depth):
    opening, closing = NESTS[nest].format("\0").split("\0")
    if nest in ("coordinates", "another member"):
        text = opening + "[" * depth + "]" * depth + closing
    else:
        text = opening * depth + json.dumps(SQUARE) + closing * depth
    (tmp_path / "m.geojson").write_text(text)
    with pytest.raises(SlideError, match=r"m\.geojson is no GeoJSON of polygons: it is nested too deeply"):
        read_drawing(tmp_path / "m.geojson", view)


def test_geojson_that_is_nested_as_programs_write_it_is_read(tmp_path, view):
    content = SQUARE
    for _ in range(20):
        content = {"type": "GeometryCollection", "geometries": [content]}
    (tmp_path / "m.geojson").write_text(json.dumps([{"type": "FeatureCollection", "features": [content]}]))
    mask, _ = read_drawing(tmp_path / "m.geojson", view)
    assert mask.sum() == 80 * 80


@pytest.mark.parametrize("kind", ["EPS", "GIF", "PPM", "TGA", "PCX", "SGI", "ICO", "DDS"])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".eps"])
def test_other_formats_of_pillow_are_opened_neither_as_slides_nor_as_masks(tmp_path, view, monkeypatch, kind, suffix):
    def start(*args, **options):
        raise AssertionError("a program was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", start)
    path = tmp_path / f"m{suffix}"
    Image.fromarray(draw_slide(300, 230)).save(path, kind)
    with pytest.raises(SlideError, match="neither a slide that OpenSlide reads nor an image \\(PNG, JPEG"):
        open_slide(path, mpp=0.5)
    with pytest.raises(SlideError, match="is no image \\(PNG, JPEG"):
        read_drawing(path, view)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "MPO", "TIFF", "BMP", "WEBP"])
def test_the_formats_that_are_meant_are_opened_whatever_the_files_are_called(tmp_path, view, kind):
    pixels = np.full((230, 300, 3), (200, 100, 150), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "m.png", kind)
    slide = open_slide(tmp_path / "m.png", mpp=0.5)
    np.testing.assert_allclose(slide.read_level(0, (0, 0), (300, 230)), pixels, atol=4)
    assert read_drawing(tmp_path / "m.png", view)[0].all()


@pytest.mark.parametrize("content", [b"II*\x00\x08\x00\x00\x00", b"II*\x00\x08\x00\x00\x00\x01\x00\x00"])
def test_an_ndpi_that_ends_in_its_header_is_refused_in_words(tmp_path, content):
    path = tmp_path / "cut.ndpi"
    path.write_bytes(content)
    with pytest.raises(SlideError, match="no whole TIFF file"):
        file_check.check_tiff_is_whole(path)
