"""TIFFs of every kind: each level is what tifffile reads, or the file is refused in words that say what it is."""

import hashlib
import io
import pickle
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image
from tiff_kinds import (
    HALF,
    HALF_UM,
    PIXELS,
    QUARTER,
    RGB,
    TILED,
    damage,
    encoded,
    in_planes,
    tiles_of,
    write_compressed,
    write_pages,
    write_subifds,
)

from spider_tools.slide_files import tiff_slide
from spider_tools.slide_files.content import content_sha256
from spider_tools.slide_files.reader import open_slide
from spider_tools.slide_files.slide_error import SlideError, UnreadableError

ALL = {**RGB, **TILED, **HALF_UM}
STRIPS = {**RGB, **HALF_UM, "rowsperstrip": 16}
X = np.arange(PIXELS.shape[0] * PIXELS.shape[1], dtype=np.uint8).reshape(*PIXELS.shape[:2], 1)
DEEP = PIXELS.astype(np.uint16) * 257
COLOURS = np.random.default_rng(0).integers(0, 1 << 16, (3, 256)).astype(np.uint16)
PLANES = {"planarconfig": "separate"}

# What is written, and the levels that must be found.
READ = {
    "tiles": (lambda p: write_pages(p, PIXELS, QUARTER, **ALL), [PIXELS, QUARTER]),
    "big TIFF": (lambda p: write_pages(p, PIXELS, QUARTER, bigtiff=True, **ALL), [PIXELS, QUARTER]),
    "big endian": (lambda p: write_pages(p, PIXELS, QUARTER, byteorder=">", **ALL), [PIXELS, QUARTER]),
    "big endian, 16 bits": (
        lambda p: write_pages(p, DEEP, DEEP[::4, ::4], byteorder=">", **ALL),
        [PIXELS, PIXELS[::4, ::4]],
    ),
    "strips": (lambda p: write_pages(p, PIXELS, **STRIPS), [PIXELS]),
    "strips, pyramid": (lambda p: write_pages(p, PIXELS, QUARTER, **STRIPS), [PIXELS, QUARTER]),
    "strips, deflate, pyramid": (
        lambda p: write_pages(p, PIXELS, QUARTER, compression="deflate", predictor=True, **STRIPS),
        [PIXELS, QUARTER],
    ),
    "planes in tiles": (lambda p: write_pages(p, in_planes(PIXELS), **PLANES, **ALL), [PIXELS]),
    "planes in strips": (lambda p: write_pages(p, in_planes(PIXELS), **PLANES, **RGB, **HALF_UM), [PIXELS]),
    "planes of 16 bits in strips": (lambda p: write_pages(p, in_planes(DEEP), **PLANES, **RGB, **HALF_UM), [PIXELS]),
    "palette in tiles": (
        lambda p: write_pages(p, PIXELS[..., 0].copy(), photometric="palette", colormap=COLOURS, **TILED, **HALF_UM),
        [np.moveaxis(COLOURS[:, PIXELS[..., 0]] >> 8, 0, 2).astype(np.uint8)],
    ),
    "16 bits": (lambda p: write_pages(p, DEEP, **ALL), [PIXELS]),
    "16 bits in strips": (lambda p: write_pages(p, DEEP, **STRIPS), [PIXELS]),
    "16 bits in big-endian strips, deflate": (
        lambda p: write_pages(p, DEEP, byteorder=">", compression="deflate", predictor=True, **STRIPS),
        [PIXELS],
    ),
    "planes of 16 bits in tiles": (lambda p: write_pages(p, in_planes(DEEP), **PLANES, **ALL), [PIXELS]),
    "planes in strips, deflate": (
        lambda p: write_pages(p, in_planes(PIXELS), compression="deflate", **PLANES, **STRIPS),
        [PIXELS],
    ),
    "planes of 16 bits in strips, deflate": (
        lambda p: write_pages(p, in_planes(DEEP), compression="deflate", predictor=True, **PLANES, **STRIPS),
        [PIXELS],
    ),
    "fourth channel without a name, in strips": (
        lambda p: write_pages(p, np.dstack([PIXELS, X]), extrasamples=["unspecified"], **STRIPS),
        [PIXELS],
    ),
    "opaque, in strips": (
        lambda p: write_pages(p, np.dstack([PIXELS, np.full_like(X, 255)]), extrasamples=["unassalpha"], **STRIPS),
        [PIXELS],
    ),
    "palette in strips": (
        lambda p: write_pages(p, PIXELS[..., 0].copy(), photometric="palette", colormap=COLOURS, **HALF_UM),
        [np.moveaxis(COLOURS[:, PIXELS[..., 0]] >> 8, 0, 2).astype(np.uint8)],
    ),
    "palette, SubIFDs": (
        lambda p: write_subifds(
            p, PIXELS[..., 0].copy(), HALF[..., 0].copy(), ome=False, photometric="palette", colormap=COLOURS, **HALF_UM
        ),
        [np.moveaxis(COLOURS[:, pixels[..., 0]] >> 8, 0, 2).astype(np.uint8) for pixels in (PIXELS, HALF)],
    ),
    "dropped px": (
        lambda p: write_subifds(p, PIXELS[:251, :331], HALF[:125, :165]),
        [PIXELS[:251, :331], HALF[:125, :165]],
    ),
    "LZMA": (lambda p: write_pages(p, PIXELS, QUARTER, compression="lzma", **ALL), [PIXELS, QUARTER]),
    "opaque": (
        lambda p: write_pages(p, np.dstack([PIXELS, np.full_like(X, 255)]), extrasamples=["unassalpha"], **ALL),
        [PIXELS],
    ),
    "fourth channel without a name": (
        lambda p: write_pages(p, np.dstack([PIXELS, X]), extrasamples=["unspecified"], **ALL),
        [PIXELS],
    ),
    "OME, SubIFDs": (lambda p: write_subifds(p, PIXELS, HALF, QUARTER), [PIXELS, HALF, QUARTER]),
    "OME, SubIFDs, deflate": (
        lambda p: write_subifds(p, PIXELS, HALF, compression="deflate", predictor=True),
        [PIXELS, HALF],
    ),
    "OME, SubIFDs, 16 bits": (
        lambda p: write_subifds(p, DEEP, DEEP[::2, ::2], compression="deflate"),
        [PIXELS, PIXELS[::2, ::2]],
    ),
    "OME, SubIFDs in planes": (
        lambda p: write_subifds(
            p,
            in_planes(PIXELS),
            in_planes(HALF),
            metadata={"axes": "SYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5},
            **PLANES,
        ),
        [PIXELS, HALF],
    ),
    "OME, SubIFDs with alpha": (
        lambda p: write_subifds(
            p, *(np.dstack([a, np.full_like(a[..., :1], 255)]) for a in (PIXELS, HALF)), extrasamples=["unassalpha"]
        ),
        [PIXELS, HALF],
    ),
    "OME with a label and a macro": (
        lambda p: write_subifds(
            p, PIXELS, HALF, beside=[("label", QUARTER[:50, :40]), ("macro image", HALF[:90, :150])]
        ),
        [PIXELS, HALF],
    ),
    "OME with the label first": (
        lambda p: write_subifds(p, PIXELS, HALF, before=[("label", QUARTER[:50, :40])]),
        [PIXELS, HALF],
    ),
    "SubIFDs without OME": (lambda p: write_subifds(p, PIXELS, HALF, ome=False, **HALF_UM), [PIXELS, HALF]),
    "a small image first": (lambda p: write_pages(p, QUARTER, PIXELS, each=[{}, {}], **ALL), [PIXELS]),
    "a label that is flagged as reduced": (
        lambda p: write_pages(p, PIXELS, PIXELS[:64, :200], QUARTER, **ALL),
        [PIXELS, QUARTER],
    ),
    "a thumbnail in strips": (
        lambda p: write_pages(p, PIXELS, QUARTER, each=[TILED, {"subfiletype": 1}], **RGB, **HALF_UM),
        [PIXELS],
    ),
    "LZW": (lambda p: write_compressed(p, "lzw", PIXELS, HALF), [PIXELS, HALF]),
    "JPEG 2000": (lambda p: write_compressed(p, "jpeg2000", PIXELS, HALF), [PIXELS, HALF]),
}


def check_levels(slide, levels):
    assert [level.size for level in slide.levels] == [level.shape[1::-1] for level in levels]
    for number, expected in enumerate(levels):
        height, width = expected.shape[:2]
        np.testing.assert_array_equal(slide.read_level(number, (0, 0), (width, height)), expected)
        x, y = width // 3, height // 5
        window = slide.read_level(number, (x, y), (width // 2, height // 2))
        np.testing.assert_array_equal(window, expected[y:, x:][: height // 2, : width // 2])


@pytest.mark.parametrize("kind", READ)
def test_every_level_is_what_was_written(tmp_path, kind):
    write, levels = READ[kind]
    slide = open_slide(write(tmp_path / "s.tif"))
    check_levels(slide, levels)
    assert slide.mpp == pytest.approx((0.5, 0.5))
    for level, expected in zip(slide.levels, levels):
        factor = round(PIXELS.shape[1] / expected.shape[1])
        assert level.downsample == (factor, factor)
    check_levels(pickle.loads(pickle.dumps(slide)), levels)


def test_level_0_is_what_tifffile_reads_itself(tmp_path):
    for name in ("OME, SubIFDs in planes", "big endian", "strips, pyramid"):
        path = READ[name][0](tmp_path / "s.tif")
        own = tifffile.imread(path, key=0)
        own = np.moveaxis(own, 0, 2) if own.shape[0] == 3 else own
        slide = open_slide(path)
        np.testing.assert_array_equal(slide.read_level(0, (0, 0), slide.size), own)


def read_corner(slide):
    return [slide.read_level(level, (3, 5), (70, 50)) for level in range(2)]


@pytest.mark.parametrize("kind", ["OME, SubIFDs", "strips, pyramid"])
def test_workers_read_the_same(tmp_path, kind):
    slide = open_slide(READ[kind][0](tmp_path / "s.tif"))
    here = read_corner(slide)  # a handle that is open must not travel
    with ProcessPoolExecutor(1) as pool:
        for there, expected in zip(pool.submit(read_corner, slide).result(), here):
            np.testing.assert_array_equal(there, expected)


def test_jpeg_in_subifds_is_what_pillow_makes_of_each_tile(tmp_path):
    slide = open_slide(write_compressed(tmp_path / "s.tif", "jpeg", PIXELS, HALF))
    assert slide.read_by == "tifffile"
    for level, pixels in enumerate((PIXELS, HALF)):
        columns = -(-pixels.shape[1] // 64)
        for number in (0, columns + 1):
            tile = list(tiles_of(pixels))[number]
            expected = np.asarray(Image.open(io.BytesIO(encoded(tile, "jpeg"))))
            got = slide.read_level(level, (number % columns * 64, number // columns * 64), (64, 64))
            np.testing.assert_allclose(got.astype(int), expected, atol=1)
            assert abs(got.astype(int) - tile).mean() < 8


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
@pytest.mark.parametrize("way", ["tiles", "SubIFDs", "SubIFDs, 16 bits"])
def test_transparency_is_white(tmp_path, kind, way):
    opacity = np.full((*PIXELS.shape[:2], 1), 255, dtype=np.uint8)
    opacity[:, :100] = 0
    pixels = np.dstack([np.where(opacity, PIXELS, 0), opacity])
    deep = pixels.astype(np.uint16) * 257 if "16" in way else pixels
    if way == "tiles":
        path = write_pages(tmp_path / "s.tif", deep, extrasamples=[kind], **ALL)
    else:
        path = write_subifds(tmp_path / "s.tif", deep, deep[::2, ::2], extrasamples=[kind])
    read = open_slide(path, mpp=0.5).read_level(0, (0, 0), (332, 252))
    np.testing.assert_array_equal(read, np.where(opacity, PIXELS, 255))


def test_a_tile_that_was_not_written_is_white(tmp_path):
    blank = np.zeros_like(PIXELS)
    blank[:64, :64] = PIXELS[:64, :64]
    tiles = iter([tile if number == 0 else None for number, tile in enumerate(tiles_of(blank))])
    with tifffile.TiffWriter(tmp_path / "s.tif", byteorder=">") as file:
        file.write(tiles, shape=blank.shape, dtype=blank.dtype, metadata=None, **ALL)
        file.write(QUARTER, subfiletype=1, metadata=None, **ALL)
    slide = open_slide(tmp_path / "s.tif")
    np.testing.assert_array_equal(slide.read_level(0, (0, 0), (64, 64)), PIXELS[:64, :64])
    assert (slide.read_level(0, (64, 0), (100, 100)) == 255).all()


def test_only_what_a_window_needs_is_decoded(tmp_path, monkeypatch):
    path = write_subifds(tmp_path / "s.tif", PIXELS, HALF, compression="deflate")
    slide, decoded, one = open_slide(path), [], tiff_slide.rgb_of_piece
    monkeypatch.setattr(tiff_slide, "rgb_of_piece", lambda *each: decoded.append(each) or one(*each))
    slide = pickle.loads(pickle.dumps(slide))
    slide.read_level(0, (60, 70), (10, 10))
    assert len(decoded) == 2
    slide.read_level(0, (100, 70), (10, 10))
    assert len(decoded) == 2, "a tile is kept for the next window"
    monkeypatch.setattr(tiff_slide, "_KEPT_BYTES", 1)
    slide.read_level(0, (0, 0), (332, 252))
    slide.read_level(0, (60, 70), (10, 10))
    assert len(decoded) > 25


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_a_plain_tiff_too_large_for_pillow_is_read_in_strips(tmp_path, monkeypatch, compression):
    path = write_pages(tmp_path / "s.tif", PIXELS, compression=compression, **STRIPS)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6000)
    slide = open_slide(path)
    check_levels(slide, [PIXELS])
    assert slide.identity["format"] == "tiff"
    assert slide.identity["content"] == content_sha256([path])


def test_a_tiff_compressed_in_one_large_piece_is_refused(tmp_path, monkeypatch):
    path = write_pages(tmp_path / "s.tif", PIXELS, compression="deflate", **{**STRIPS, "rowsperstrip": 252})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6000)
    with pytest.raises(
        SlideError, match=r"s\.tif is of a kind that is unsupported: it is compressed in pieces of 83,664 px"
    ):
        open_slide(path)


def test_identities_of_what_was_read_before_stay(tmp_path):
    for kind in ("OME, SubIFDs", "fourth channel without a name", "a label that is flagged as reduced", "tiles"):
        path = READ[kind][0](tmp_path / "s.tif")
        with openslide.OpenSlide(path) as handle:
            hashed = handle.properties.get("openslide.quickhash-1")
        assert open_slide(path).identity == {
            "format": "generic-tiff",
            "quickhash": hashed,
            "bytes": path.stat().st_size,
            "size": [332, 252],
            "content": content_sha256([path]),
        }
    for kind in ("strips", "big endian", "strips, pyramid", "planes in strips"):
        path = READ[kind][0](tmp_path / "s.tif")
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        assert open_slide(path).identity == {"format": "image", "sha256": sha256, "size": [332, 252]}


def test_damage_in_one_tile_of_a_subifd_is_told_there_and_nowhere_else(tmp_path):
    path = write_subifds(tmp_path / "s.tif", PIXELS, HALF, compression="deflate")
    with tifffile.TiffFile(path) as file:
        page = file.pages[0].pages[0]
        offset, count = page.dataoffsets[1], page.databytecounts[1]
    damage(path, offset, count)
    slide = open_slide(path)
    with pytest.raises(UnreadableError, match=r"s\.tif is damaged at level 1, x 64, y 0: "):
        slide.read_level(1, (60, 0), (20, 20))
    np.testing.assert_array_equal(slide.read_level(1, (0, 0), (64, 64)), HALF[:64, :64])
    np.testing.assert_array_equal(slide.read_level(0, (0, 0), (332, 252)), PIXELS)
    path.unlink()
    with pytest.raises(SlideError, match=r"s\.tif can no longer be opened"):
        pickle.loads(pickle.dumps(slide)).read_level(0, (0, 0), (9, 9))


def test_subifds_that_are_cut_off_are_refused(tmp_path):
    path = write_subifds(tmp_path / "s.tif", PIXELS, HALF)
    with tifffile.TiffFile(path, mode="r+b") as file:
        tag = file.pages[0].pages[0].tags["TileOffsets"]
        tag.overwrite([path.stat().st_size - 5 for _ in tag.value])
    with pytest.raises(SlideError, match=r"s\.tif is truncated: its pixels end at byte"):
        open_slide(path)


def test_subifds_that_lead_nowhere_are_refused(tmp_path):
    path = write_subifds(tmp_path / "s.tif", PIXELS, HALF)
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["SubIFDs"].overwrite([path.stat().st_size + 1000])
    with pytest.raises(SlideError, match=r"s\.tif is no whole TIFF file"):
        open_slide(path)


def test_levels_whose_compression_is_not_decoded_are_left_out_with_a_word(tmp_path):
    path = write_subifds(tmp_path / "s.tif", PIXELS, HALF, compression="deflate")
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].pages[0].tags["Compression"].overwrite(50001)
    slide = open_slide(path)
    check_levels(slide, [PIXELS])
    assert "The level of 166 x 126 px is not used: its compression is not decoded here (WEBP, 50001)." in slide.warnings


def test_a_piece_of_another_size_than_it_should_have_is_damage(tmp_path):
    path = write_compressed(tmp_path / "s.tif", "jpeg2000", PIXELS, HALF)
    with tifffile.TiffFile(path, mode="r+b") as file:
        for name in ("TileWidth", "TileLength"):
            file.pages[0].pages[0].tags[name].overwrite(128)
    with pytest.raises(UnreadableError, match=r"a piece of \(64, 64\) px where \(128, 128\) px were expected"):
        open_slide(path).read_level(1, (0, 0), (20, 20))
