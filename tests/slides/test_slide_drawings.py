"""Masks that people draw: images of all sorts, and GeoJSON as QuPath and others write it."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from PIL import Image
from slide_files import GLASS

from spider_tools.cohorts.many import segment_slides
from spider_tools.slide_files.lattice import Lattice
from spider_tools.slide_files.reader import SlideError, open_slide
from spider_tools.tissue.drawings import drawing_for, marked_px
from spider_tools.tissue.tissue_mask import find_tissue

pytestmark = [pytest.mark.usefixtures("fresh_accelerator"), pytest.mark.slow]

WIDTH, HEIGHT, SIDE = 840, 560, 28


def drawn(height=HEIGHT, width=WIDTH):
    """Where tissue is drawn: 5 x 13 patches."""
    mask = np.zeros((height, width), dtype=bool)
    mask[height // 4 : height // 2, width // 15 : width // 2] = True
    return mask


@pytest.fixture
def slide(tmp_path):
    pixels = np.empty((HEIGHT, WIDTH, 3), dtype=np.uint8)
    pixels[:] = GLASS
    Image.fromarray(pixels).save(tmp_path / "s.png")
    return open_slide(tmp_path / "s.png", mpp=0.5)


LATTICE = Lattice(SIDE, SIDE, 5, (WIDTH, HEIGHT), (1.0, 1.0))


def cells_of(slide, path):
    return find_tissue(slide, LATTICE, path).cells(LATTICE, 0.5)


EXPECTED = np.zeros((20, 30), dtype=bool)
EXPECTED[5:10, 2:15] = True


def palette_image(numbers, colors):
    image = Image.frombytes("P", numbers.shape[::-1], numbers.astype(np.uint8).tobytes())
    image.putpalette(bytes(value for color in colors for value in color))
    return image


def rgba(color, alpha):
    image = np.zeros((HEIGHT, WIDTH, 4), dtype=np.uint8)
    image[..., :3] = color
    image[..., 3] = alpha
    return Image.fromarray(image)


WHITE, BLACK, RED = [255, 255, 255], [0, 0, 0], [200, 0, 0]
LABELS = np.where(drawn(), 3, 0)
LABELS[:, WIDTH // 4 :] *= 2


def levels(marked):
    return Image.fromarray(drawn().astype(np.uint8) * marked)


def write_gray_alpha(path):
    Image.fromarray(np.dstack([np.full(LABELS.shape, 255), drawn() * 255]).astype(np.uint8), "LA").save(path)


def write_behind_transparency(path):
    palette_image(drawn() + 0, [BLACK, RED]).save(path, transparency=0)


def write_inverted_levels(path):
    # As ImageJ writes a binary image: what is marked is 255, shown as black.
    tifffile.imwrite(path, drawn().astype(np.uint8) * 255, photometric="miniswhite")


def write_fax(path):
    Image.fromarray(drawn()).save(path, compression="group4")


WAYS = {
    "labels of QuPath, the first colour white": (
        "m.png",
        lambda path: palette_image(LABELS, [WHITE, RED, BLACK, RED, RED, RED, BLACK]).save(path),
    ),
    "labels of one bit": ("m.png", lambda path: palette_image(drawn() + 0, [WHITE, RED]).save(path, bits=1)),
    "labels in a TIFF": ("m.tif", lambda path: palette_image(LABELS, [WHITE, RED, RED, RED, RED, RED, RED]).save(path)),
    "a palette with a transparent number": ("m.png", write_behind_transparency),
    "white on transparent white": ("m.png", lambda path: rgba(255, drawn() * 255).save(path)),
    "colour on transparent black": ("m.png", lambda path: rgba(drawn()[..., None] * 200, drawn() * 255).save(path)),
    "grey with transparency": ("m.png", write_gray_alpha),
    "an array of bool by tifffile": ("m.tif", lambda path: tifffile.imwrite(path, drawn())),
    "the same, compressed": ("m.tif", lambda path: tifffile.imwrite(path, drawn(), compression="deflate")),
    "the same, black being 0": ("m.tif", lambda path: tifffile.imwrite(path, drawn(), photometric="minisblack")),
    "levels whose white is 0": ("m.tif", write_inverted_levels),
    "16 bits whose white is 0": (
        "m.tif",
        lambda path: tifffile.imwrite(path, drawn().astype(np.uint16), photometric="miniswhite"),
    ),
    "a fax": ("m.tif", write_fax),
    "one bit by Pillow": ("m.tif", lambda path: Image.fromarray(drawn()).save(path)),
    "one bit as PNG": ("m.png", lambda path: Image.fromarray(drawn()).save(path)),
    "a JPEG with its ringing": ("m.jpg", lambda path: levels(255).save(path, quality=60)),
    "a BMP": ("m.bmp", lambda path: levels(255).save(path)),
    "numbers from 1 on": ("m.png", lambda path: levels(1).save(path)),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_an_image_marks_what_was_drawn_however_it_was_saved(slide, tmp_path, way, caplog):
    name, write = WAYS[way]
    write(tmp_path / name)
    with Image.open(tmp_path / name) as image:
        wrong = (marked_px(image) != drawn()).mean()
    assert wrong < (0.002 if name.endswith("jpg") else 1e-9)
    np.testing.assert_array_equal(cells_of(slide, tmp_path / name), EXPECTED)
    assert not caplog.messages


def test_a_palette_that_marks_black_on_another_colour_is_told(tmp_path, caplog):
    palette_image(drawn() + 0, [WHITE, BLACK]).save(tmp_path / "m.png")
    with Image.open(tmp_path / "m.png") as image:
        np.testing.assert_array_equal(marked_px(image), drawn())
    assert "If it is meant the other way round, save it without a palette" in caplog.text


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.0, "marks nothing of the slide, 0%"), (0.97, "nearly all"), (1.0, "nearly all of the slide, 100%")],
)
@pytest.mark.parametrize("kind", ["png", "geojson"])
def test_a_mask_of_nothing_or_nearly_all_is_warned_of(slide, tmp_path, share, words, kind, caplog):
    if kind == "png":
        mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        mask[:, : round(WIDTH * share)] = 255
        Image.fromarray(mask).save(tmp_path / "m.png")
    else:
        right = WIDTH * share if share else -5
        (tmp_path / "m.geojson").write_text(json.dumps(square(-10, 0, right, HEIGHT)))
    found = find_tissue(slide, LATTICE, tmp_path / f"m.{kind}")
    assert [words in warning for warning in found.warnings] == [True]
    assert f"s.png: {found.warnings[0]}" in caplog.text


def test_a_mask_of_some_of_the_slide_is_not_warned_of(slide, tmp_path, caplog):
    (tmp_path / "m.geojson").write_text(json.dumps(square(0, 0, WIDTH / 2, HEIGHT)))
    assert find_tissue(slide, LATTICE, tmp_path / "m.geojson").warnings == ()
    assert not caplog.messages


def test_a_warning_of_the_mask_is_in_the_record(slide, tmp_path, settings):
    Image.new("L", (WIDTH, HEIGHT), 255).save(tmp_path / "m.png")
    settings = replace(settings, mpp=0.5, mask=tmp_path / "m.png")
    segment_slides([slide.path], settings)
    marker = json.loads((settings.output_dir / "s" / "slide.json").read_text())
    assert "nearly all of the slide, 100%" in marker["facts"]["Warning"]
    assert "nearly all of the slide, 100%" in (settings.output_dir / "s" / "report.html").read_text()


def square(left, top, right, bottom):
    return {
        "type": "Polygon",
        "coordinates": [[[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]],
    }


TISSUE, OTHER = square(56, 140, 420, 280), square(500, 300, 700, 500)
EMPTY = {"type": "Polygon", "coordinates": []}


def feature(geometry, classification=None):
    properties = {} if classification is None else {"classification": classification}
    return {"type": "Feature", "properties": properties, "geometry": geometry}


POINT, LINE = {"type": "Point", "coordinates": [600, 400]}, {"type": "LineString", "coordinates": [[0, 0], [800, 500]]}
POINTS, LINES = (
    {"type": "MultiPoint", "coordinates": [[600, 400]]},
    {"type": "MultiLineString", "coordinates": [LINE["coordinates"]]},
)
MIXED = {
    "points": ([feature(POINT), feature(POINT), feature(TISSUE)], "2 Point."),
    "many points and lines": ([feature(POINTS), feature(LINES), feature(TISSUE)], "1 MultiLineString, 1 MultiPoint."),
    "a line among others": ([feature(TISSUE), feature(LINE)], "1 LineString."),
    "no geometry": ([feature(None), feature(TISSUE)], "1 without a geometry."),
    "a collection": ([feature({"type": "GeometryCollection", "geometries": [POINT, TISSUE]})], "1 Point."),
    "a collection of areas": ([feature({"type": "GeometryCollection", "geometries": [TISSUE]})], None),
    "an empty polygon": ([feature(EMPTY), feature(TISSUE)], "1 empty."),
    "an empty one among several": (
        [feature({"type": "MultiPolygon", "coordinates": []}), feature(TISSUE)],
        None,
    ),
    "ignored": ([feature(OTHER, {"name": "Ignore*"}), feature(TISSUE, {"name": "Tumor"})], "1 of the class Ignore."),
    "ignored without a star": ([feature(OTHER, {"name": "Ignore"}), feature(TISSUE)], "1 of the class Ignore."),
    "ignored, by names": ([feature(OTHER, {"names": ["Ignore*", "x"]}), feature(TISSUE)], "1 of the class Ignore."),
    "ignored, as text": ([feature(OTHER, "Ignore*"), feature(TISSUE)], "1 of the class Ignore."),
    "a null class": ([{**feature(TISSUE), "properties": {"classification": None}}], None),
    "null properties": ([{**feature(TISSUE), "properties": None}], None),
    "a class of QuPath's that is no Ignore": ([feature(TISSUE, {"name": "Region*"})], None),
}


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("what", MIXED)
def test_what_is_no_area_of_tissue_is_left_out_and_counted(slide, tmp_path, what, mark, caplog):
    members, words = MIXED[what]
    path = tmp_path / "m.geojson"
    path.write_text(mark + json.dumps({"type": "FeatureCollection", "features": members}), encoding="utf-8")
    np.testing.assert_array_equal(cells_of(slide, path), EXPECTED)
    expected = [] if words is None else [f"Of the mask {path} the polygons are taken, and left out: {words}"]
    assert caplog.messages == expected


@pytest.mark.parametrize("kept", [POINT, LINE, None, EMPTY, {"type": "GeometryCollection", "geometries": []}])
def test_a_drawing_without_an_area_is_refused(slide, tmp_path, kept):
    (tmp_path / "m.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature(kept)]}))
    with pytest.raises(SlideError, match=r"holds .*, expected polygons in level-0 px"):
        cells_of(slide, tmp_path / "m.geojson")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("far", [1e300, -1e300])
def test_polygons_from_beyond_every_slide_make_no_warning(slide, tmp_path, far):
    content = [feature(TISSUE), feature(square(far, far, far * 1.1, far * 1.1))]
    (tmp_path / "m.geojson").write_text(json.dumps(content))
    np.testing.assert_array_equal(cells_of(slide, tmp_path / "m.geojson"), EXPECTED)


def test_a_folder_of_drawings_gives_each_slide_its_own(tmp_path):
    for name in ("a.png", "b.geojson", "c.png", "c.tif"):
        (tmp_path / name).touch()
    assert drawing_for(None, "a") is None
    assert drawing_for(tmp_path / "b.geojson", "a") == tmp_path / "b.geojson"
    assert drawing_for(tmp_path, "a") == tmp_path / "a.png"
    assert drawing_for(tmp_path, "b") == tmp_path / "b.geojson"
    with pytest.raises(SlideError, match=r"one drawing of the tissue of c .*got \['c.png', 'c.tif'\]"):
        drawing_for(tmp_path, "c")
    with pytest.raises(SlideError, match=r"tissue of d .*got none"):
        drawing_for(tmp_path, "d")
    with pytest.raises(SlideError, match="neither a file nor a folder"):
        drawing_for(tmp_path / "absent", "a")


def test_one_drawing_for_several_slides_is_refused_before_any_work(slide, tmp_path, settings):
    (tmp_path / "m.geojson").write_text(json.dumps(TISSUE))
    Image.open(slide.path).save(tmp_path / "t.png")
    settings = replace(settings, mask=tmp_path / "m.geojson", model="no such model")
    with pytest.raises(ValueError, match=r"m\.geojson is one drawing, for 2 slides: s, t"):
        segment_slides([slide.path, tmp_path / "t.png"], settings)
    assert not settings.output_dir.exists()


def test_one_drawing_is_for_the_one_slide_that_has_no_other(slide, tmp_path, settings):
    (tmp_path / "m.geojson").write_text(json.dumps(TISSUE))
    (tmp_path / "n.geojson").write_text(json.dumps(OTHER))
    (tmp_path / "l.csv").write_text("slide,name,mpp,mask\ns.png,a,0.5,\ns.png,b,0.5,n.geojson\n")
    results = segment_slides([tmp_path / "l.csv"], replace(settings, mask=tmp_path / "m.geojson"))
    assert [(result.name, result.status) for result in results] == [("a", "done"), ("b", "done")]


def test_a_manifest_that_gives_a_drawing_twice_is_told(slide, tmp_path, settings, caplog):
    (tmp_path / "m.geojson").write_text(json.dumps(TISSUE))
    Image.open(slide.path).save(tmp_path / "t.png")
    (tmp_path / "l.csv").write_text("slide,mpp,mask\ns.png,0.5,m.geojson\nt.png,0.5,m.geojson\n")
    with caplog.at_level(logging.WARNING):
        segment_slides([tmp_path / "l.csv"], settings)
    assert "gives one drawing to several slides" in caplog.text
