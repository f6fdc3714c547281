"""What is left out of a slide's tissue is told by kind, shown, warned of, and kept when told to."""

import json
from dataclasses import replace

import numpy as np
import pytest
from drawn_artifacts import HEIGHT, STROMA, WIDTH, band, drawn_tissue, fine_tissue, folded, mixed, with_bubble
from PIL import Image
from scipy import ndimage

from spider_tools.cohorts.many import segment_slides
from spider_tools.slide_files.lattice import Lattice
from spider_tools.slide_files.reader import open_slide
from spider_tools.slide_files.slide_error import SlideError
from spider_tools.slides import outputs, pictures
from spider_tools.tissue.pixel_tissue import tissue_of
from spider_tools.tissue.search import TissueSearch
from spider_tools.tissue.tissue_mask import find_tissue

MPP = 2.0
LATTICE = Lattice(56, 56, 5, (WIDTH * 4, HEIGHT * 4), (1.0, 1.0))  # the mask has 8 um/px
KEEP = TissueSearch(keep_artifacts=True)
FOLD = band(((100, 90), (150, 140), (200, 90)), 8)
FIRST_BLURRED = 200  # column


def slide_of(path, pixels, first_blurred):
    """A slide of 2 um/px from a picture of 8, over which detail is laid, blurred by 4 um from a column of 8 um on."""
    detail = fine_tissue(HEIGHT * 4, WIDTH * 4, MPP).astype(np.float64) / STROMA
    large = np.kron(pixels, np.ones((4, 4, 1)))
    large *= np.where(large.min(axis=2, keepdims=True) < 225, detail, 1)
    large = np.clip(large, 0, 255)
    large[:, first_blurred * 4 :] = ndimage.gaussian_filter(large, (2, 2, 0))[:, first_blurred * 4 :]
    Image.fromarray(large.astype(np.uint8)).save(path)
    return open_slide(path, mpp=MPP)


def smooth_tissue():
    """Tissue whose detail is laid over it later."""
    pixels, inside = drawn_tissue()
    return mixed(pixels, STROMA, inside), inside


@pytest.fixture
def spoilt(tmp_path):
    """A slide with one artifact of each kind, and where each is, at 8 um/px."""
    pixels, inside = smooth_tissue()
    pixels = folded(pixels, FOLD)
    pixels, bubble = with_bubble(pixels, center=(90, 160), radius=20)
    pen = band(((295, 20), (295, 220)), 10)
    pixels = mixed(pixels, (25, 45, 160), pen)
    blurred = inside & (np.arange(WIDTH) >= FIRST_BLURRED)
    return slide_of(tmp_path / "spoilt.png", pixels, FIRST_BLURRED), {
        "pen": pen > 0.5,
        "bubbles": bubble,
        "blurred": blurred,
    }


def test_every_kind_is_left_out_where_it_is_and_told(spoilt, caplog):
    slide, places = spoilt
    found = find_tissue(slide, LATTICE, search=TissueSearch(threshold=0.06))
    for kind, place in places.items():
        left_out = found.left_out.places[kind]
        assert left_out[place].mean() > 0.85, kind
        assert (left_out & ~place).sum() < 0.5 * place.sum(), kind  # the fringe of the pen
        assert found.mask[place].mean() < 0.15, kind
    sizes = np.sum([place.astype(int) for place in found.left_out.places.values()], axis=0)
    assert sizes.max() == 1  # no px is counted twice
    assert not (found.mask & found.left_out.anywhere).any()
    assert not found.coverage[found.left_out.anywhere].any()
    for kind in ("pen", "bubbles"):
        assert found.left_out.shares[kind] == pytest.approx(found.left_out.places[kind].mean())
    tissue = found.mask | found.left_out.places["blurred"] | found.left_out.places["folds"]
    assert found.left_out.shares["blurred"] == pytest.approx(found.left_out.places["blurred"].sum() / tissue.sum())
    share = found.left_out.shares["blurred"]
    assert 0.2 < share < 0.5
    assert f"of the tissue: blurred {share:.1%}" in caplog.text
    assert found.warnings[0].startswith("Much is left out, of the slide: pen ")


def test_all_is_kept_when_told_to(spoilt):
    slide, _ = spoilt
    kept = find_tissue(slide, LATTICE, search=KEEP)
    pixels = np.asarray(Image.open(slide.path).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))
    before = tissue_of(pixels, KEEP)
    assert (kept.mask != before.mask).mean() < 0.001  # one grey level of rounding
    assert kept.left_out is None
    assert kept.warnings == ()
    assert kept.left_out_in_words.startswith("nothing: ")


def test_the_picture_shows_each_kind_in_its_own_way(spoilt):
    slide, _ = spoilt
    found = find_tissue(slide, LATTICE, search=TissueSearch(threshold=0.06))
    thumbnail = pictures.make_thumbnail(slide)
    figure = pictures.draw_tissue(thumbnail, found, found.cells(LATTICE, 0.1), LATTICE, slide.mpp)
    (legend,) = figure.legends
    shown = {kind for kind, place in found.left_out.places.items() if place.any()}
    assert {text.get_text().split()[0] for text in legend.get_texts()} == shown >= {"pen", "bubbles", "blurred"}
    hatches = [patch.get_hatch() for patch in legend.get_patches()]
    assert len(set(hatches)) == len(hatches)
    assert outputs.as_png(figure)


