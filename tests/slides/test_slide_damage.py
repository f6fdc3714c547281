"""Damage in the middle of a slide costs the patches there, is counted, and is forgotten when the file is mended."""

import json
import logging
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from slide_files import GLASS, draw_slide, write_mirax, write_pyramid
from tifffile import TiffFile

from spider_tools.cohorts.many import segment_slides
from spider_tools.slide_files.lattice import Lattice
from spider_tools.slide_files.reader import SlideError, open_slide
from spider_tools.slide_files.slide_error import UnreadableError
from spider_tools.slide_files.view import SlideView
from spider_tools.slide_sources.task import SlideTask
from spider_tools.slides import pictures
from spider_tools.slides.one import map_slide
from spider_tools.tissue.tissue_mask import find_tissue

pytestmark = [pytest.mark.usefixtures("fresh_accelerator"), pytest.mark.slow]

WIDTH, HEIGHT, TILE, PATCH = 448, 364, 64, 28
ACROSS = WIDTH // TILE


@pytest.fixture(scope="module")
def pixels():
    return draw_slide(WIDTH, HEIGHT, seed=1)


def damage(path, *tiles, level=0):
    """Overwrite the content of tiles; the same file with the same size."""
    with TiffFile(path) as file:
        page = file.pages[level]
        places = [(page.dataoffsets[tile], page.databytecounts[tile]) for tile in tiles]
    content = bytearray(path.read_bytes())
    for offset, count in places:
        content[offset : offset + count] = b"\x55" * count
    path.write_bytes(content)
    return path


def touches(x, y, tile, side=PATCH):
    """Whether a square at x, y has a px in a tile."""
    left, top = tile % ACROSS * TILE, tile // ACROSS * TILE
    return left - side < x < left + TILE and top - side < y < top + TILE


@pytest.fixture
def whole(tmp_path, pixels):
    return write_pyramid(tmp_path / "s.tif", pixels, 0.5, factors=(1, 4))


@pytest.fixture
def drawn(tmp_path):
    """All of the slide, so that every patch is needed and no level is looked at for tissue."""
    Image.new("L", (WIDTH, HEIGHT), 255).save(tmp_path / "all.png")
    return tmp_path / "all.png"


IN_TISSUE = 4 * ACROSS + 1


def places_of(folder):
    table = pq.read_table(folder / "predictions.parquet")
    return set(zip(table["x_level0"].to_pylist(), table["y_level0"].to_pylist()))


@pytest.mark.parametrize("workers", [0, 1])
def test_only_the_patches_of_an_unreadable_tile_are_left_out(whole, drawn, settings, slide_model, workers, caplog):
    damage(whole, IN_TISSUE)
    task = SlideTask(whole, "s", mask=drawn)
    result = map_slide(task, slide_model, replace(settings, num_workers=workers))
    folder = settings.output_dir / "s"
    every = [(x, y) for y in range(0, HEIGHT - PATCH + 1, PATCH) for x in range(0, WIDTH - PATCH + 1, PATCH)]
    expected = {place for place in every if not touches(*place, IN_TISSUE)}
    assert 9 <= len(every) - len(expected) <= 16
    assert places_of(folder) == expected
    lost = len(every) - len(expected)
    assert (
        result.message
        == f"The file is damaged: {lost} patches cannot be read and are left out, also of the context of others."
    )
    marker = json.loads((folder / "slide.json").read_text())
    assert marker["unreadable_patches"] == lost
    assert marker["facts"]["Damage"] == result.message
    assert f"{lost} patches cannot be read" in (folder / "report.html").read_text()
    assert f"s: {result.message}" in caplog.messages
    saved = {tuple(xy) for xy in load_file(folder / "embeddings.safetensors")["xy"].tolist()}
    assert saved == expected


