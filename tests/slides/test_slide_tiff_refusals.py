"""TIFFs that would be read wrongly are refused, by open_slide and by a run, in one sentence that says what they are."""

import re

import numpy as np
import pytest
import tifffile
from PIL import Image
from slide_files import draw_slide, write_pyramid
from tiff_kinds import HALF, HALF_UM, PIXELS, QUARTER, RGB, TILED, damage, in_planes, write_pages, write_subifds

from spider_tools.slide_files import probe
from spider_tools.slide_files.reader import open_slide
from spider_tools.slide_files.slide_error import SlideError
from spider_tools.slide_files.tiff_slide import TiffSlide

GREY = PIXELS[..., 0].copy()
FIVE = np.stack([PIXELS[..., number % 3] for number in range(5)])
BLACK_IS_ZERO = {"photometric": "minisblack"}
ALL = {**RGB, **TILED, **HALF_UM}
GREY_TILES = {**BLACK_IS_ZERO, **TILED, **HALF_UM}
PLANES = {"planarconfig": "separate"}
IS_GREY = "is grey: the models know stained tissue in colour only"


def write_stack(path, pixels, axes, **options):
    tifffile.imwrite(path, pixels, ome=True, metadata={"axes": axes}, **{**TILED, **HALF_UM, **options})
    return path


def with_another_file(path):
    """One part of an OME-TIFF whose other part has the px."""
    write_subifds(path, PIXELS)
    with tifffile.TiffFile(path, mode="r+b") as file:
        text = file.pages[0].description
        place = '<UUID FileName="../../secret.tif">urn:uuid:11111111-2222-3333-4444-555555555555</UUID></TiffData>'
        text = re.sub(r"(<TiffData[^>]*?)/>", rf"\1>{place}", text, count=1)
        file.pages[0].tags["ImageDescription"].overwrite(text)
    return path


