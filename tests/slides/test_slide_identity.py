"""A slide that was replaced by another one is never taken for it, also where its size and OpenSlide's hash agree."""

import json
from dataclasses import replace

import numpy as np
import openslide
import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from slide_files import draw_slide, write_dicom, write_mirax, write_pyramid

from spider_tools.cohorts.many import segment_slides
from spider_tools.embeddings.identity import store_key
from spider_tools.slide_files import content
from spider_tools.slide_files.content import content_sha256
from spider_tools.slide_files.reader import open_slide

pytestmark = [pytest.mark.usefixtures("fresh_accelerator"), pytest.mark.slow]


def write_large(path, seed):
    """One level of more than 5 MB, of which OpenSlide makes no hash."""
    return write_pyramid(path, draw_slide(1500, 1200, seed=seed), 0.5, factors=(1,), description="aperio")


def write_changed_below(path, seed):
    """The lowest level, of which OpenSlide makes its hash, is the same for all; the others are not."""
    pixels = np.full((256, 512, 3), 200, dtype=np.uint8)
    pixels[::2, ::2] += np.uint8(seed + 1)
    pixels[1::2, 1::2] -= np.uint8(seed + 1)
    return write_pyramid(path, pixels, 0.5, description="aperio")


def write_series(path, seed):
    """DICOM, whose hash is of the name of the series."""
    return write_dicom(path, draw_slide(300, 220, seed=seed), "1.2.3.4")


def write_folder(path, seed):
    """MIRAX, whose pixels lie in another file; its lowest level is hashed, here the only one."""
    pixels = np.full((256, 384, 3), 200, dtype=np.uint8)
    pixels[8 * seed : 8 * seed + 4, :8] = (180, 20, 60)
    return write_mirax(path, pixels, (64, 128), (768, 512), levels=1)


KINDS = {
    "s.svs": write_large,
    "t.svs": write_changed_below,
    "s.dcm": write_series,
    "s.mrxs": write_folder,
}


@pytest.mark.parametrize("name", KINDS)
def test_another_slide_in_the_place_of_one_has_another_identity(tmp_path, name):
    identities = []
    for seed in (1, 2, 1):
        (tmp_path / str(len(identities))).mkdir()
        path = KINDS[name](tmp_path / str(len(identities)) / name, seed)
        identities.append(open_slide(path).identity)
    assert identities[0] == identities[2] != identities[1]
    assert identities[0]["bytes"] == identities[1]["bytes"]


def test_the_slides_of_these_tests_are_not_told_apart_by_openslide(tmp_path):
    hashes = {}
    for name in ("s.svs", "t.svs", "s.dcm"):
        for seed in (1, 2):
            folder = tmp_path / f"{name}-{seed}"
            folder.mkdir()
            path = KINDS[name](folder / name, seed)
            with openslide.OpenSlide(path) as slide:
                hashes.setdefault(name, []).append(slide.properties.get("openslide.quickhash-1"))
    assert hashes["s.svs"] == [None, None]
    assert hashes["t.svs"][0] == hashes["t.svs"][1] is not None
    assert hashes["s.dcm"][0] == hashes["s.dcm"][1] is not None


def test_a_replaced_slide_is_not_skipped_and_shares_no_embeddings(tmp_path, settings):
    path = tmp_path / "s.dcm"
    write_series(path, 1)
    first = segment_slides([path], settings)
    again = segment_slides([path], settings)
    write_series(path, 2)
    other = segment_slides([path], settings)
    assert [results[0].status for results in (first, again, other)] == ["done", "skipped", "done"]
    marker = json.loads((settings.output_dir / "s" / "slide.json").read_text())
    assert other[0].embedded == marker["facts"]["Patches embedded, context included"]


def test_a_renamed_or_copied_slide_is_the_same(tmp_path):
    path = write_changed_below(tmp_path / "a.svs", 1)
    (tmp_path / "b.svs").write_bytes(path.read_bytes())
    assert open_slide(path).identity == open_slide(tmp_path / "b.svs").identity


@pytest.mark.parametrize("place", [0, 1 << 20, (5 << 20) - 1])
def test_small_files_are_read_as_a_whole_and_large_ones_in_samples(tmp_path, monkeypatch, place):
    monkeypatch.setattr(content, "_SAMPLE_BYTES", 1 << 15)  # 2 MB of samples
    for size, seen in ((2 << 20, {0, 1 << 20}), (5 << 20, {0, (5 << 20) - 1})):
        if place >= size:
            continue
        one = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
        other = one.copy()
        other[place] ^= 1
        for name, values in (("a", one), ("b", other)):
            (tmp_path / name).write_bytes(values.tobytes())
        differ = content_sha256([tmp_path / "a"]) != content_sha256([tmp_path / "b"])
        if place in seen:
            assert differ


def test_samples_are_spread_so_that_no_gap_is_long(tmp_path):
    size = 64 << 20
    (tmp_path / "a").write_bytes(bytes(size))
    before = content_sha256([tmp_path / "a"])
    for begin in range(0, size, 16 << 20):
        with open(tmp_path / "a", "r+b") as file:  # anything as long as 2 MB
            file.seek(begin)
            file.write(b"x" * (2 << 20))
        after = content_sha256([tmp_path / "a"])
        assert after != before
        before = after


def without_content(value):
    if isinstance(value, dict):
        return {key: without_content(inner) for key, inner in value.items() if key != "content"}
    return value


@pytest.fixture
def older_result(tmp_path, settings):
    """A slide and its folder of results, as versions up to 0.2 wrote it: its identity had no content."""
    path = write_pyramid(tmp_path / "s.svs", draw_slide(300, 230, seed=1), 0.5, description="aperio")
    segment_slides([path], settings)
    folder = settings.output_dir / "s"
    marker = json.loads((folder / "slide.json").read_text())
    marker["request"]["slide"] = without_content(marker["request"]["slide"])
    file = folder / "embeddings.safetensors"
    with safe_open(file, "pt") as opened:
        made_of = json.loads(opened.metadata()["content"])
    made_of["source"]["slide"] = without_content(made_of["source"]["slide"])
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    save_file(tensors, file, {"key": store_key(made_of), "content": json.dumps(made_of, sort_keys=True)})
    marker["outputs"]["embeddings.safetensors"] = file.stat().st_size
    (folder / "slide.json").write_text(json.dumps(marker))
    return path, folder


def test_results_of_earlier_versions_stay_valid(older_result, settings):
    assert segment_slides([older_result[0]], settings)[0].status == "skipped"


def test_embeddings_of_earlier_versions_stay_valid(older_result, settings):
    other = segment_slides([older_result[0]], replace(settings, min_tissue=0.3))
    assert (other[0].status, other[0].embedded) == ("done", 0)


@pytest.mark.parametrize("what", ["quickhash", "format"])
def test_results_of_earlier_versions_that_do_not_tell_slides_apart_are_made_anew(older_result, settings, what):
    path, folder = older_result
    marker = json.loads((folder / "slide.json").read_text())
    marker["request"]["slide"][what] = None
    (folder / "slide.json").write_text(json.dumps(marker))
    assert segment_slides([path], settings)[0].status == "done"
