"""Masks that a segmenter wrote are found by the names that tools give, read with care, and freed of artifacts."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from slide_files import GLASS, write_scn

from spider_tools.cohorts.many import segment_slides
from spider_tools.slide_files.lattice import Lattice
from spider_tools.slide_files.reader import open_slide
from spider_tools.slide_files.slide_error import SlideError
from spider_tools.slide_sources.task import SlideTask
from spider_tools.slides.settings import SlideSettings
from spider_tools.tissue.learned_masks import learned_mask_for
from spider_tools.tissue.search import TissueSearch
from spider_tools.tissue.tissue_mask import find_tissue

WIDTH, HEIGHT, SIDE = 840, 560, 28
LATTICE = Lattice(SIDE, SIDE, 5, (WIDTH, HEIGHT), (1.0, 1.0))
PINK, INK = (205, 120, 175), (25, 45, 160)
TASK = SlideTask(Path("elsewhere/CMU-1.svs"), "patient 7")


@pytest.fixture
def slide(tmp_path):
    """Tissue over 5 x 13 patches, and ink over 5 x 3 more."""
    pixels = np.empty((HEIGHT, WIDTH, 3), dtype=np.uint8)
    pixels[:] = GLASS
    pixels[140:280, 56:420] = PINK
    pixels[140:280, 560:644] = INK
    Image.fromarray(pixels).save(tmp_path / "s.png")
    return open_slide(tmp_path / "s.png", mpp=0.5)


def expected(columns=slice(2, 15)):
    cells = np.zeros((20, 30), dtype=bool)
    cells[5:10, columns] = True
    return cells


def marked(value=255, start=56, stop=420, step=1):
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[140:280, start:stop] = value
    return mask[::step, ::step]


def cells_of(slide, path, **search):
    return find_tissue(slide, LATTICE, search=TissueSearch(**search), learned=path).cells(LATTICE, 0.5)


@pytest.mark.parametrize(
    "name",
    [
        "CMU-1.png",
        "CMU-1.svs.png",
        "CMU-1_mask.png",
        "CMU-1_MASK.png",
        "CMU-1.svs_mask.tif",
        "CMU-1.geojson",
        "CMU-1.svs.json",
        "contours_geojson/CMU-1.geojson",
        "CMU-1.svs/CMU-1.svs_mask_use.png",
        "CMU-1/CMU-1_mask.tiff",
        "patient 7.png",
        "patient 7_mask.tiff",
    ],
)
def test_a_mask_is_found_by_the_names_that_tools_give(tmp_path, name):
    for other in ("CMU-10.png", "CMU-1_overlay.jpg", "CMU-1.svs_thumb.png", "xCMU-1.png", name):
        (tmp_path / other).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / other).touch()
    assert learned_mask_for(tmp_path, TASK) == tmp_path / name


def test_no_mask_two_masks_and_a_drawing_beside_it_are_refused(tmp_path):
    with pytest.raises(SlideError, match=r"one mask of CMU-1.svs in --tissue_model .*as CMU-1.png .*, got none"):
        learned_mask_for(tmp_path, TASK)
    (tmp_path / "CMU-1.png").touch()
    (tmp_path / "patient 7_mask.png").touch()
    with pytest.raises(SlideError, match=r"got \['patient 7_mask.png', 'CMU-1.png'\]"):
        learned_mask_for(tmp_path, TASK)
    with pytest.raises(SlideError, match=r"patient 7 has the drawing m.png in the manifest and --tissue_model"):
        learned_mask_for(tmp_path, replace(TASK, mask=Path("m.png")))


def test_a_slide_among_the_masks_is_not_its_own_mask(tmp_path):
    task = SlideTask(tmp_path / "s.tif", "s")
    for name in ("s.tif", "s_mask.png"):
        (tmp_path / name).touch()
    assert learned_mask_for(tmp_path, task) == tmp_path / "s_mask.png"


def test_two_ways_to_say_where_tissue_is_are_refused(tmp_path):
    for more in ({"mask": tmp_path / "m.png"}, {"tissue_threshold": 0.1}):
        with pytest.raises(ValueError, match=r"--tissue_model or --(mask|tissue_threshold), not both"):
            SlideSettings("m", tmp_path / "R", tissue_model=tmp_path, **more)
    with pytest.raises(ValueError, match=r"--tissue_model .*nowhere is no folder"):
        SlideSettings("m", tmp_path / "R", tissue_model=tmp_path / "nowhere")


@pytest.mark.parametrize("value", [1, 2, 255])
@pytest.mark.parametrize("step", [1, 2, 14])
@pytest.mark.parametrize("kind", ["png", "tif", "bool", "rgb", "palette"])
def test_a_mask_of_any_size_says_where_tissue_is(slide, tmp_path, value, step, kind):
    path = tmp_path / ("m.tif" if kind in ("tif", "bool") else "m.png")
    mask = marked(value, step=step)
    if kind == "tif":
        tifffile.imwrite(path, mask)
    elif kind == "bool":
        tifffile.imwrite(path, mask > 0)
    elif kind == "rgb":
        Image.fromarray(np.repeat(mask[..., None], 3, axis=2)).save(path)
    elif kind == "palette":
        image = Image.frombytes("P", mask.shape[::-1], mask.tobytes())
        image.putpalette([200, 10, 10] * 256)
        image.save(path)
    else:
        Image.fromarray(mask).save(path)
    np.testing.assert_array_equal(cells_of(slide, path), expected())
    assert find_tissue(slide, LATTICE, learned=path).origin == f"--tissue_model, image {path.name}"


def test_ink_in_a_mask_is_left_out_unless_it_is_to_be_kept(slide, tmp_path):
    Image.fromarray(marked(stop=700)).save(tmp_path / "m.png")
    both = cells_of(slide, tmp_path / "m.png")
    assert not both[:, 20:23].any()
    assert both[5:10, 2:15].all()
    assert find_tissue(slide, LATTICE, learned=tmp_path / "m.png").left_out.shares["pen"] > 0.02
    kept = cells_of(slide, tmp_path / "m.png", keep_artifacts=True)
    np.testing.assert_array_equal(kept, expected(slice(2, 25)))
    drawn = find_tissue(slide, LATTICE, tmp_path / "m.png")  # what the user has drawn is taken whole
    np.testing.assert_array_equal(drawn.cells(LATTICE, 0.5), expected(slice(2, 25)))
    assert drawn.left_out is None


def labels():
    mask = marked(1)
    mask[300:400, 300:400] = 7
    return mask


REFUSED = {
    "labels": (labels(), r"has 3 values \(0, 1, 7\), expected 0 for glass and one other for tissue"),
    "no glass": (np.where(marked() > 0, 1, 7).astype(np.uint8), r"has 2 values \(1, 7\), expected 0 for glass"),
    "greys": (np.arange(HEIGHT * WIDTH, dtype=np.uint32).reshape(HEIGHT, WIDTH).astype(np.uint8), r"has 256 values"),
    "inverted": (255 - marked(), r"marks what is brighter than the rest of the slide, 2\d\d to \d+ grey levels"),
    "shape": (marked().T.copy(), r"has not the shape of the slide"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_masks_that_cannot_be_meant_are_refused(slide, tmp_path, case):
    mask, words = REFUSED[case]
    Image.fromarray(mask).save(tmp_path / "m.png")
    with pytest.raises(SlideError, match=words):
        cells_of(slide, tmp_path / "m.png")


@pytest.mark.parametrize(("name", "content"), [("m.png", b"no picture"), ("m.png", b""), ("m.geojson", b"{")])
def test_damaged_masks_are_refused(slide, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SlideError, match=r"The mask .*m\.(png|geojson) is no "):
        cells_of(slide, tmp_path / name)


def test_an_empty_mask_is_warned_of_and_leaves_no_tissue(slide, tmp_path, caplog):
    Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "m.png")
    with pytest.raises(SlideError, match=r"No tissue was found \(--tissue_model, image m.png\)"):
        cells_of(slide, tmp_path / "m.png")
    assert "The mask marks nothing of the slide" in caplog.text


def polygon(left, top, right, bottom):
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    feature = {
        "type": "Feature",
        "properties": {"tissue_id": 0},
        "geometry": {"type": "Polygon", "coordinates": [ring]},
    }
    return json.dumps({"type": "FeatureCollection", "features": [feature]})


def test_polygons_count_from_the_corner_of_the_slide_also_where_a_part_was_scanned(tmp_path, slide, caplog):
    (tmp_path / "m.geojson").write_text(polygon(56, 140, 420, 280))
    np.testing.assert_array_equal(cells_of(slide, tmp_path / "m.geojson"), expected())
    assert not caplog.messages
    pixels = np.full((256, 384, 3), 243, np.uint8)
    pixels[56:112, 56:168] = PINK
    scanned = open_slide(write_scn(tmp_path / "s.scn", pixels, (84, 56), (560, 448)))
    lattice = Lattice(SIDE, SIDE, 5, (560, 448), (1.0, 1.0))
    (tmp_path / "m.geojson").write_text(polygon(140, 112, 252, 168))
    cells = find_tissue(scanned, lattice, learned=tmp_path / "m.geojson").cells(lattice, 0.5)
    assert sorted(map(tuple, np.argwhere(cells).tolist())) == [
        (row, column) for row in (4, 5) for column in range(5, 9)
    ]
    assert "are taken from the corner of level 0" in caplog.text


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_accelerator")
def test_a_run_uses_the_masks_and_is_done_again_when_they_change(slide, tmp_path, settings):
    masks = tmp_path / "masks"
    masks.mkdir()
    Image.fromarray(marked(stop=280)).save(masks / "s_mask.png")
    run = replace(settings, mpp=0.5, tissue_model=masks)
    assert [result.predicted for result in segment_slides([slide.path], run)] == [5 * 8]
    marker = json.loads((run.output_dir / "s" / "slide.json").read_text())
    assert marker["facts"]["Tissue"].startswith("--tissue_model, image s_mask.png")
    assert segment_slides([slide.path], run)[0].status == "skipped"
    Image.fromarray(marked()).save(masks / "s_mask.png")
    assert [result.predicted for result in segment_slides([slide.path], run)] == [5 * 13]
    (masks / "s_mask.png").unlink()
    failed = segment_slides([slide.path], run)[0]
    assert failed.status == "failed"
    assert "Expected one mask of s.png in --tissue_model" in failed.message