REFUSED = {
    "grey": (lambda p: write_pages(p, GREY, **GREY_TILES), IS_GREY),
    "grey in strips": (lambda p: write_pages(p, GREY, **BLACK_IS_ZERO), IS_GREY),
    "white is zero": (lambda p: write_pages(p, GREY, photometric="miniswhite", **TILED), IS_GREY),
    "16 bits of grey": (lambda p: write_pages(p, GREY.astype(np.uint16) * 257, **GREY_TILES), IS_GREY),
    "grey with alpha": (
        lambda p: write_pages(
            p, np.dstack([GREY, GREY]), planarconfig="contig", extrasamples=["unassalpha"], **GREY_TILES
        ),
        IS_GREY,
    ),
    "grey, SubIFDs": (
        lambda p: write_subifds(p, GREY, GREY[::2, ::2].copy(), metadata={"axes": "YX"}, **BLACK_IS_ZERO),
        IS_GREY,
    ),
    "black and white": (lambda p: write_pages(p, GREY > 128, **BLACK_IS_ZERO), IS_GREY),
    "fluorescence in planes": (
        lambda p: write_pages(p, FIVE, **PLANES, **GREY_TILES),
        "has 5 channels that are no col",
    ),
    "fluorescence in each px": (
        lambda p: write_pages(p, np.moveaxis(FIVE, 0, 2).copy(), planarconfig="contig", **GREY_TILES),
        "has 5 channels that are no colours",
    ),
    "fluorescence of three": (
        lambda p: write_pages(p, in_planes(PIXELS), **PLANES, **GREY_TILES),
        "has 3 channels that are no colours.*raw2ometiff --rgb",
    ),
    "fluorescence in OME": (lambda p: write_stack(p, FIVE, "CYX", **BLACK_IS_ZERO), "holds 5 channels"),
    "three channels in OME": (
        lambda p: write_stack(p, in_planes(PIXELS), "CYX", **BLACK_IS_ZERO),
        "holds 3 channels.*raw2ometiff --rgb",
    ),
    "RGB and two more": (
        lambda p: write_pages(p, np.dstack([PIXELS, PIXELS[..., :2]]), planarconfig="contig", **ALL),
        "has 5 channels, expected the 3 of RGB",
    ),
    "focal planes in OME": (lambda p: write_stack(p, np.stack([PIXELS] * 4), "ZYXS", **RGB), "holds 4 focal planes"),
    "times in OME": (lambda p: write_stack(p, np.stack([PIXELS] * 3), "TYXS", **RGB), "holds 3 points in time"),
    "focal planes": (lambda p: write_pages(p, np.stack([PIXELS] * 3), **ALL), "holds 3 images of 332 x 252 px"),
    "focal planes in strips": (lambda p: write_pages(p, np.stack([PIXELS] * 3), **RGB), "holds 3 images of 332 x 252"),
    "ImageJ's stack": (
        lambda p: tifffile.imwrite(p, np.stack([PIXELS] * 3), imagej=True) or p,
        "holds 3 images of 332 x 252 px",
    ),
    "two slides in one": (
        lambda p: write_subifds(p, PIXELS, beside=[("scene 2", PIXELS[:250])]),
        r"holds 2 images that may be the slide \(.*332 x 252 px, scene 2, 332 x 250 px\)",
    ),
    "px in another file": (with_another_file, "its pixels lie in another one"),
    "float": (lambda p: write_pages(p, PIXELS / np.float32(255), **ALL), "has samples of float32, expected whole"),
    "signed": (lambda p: write_pages(p, (PIXELS // 2).astype(np.int8), **ALL), "has samples of int8"),
    "32 bits": (lambda p: write_pages(p, PIXELS.astype(np.uint32), **ALL), "has samples of uint32"),
    "CIELAB": (
        lambda p: write_pages(p, PIXELS, photometric="cielab", **TILED),
        "colours of the kind CIELAB, expected RGB",
    ),
    "12 bits in 16": (
        lambda p: write_pages(p, PIXELS.astype(np.uint16) << 4, **ALL),
        "nearly black.*convert it to 8 bits",
    ),
    "12 bits in 16, SubIFDs": (
        lambda p: write_subifds(p, PIXELS.astype(np.uint16) << 4, HALF.astype(np.uint16) << 4),
        "nearly black.*of 255",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_be_read_wrongly_is_refused_in_words(tmp_path, kind):
    write, message = REFUSED[kind]
    path = write(tmp_path / "s.tif")
    with pytest.raises(SlideError, match=rf"s\.tif .*{message}") as raised:
        open_slide(path, mpp=0.5)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("write", [write_pages, write_subifds])
def test_rgb_without_any_colour_is_warned_of(tmp_path, write, caplog):
    grey = [np.repeat(pixels[..., :1], 3, axis=2) for pixels in (PIXELS, QUARTER)]
    slide = open_slide(write(tmp_path / "s.tif", *grey, **ALL))
    assert "It is RGB without any colour" in slide.warnings[-1]
    assert "s.tif: It is RGB without any colour" in caplog.text


def test_bare_glass_and_coloured_slides_are_not_warned_of(tmp_path, caplog):
    Image.new("RGB", (300, 200), (250, 250, 250)).save(tmp_path / "glass.png")
    assert open_slide(tmp_path / "glass.png", mpp=0.5).warnings == ()
    large = write_pyramid(tmp_path / "s.tif", draw_slide(1200, 1100), 0.5, factors=(1,))
    assert open_slide(large).warnings == ()
    assert caplog.text == ""


@pytest.mark.parametrize("name", ["label", "Macro image", "overview_1", "thumbnail"])
def test_an_image_that_is_named_as_no_slide_is_none_whatever_its_size(tmp_path, name):
    path = write_subifds(tmp_path / "s.tif", HALF, QUARTER, beside=[(name, PIXELS)])
    assert open_slide(path).size == (166, 126)


def test_ome_xml_of_another_image_is_not_believed(tmp_path):
    """As where a program reduces an image and keeps its description."""
    whole = write_subifds(tmp_path / "whole.tif", PIXELS)
    with tifffile.TiffFile(whole) as file:
        text = file.pages[0].description
    path = write_pages(tmp_path / "s.tif", HALF, description=text, **RGB, **TILED)
    with pytest.raises(SlideError, match=r"s\.tif does not say its um/px"):
        open_slide(path)
    assert open_slide(path, mpp=1.0).size == (166, 126)


@pytest.mark.parametrize(
    ("text", "is_broken"),
    [
        ("<OME><Image", True),
        ('<!DOCTYPE x [<!ENTITY a "b">]><OME>&a;</OME>', True),
        ("<OME/>", False),
        ("<OME ><Image/></OME>", False),
        ('<OME ><Image><Pixels SizeX="a" SizeY="-3" PhysicalSizeX="nan"/></Image></OME>', False),
        ('<OME ><Image><Pixels SizeX="332" SizeY="252"><TiffData IFD="9"/></Pixels></Image></OME>', False),
    ],
)
def test_ome_xml_that_is_broken_or_says_nothing_makes_a_plain_tiff(tmp_path, text, is_broken, caplog):
    path = write_pages(tmp_path / "s.tif", PIXELS, QUARTER, description=text, **ALL)
    assert [level.size for level in open_slide(path).levels] == [(332, 252), (83, 63)]
    assert ("its OME-XML is not read" in caplog.text) == is_broken


def test_a_grey_slide_of_aperio_is_refused(tmp_path):
    text = "Aperio Image Library v11.2.1 \n332x252 (64x64)|AppMag = 20|MPP = 0.5"
    path = write_pages(tmp_path / "s.svs", GREY, description=text, **GREY_TILES)
    with pytest.raises(SlideError, match=rf"s\.svs {IS_GREY}"):
        open_slide(path)


def places_of_tags(path):
    """Where the file says what its images are: the bytes of all directories, and of their short values."""
    with tifffile.TiffFile(path) as file:
        pages = [file.pages[0], *(file.pages[0].pages or ()), *list(file.pages)[1:]]
        tags = [tag for page in pages for tag in page.tags]
    return [
        place
        for tag in tags
        for begin, count in ((tag.offset, 12), (tag.valueoffset, min(40, tag.valuebytecount)))
        for place in range(begin, begin + count)
    ]


def big_endian_subifds(path, dtype):
    """OpenSlide, which other damage ends the process of, does not read it."""
    pixels = [
        (level[:128, :160] * np.ones(1, dtype)).astype(dtype) * (257 if dtype == "u2" else 1)
        for level in (PIXELS, HALF)
    ]
    with tifffile.TiffWriter(path, byteorder=">") as file:
        file.write(pixels[0], subifds=1, compression="deflate", metadata=None, **ALL)
        file.write(pixels[1][:64, :80].copy(), subfiletype=1, compression="deflate", metadata=None, **ALL)
    return path


@pytest.mark.filterwarnings("ignore:Tag data larger")  # of Pillow, on its way to refusing the file
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_whatever_is_wrong_in_the_directories_is_told_in_words(tmp_path, dtype):
    path = big_endian_subifds(tmp_path / "s.tif", dtype)
    assert len(open_slide(path).levels) == 2
    content, places, rng = path.read_bytes(), places_of_tags(path), np.random.default_rng(0)
    outcomes = []
    for _ in range(60):
        damaged = bytearray(content)
        for place in rng.choice(places, 2):
            damaged[place] = rng.choice([0, 1, 2, 4, 7, 255])
        path.write_bytes(damaged)
        try:
            slide = open_slide(path, mpp=0.5)
            for number, level in enumerate(slide.levels):
                slide.read_level(number, (0, 0), (min(level.size[0], 90), min(level.size[1], 90)))
            outcomes.append("read")
        except SlideError:
            outcomes.append("refused")
    assert set(outcomes) == {"read", "refused"}


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_px_that_are_damaged_are_told_in_words(tmp_path, dtype):
    path = big_endian_subifds(tmp_path / "s.tif", dtype)
    with tifffile.TiffFile(path) as file:
        offset, count = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    damage(path, offset, count)
    slide = open_slide(path)
    with pytest.raises(SlideError, match=r"s\.tif is damaged at level 0, x 0, y 0: "):
        slide.read_level(0, (3, 3), (9, 9))
    assert slide.read_level(0, (64, 64), (64, 64)).std() > 1


def test_the_process_that_tries_slides_first_reads_them_too(tmp_path, monkeypatch):
    read, one = [], TiffSlide.read_level
    monkeypatch.setattr(TiffSlide, "read_level", lambda self, *where: read.append(where[0]) or one(self, *where))
    probe._read_a_little(str(write_subifds(tmp_path / "s.tif", PIXELS, HALF)))
    assert read == [0, 1]
    probe._read_a_little(str(write_pyramid(tmp_path / "a.svs", PIXELS, 0.5, description="aperio")))
    assert read == [0, 1]