def test_what_is_left_out_is_masked_in_the_context_of_others(
    whole, drawn, settings, slide_model, make_model, processor, pixels
):
    damage(whole, IN_TISSUE)
    map_slide(SlideTask(whole, "s", mask=drawn), slide_model, settings)
    table = pq.read_table(settings.output_dir / "s" / "predictions.parquet").to_pydict()
    x, y = IN_TISSUE % ACROSS * TILE // PATCH * PATCH, IN_TISSUE // ACROSS * TILE // PATCH * PATCH - PATCH
    number = [(a, b) for a, b in zip(table["x_level0"], table["y_level0"])].index((x, y))
    region = pixels[y - 2 * PATCH : y + 3 * PATCH, x - 2 * PATCH : x + 3 * PATCH]
    inputs = processor(images=region, return_tensors="pt")
    steps = range(-2, 3)
    mask = [[not touches(x + c * PATCH, y + r * PATCH, IN_TISSUE) for c in steps] for r in steps]
    assert 0 < sum(not present for row in mask for present in row) < 24
    inputs["context_mask"] = torch.tensor(mask).view(1, 25)
    model = make_model()
    with torch.no_grad():
        expected = model(**inputs).logits.softmax(dim=-1)[0]
    got = [table[f"probability: {name}"][number] for name in model.config.class_names]
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_a_mended_file_is_done_anew_as_a_whole(whole, drawn, settings, slide_model):
    task, content = SlideTask(whole, "s", mask=drawn), whole.read_bytes()
    damage(whole, IN_TISSUE)
    map_slide(task, slide_model, settings)
    whole.write_bytes(content)
    result = map_slide(task, slide_model, settings)
    assert (result.status, result.message) == ("done", "")
    assert len(places_of(settings.output_dir / "s")) == (WIDTH // PATCH) * (HEIGHT // PATCH)


def test_the_next_run_tries_what_was_left_out_again_and_nothing_else(whole, drawn, settings, slide_model, monkeypatch):
    """As after a network that failed: the file is the same."""
    task = SlideTask(whole, "s", mask=drawn)
    read = SlideView.read

    def fails_in_one_place(view, corner, size):
        if corner == (5 * PATCH, 3 * PATCH) and size == (PATCH, PATCH):
            raise UnreadableError("s.tif is damaged")
        return read(view, corner, size)

    monkeypatch.setattr(SlideView, "read", fails_in_one_place)
    first = map_slide(task, slide_model, settings)
    assert first.message.startswith("The file is damaged: 1 patch cannot be read and is left out")
    monkeypatch.setattr(SlideView, "read", read)
    second = map_slide(task, slide_model, settings)
    assert (second.status, second.embedded, second.message) == ("done", 1, "")
    assert map_slide(task, slide_model, settings).status == "skipped"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_slide_with_more_damage_is_refused(whole, drawn, settings, slide_model, workers, monkeypatch):
    monkeypatch.setattr(pictures, "_LONG_SIDE", 60)  # read from a lower level, which is whole
    damage(whole, *range(14, 35))
    with pytest.raises(
        SlideError,
        match=r"^\S+s\.tif is damaged at level 0, x \d+, y \d+: [^\n]* \d+ of 208 patches or more cannot be read, "
        r"at most 10% are left out\.$",
    ):
        map_slide(SlideTask(whole, "s", mask=drawn), slide_model, replace(settings, num_workers=workers))
    assert not (settings.output_dir / "s" / "slide.json").exists()


def test_damage_on_bare_glass_costs_nothing(whole, settings, slide_model, pixels):
    assert (pixels[:TILE, 3 * TILE : 4 * TILE] >= GLASS).all()
    damage(whole, 3)
    result = map_slide(SlideTask(whole, "s"), slide_model, settings)
    assert result.status == "done"
    reference = replace(settings, output_dir=settings.output_dir / "reference")
    clean = write_pyramid(whole.with_name("clean.tif"), draw_slide(WIDTH, HEIGHT, seed=1), 0.5, factors=(1, 4))
    assert map_slide(SlideTask(clean, "s"), slide_model, reference).predicted == result.predicted


def test_a_damaged_lower_level_is_made_up_for_by_a_finer_one(whole):
    lattice = Lattice(56, 56, 5, (WIDTH, HEIGHT), (1.0, 1.0))  # its mask has px of 4, those of level 1
    before = find_tissue(open_slide(whole), lattice)
    damage(whole, 0, level=1)
    with pytest.raises(UnreadableError):
        open_slide(whole).read_level(1, (0, 0), (50, 50))
    after = find_tissue(open_slide(whole), lattice)
    assert (before.mask != after.mask).mean() < 0.01
    assert after.warnings == ()


def test_what_no_level_holds_counts_as_glass_and_is_told(tmp_path, pixels, caplog):
    path = damage(write_pyramid(tmp_path / "s.tif", pixels, 0.5, factors=(1,)), IN_TISSUE)
    found = find_tissue(open_slide(path), Lattice(PATCH, PATCH, 5, (WIDTH, HEIGHT), (1.0, 1.0)))
    (warning,) = found.warnings
    share = float(warning.split("%")[0])
    assert 100 * TILE**2 / (WIDTH * HEIGHT) <= share < 300 * TILE**2 / (WIDTH * HEIGHT)
    assert "cannot be read at low magnification and counts as glass" in caplog.text
    thumbnail = pictures.make_thumbnail(open_slide(path)).pixels
    left, top = IN_TISSUE % ACROSS * TILE, IN_TISSUE // ACROSS * TILE
    assert (thumbnail[top + 1 : top + TILE - 1, left + 1 : left + TILE - 1] == 255).all()
    np.testing.assert_array_equal(thumbnail[: top - 16], pixels[: top - 16])


def test_a_slide_that_is_mostly_damaged_has_no_thumbnail(tmp_path, pixels):
    path = damage(write_pyramid(tmp_path / "s.tif", pixels, 0.5, factors=(1,)), *range(30))
    with pytest.raises(SlideError, match=r"s\.tif is damaged at .*More than 10% of the slide cannot be read"):
        pictures.make_thumbnail(open_slide(path))


@pytest.mark.parametrize("scale", [1.0, 1.37, 2.0])
def test_around_damage_px_are_what_they_are_elsewhere(tmp_path, pixels, scale):
    clean = write_pyramid(tmp_path / "clean.tif", pixels, 0.5, factors=(1,))
    path = damage(write_pyramid(tmp_path / "s.tif", pixels, 0.5, factors=(1,)), IN_TISSUE)
    expected = SlideView(open_slide(clean), (scale, scale)).read_all().astype(int)
    view = SlideView(open_slide(path), (scale, scale))
    lost = 0
    for y in range(0, view.size[1] - PATCH, PATCH):
        for x in range(0, view.size[0] - PATCH, PATCH):
            try:
                got = view.read((x, y), (PATCH, PATCH))
            except UnreadableError:
                # The filter reaches a few px beyond the patch.
                assert touches((x - 4) * scale, (y - 4) * scale, IN_TISSUE, (PATCH + 8) * scale)
                lost += 1
            else:
                assert abs(got - expected[y : y + PATCH, x : x + PATCH]).max() <= (0 if scale == 1 else 1)
    assert 0 < lost < 30


def test_a_reader_goes_on_after_an_error(whole, pixels):
    """OpenSlide answers everything with its first error."""
    damage(whole, IN_TISSUE)
    slide = open_slide(whole)
    with pytest.raises(UnreadableError, match=r"damaged at level 0, x 66, y 266"):
        slide.read_level(0, (66, 266), (10, 10))
    np.testing.assert_array_equal(slide.read_level(0, (0, 0), (100, 90)), pixels[:90, :100])


def test_a_file_that_is_gone_ends_the_slide_at_once(whole):
    damage(whole, IN_TISSUE)
    slide = open_slide(whole)
    moved = whole.rename(whole.with_name("moved.tif"))
    with pytest.raises(SlideError, match=r"s\.tif can no longer be opened") as raised:
        slide.read_level(0, (66, 266), (10, 10))
    assert not isinstance(raised.value, UnreadableError)
    assert moved.exists()


def test_a_damaged_mirax_slide_loses_its_tile_only(tmp_path, settings, slide_model, caplog):
    path = write_mirax(tmp_path / "s.mrxs", draw_slide(640, 512, seed=2), (64, 64), (768, 640))
    data = tmp_path / "s" / "Data0000.dat"
    content = bytearray(data.read_bytes())
    starts = [i for i in range(len(content)) if content[i : i + 4] == b"\x89PNG"]
    content[starts[35] + 40 : starts[35] + 60] = b"\x55" * 20
    data.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        results = segment_slides([path], settings)
    assert results[0].status == "done"
    assert results[0].message.startswith("The file is damaged: ")
