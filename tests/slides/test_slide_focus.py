"""Blur of known Gaussians is told whatever the contrast, and what is only smooth or flat is not called blurred."""

import numpy as np
import pytest
from drawn_artifacts import fine_tissue
from PIL import Image
from scipy import ndimage
from slide_files import draw_slide, write_pyramid

from spider_tools.drawn_tissue import TISSUES, draw_patch
from spider_tools.slide_files.reader import open_slide
from spider_tools.slide_files.slide import Level, Slide
from spider_tools.slide_files.slide_error import UnreadableError
from spider_tools.tissue import focus
from spider_tools.tissue.focus import blurred_of, detail_ratio
from spider_tools.tissue.pixel_tissue import tissue_of


class InMemory(Slide):
    """An image as a slide of one level."""

    def __init__(self, pixels, mpp, damaged=False):
        self.pixels, self.mpp, self.damaged, self.read = pixels, (mpp, mpp), damaged, 0
        self.levels = (Level(pixels.shape[1::-1], (1.0, 1.0)),)

    def read_level(self, level, corner, size):
        if self.damaged and corner[0] < self.size[0] / 2:
            raise UnreadableError("damaged")
        self.read += size[0] * size[1]
        return self.pixels[corner[1] : corner[1] + size[1], corner[0] : corner[0] + size[0]]


def blurred_share(pixels, mpp, **more):
    mask = np.ones((max(1, round(pixels.shape[0] * mpp / 8)), max(1, round(pixels.shape[1] * mpp / 8))), dtype=bool)
    scale = (pixels.shape[1] / mask.shape[1], pixels.shape[0] / mask.shape[0])
    return blurred_of(InMemory(pixels, mpp, **more), mask, scale)


@pytest.mark.parametrize("periods", [3, 8, 15, 25])
def test_the_ratio_of_one_wave_is_that_of_its_transfer_functions(periods):
    wave = np.cos(np.pi * periods * (np.arange(64) + 0.5) / 64)  # goes on beyond the window as it is mirrored there
    grey = (128 + 60 * wave * np.ones((64, 1)))[None].astype(np.float32)

    def passed(deviation):
        return np.exp(-2 * (np.pi * deviation * periods / 128) ** 2)

    parts = [passed(deviation) for deviation in (1.4, 2.8, 5.6)]
    expected = (1 - passed(0.7)) / np.hypot(parts[0] - parts[1], parts[1] - parts[2])
    found = detail_ratio(grey, np.ones(grey.shape, bool))[0]
    if 60 / 2**0.5 * np.hypot(parts[0] - parts[1], parts[1] - parts[2]) < 2:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(expected, rel=0.04)


@pytest.mark.parametrize("strength", [0.4, 1.0])
@pytest.mark.parametrize("mpp", [0.5, 2.0])
def test_tissue_is_told_by_how_much_it_is_blurred(strength, mpp):
    side = round(768 / mpp)
    bounds = {0: (0, 0), 1: (0, 0), 3: (0.9, 1), 4: (0.98, 1), 8: (0.9 if strength == 1 else 0, 1)}
    for blur, (least, most) in bounds.items():
        share = blurred_share(fine_tissue(side, side, mpp, blur, strength), mpp).mean()
        assert least <= share <= most, blur


def test_a_blurred_part_is_found_where_it_is():
    pixels = fine_tissue(512, 768, 2.0)
    pixels[:, 384:] = fine_tissue(512, 384, 2.0, blur_um=4)
    found = blurred_share(pixels, 2.0)
    expected = np.zeros(found.shape, dtype=bool)
    expected[:, expected.shape[1] // 2 :] = True
    assert (found != expected).mean() < 0.02


def test_what_cannot_be_read_is_judged_by_its_neighbours_or_not_at_all():
    pixels = fine_tissue(512, 512, 2.0, blur_um=4)
    found = blurred_share(pixels, 2.0, damaged=True)
    assert found[:, 48:].all()
    assert not found[:, :48].any()
    assert not blurred_share(fine_tissue(512, 512, 2.0), 2.0, damaged=True).any()


@pytest.mark.parametrize("name", TISSUES)
def test_drawn_patches_are_not_blurred(name):
    rng = np.random.default_rng(0)
    pixels = np.concatenate([np.asarray(draw_patch(name, 896, rng)), np.asarray(draw_patch(name, 896, rng))], axis=1)
    assert not blurred_share(pixels, 0.5).any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 2000), (2000, 1), (40, 40), (130, 3000), (700, 900)])