def test_a_fold_is_left_out_of_sharp_tissue(tmp_path):
    pixels, inside = drawn_tissue()
    Image.fromarray(np.kron(folded(pixels, FOLD), np.ones((4, 4, 1), np.uint8))).save(tmp_path / "s.png")
    for side in (56, 28, 14):  # the finer masks of smaller patches change nothing
        lattice = Lattice(side, side, 5, (WIDTH * 4, HEIGHT * 4), (1.0, 1.0))
        found = find_tissue(open_slide(tmp_path / "s.png", mpp=MPP), lattice)
        assert found.left_out.shares["folds"] == pytest.approx((FOLD > 0.5)[inside].mean(), rel=0.35)
        assert found.left_out.shares["blurred"] == 0
        assert found.warnings == ()
        assert "folds" in found.left_out_in_words


def test_a_slide_that_is_blurred_all_over_is_refused_with_the_way_back(tmp_path):
    slide = slide_of(tmp_path / "s.png", smooth_tissue()[0], 0)
    found = find_tissue(slide, LATTICE)
    with pytest.raises(SlideError, match=r"of the tissue: blurred (9\d|100)\.\d%.*--keep_artifacts keeps it"):
        found.cells(LATTICE, 0.1)
    assert find_tissue(slide, LATTICE, search=KEEP).cells(LATTICE, 0.1).any()


def test_where_blur_cannot_be_told_that_is_said(tmp_path):
    Image.fromarray(drawn_tissue()[0]).save(tmp_path / "s.png")
    found = find_tissue(open_slide(tmp_path / "s.png", mpp=8.0), Lattice(14, 14, 5, (WIDTH, HEIGHT), (1.0, 1.0)))
    assert "blur is not known: the slide is coarser than 2 um/px" in found.left_out_in_words
    assert found.left_out.as_json()["of_tissue"] == {"blurred": None, "folds": 0.0}


@pytest.mark.parametrize("size", [(28, 28), (600, 28), (29, 500), (300, 200)])
@pytest.mark.parametrize("color", [(243, 241, 244), STROMA, (20, 20, 22), (25, 45, 160), (0, 0, 0), (255, 255, 255)])
def test_slides_of_one_colour_lose_nothing_but_ink(tmp_path, size, color):
    Image.new("RGB", size, color).save(tmp_path / "s.png")
    slide = open_slide(tmp_path / "s.png", mpp=0.5)
    lattice = Lattice(28, 28, 5, size, (1.0, 1.0))
    found = find_tissue(slide, lattice)
    assert found.left_out.shares["pen"] in (0.0, 1.0)
    assert max(found.left_out.shares[kind] for kind in ("bubbles", "folds", "blurred")) == 0
    cells = found.share(lattice) >= 0.1
    assert cells.all() == (color == STROMA)
    outputs.as_png(pictures.draw_tissue(pictures.make_thumbnail(slide), found, cells, lattice, slide.mpp))


def test_a_picture_of_a_mask_that_is_one_px_high_is_drawn(tmp_path):
    pixels = np.full((1, 300, 3), 243, np.uint8)
    pixels[:, 100:200] = (25, 45, 160)
    Image.fromarray(pixels).save(tmp_path / "s.png")
    slide = open_slide(tmp_path / "s.png", mpp=8.0)
    lattice = Lattice(1, 1, 5, (300, 1), (1.0, 1.0))
    found = find_tissue(slide, lattice)
    assert 0.3 < found.left_out.shares["pen"] < 0.36
    outputs.as_png(pictures.draw_tissue(pictures.make_thumbnail(slide), found, found.mask, lattice, slide.mpp))


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_accelerator")
def test_shares_stand_in_the_record_and_in_the_report(tmp_path, settings):
    pixels = np.full((280, 420, 3), 243, np.uint8)
    pixels[:, :280] = fine_tissue(280, 280, 0.5)
    pixels[:, 300:400] = (25, 45, 160)
    Image.fromarray(pixels).save(tmp_path / "s.png")
    for keep in (False, True):
        run = replace(settings, mpp=0.5, keep_artifacts=keep, output_dir=tmp_path / f"R{keep}")
        segment_slides([tmp_path / "s.png"], run)
        marker = json.loads((run.output_dir / "s" / "slide.json").read_text())
        report = (run.output_dir / "s" / "report.html").read_text()
        if keep:
            assert marker["left_out"] is None
            assert "were not looked for" in report
        else:
            assert marker["left_out"]["of_slide"]["pen"] == pytest.approx(108 / 420, rel=0.05)
            assert marker["left_out"]["of_tissue"] == {"blurred": 0.0, "folds": 0.0}
            assert f"pen {marker['left_out']['of_slide']['pen']:.1%}" in report
            assert marker["facts"]["Warning"].startswith("Much is left out")