@pytest.mark.parametrize("what", ["flat", "gradient", "noise", "steps"])
@pytest.mark.parametrize("mpp", [0.25, 0.5, 1.7, 2.1])
def test_flat_and_tiny_slides_are_not_blurred(shape, what, mpp):
    y, x = np.mgrid[: shape[0], : shape[1]]
    values = {
        "flat": np.full(shape, 130.0),
        "gradient": 60 + (x + y) / 20.0,
        "noise": 130 + np.random.default_rng(0).normal(0, 3, shape),
        "steps": 90 + 90.0 * ((x // 100 + y // 100) % 2),
    }[what]
    pixels = np.repeat(np.clip(values, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    assert not blurred_share(pixels, mpp).any()


def test_a_slide_that_is_too_coarse_is_not_judged():
    assert blurred_share(fine_tissue(200, 200, 2.2), 2.2) is None


def test_large_slides_are_read_in_a_bounded_number_of_windows(monkeypatch):
    monkeypatch.setattr(focus, "_MOST_WINDOWS", 150)

    class Endless(InMemory):
        def __init__(self):
            super().__init__(fine_tissue(128, 128, 0.5), 0.5)
            self.levels = (Level((128_000, 96_000), (1.0, 1.0)),)

        def read_level(self, level, corner, size):
            self.read += 1
            return self.pixels[: size[1], : size[0]].repeat(2, axis=0).repeat(2, axis=1)[: size[1], : size[0]]

    slide = Endless()
    blurred_of(slide, np.ones((600, 800), dtype=bool), (160.0, 160.0))
    assert 75 < slide.read <= 150


def test_of_a_pyramid_a_coarse_level_is_read_and_of_one_fine_level_a_quarter(tmp_path):
    pixels = draw_slide(2048, 1024)
    slide = InMemory(pixels, 0.5)
    blurred_of(slide, np.ones((64, 128), dtype=bool), (16.0, 16.0))
    assert slide.read <= 0.3 * 2048 * 1024
    opened = open_slide(write_pyramid(tmp_path / "s.tif", pixels, 0.5))
    levels = []
    read = opened.read_level
    opened.read_level = lambda level, *more: levels.append(level) or read(level, *more)
    blurred_of(opened, np.ones((64, 128), dtype=bool), (16.0, 16.0))
    assert set(levels) == {1}


def real_fields(shared_folder):
    slide = open_slide(shared_folder("slides") / "CMU-1-Small-Region.svs")
    yield slide.read_level(0, (0, 0), slide.size), slide.mpp[0]
    for path in sorted((shared_folder("datasets") / "GlaS-fields" / "slides").glob("*.jpg"))[::9]:
        with Image.open(path) as image:
            yield np.asarray(image.convert("RGB")), 0.62


def test_real_skin_and_gut_are_sharp_unless_they_are_blurred(shared_folder):
    for pixels, mpp in real_fields(shared_folder):
        small = Image.fromarray(pixels).resize([round(side * mpp / 8) for side in pixels.shape[1::-1]])
        tissue = tissue_of(np.asarray(small)).mask
        scale = (pixels.shape[1] / tissue.shape[1], pixels.shape[0] / tissue.shape[0])
        assert not blurred_of(InMemory(pixels, mpp), tissue, scale).any()
        softer, soft = (ndimage.gaussian_filter(pixels, (um / mpp, um / mpp, 0)) for um in (4, 1))
        assert not blurred_of(InMemory(soft, mpp), tissue, scale).any()
        assert blurred_of(InMemory(softer, mpp), tissue, scale).sum() > 0.9 * tissue.sum()
