"""A slide's embeddings are verified before they are used again: no damaged byte becomes another map."""

import json
import logging
import struct
import tracemalloc

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from spider_tools.cohorts.many import segment_slides
from spider_tools.slide_files.lattice import Lattice
from spider_tools.slides.classification import classify_positions
from spider_tools.slides.saved_embeddings import SavedEmbeddings
from spider_tools.slides.tensor_file import has_the_form, sha256_in, sha256_of

CONTENT = {"slide": "s"}
SCALE = (2.0, 3.0)
CORNERS = np.array([(56, 0), (0, 28), (28, 0), (0, 0), (28, 28)])
EMBEDDINGS = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


def save(folder, dtype=torch.float32):
    """The path of a joined file of two parts."""
    saved = SavedEmbeddings(folder, CONTENT)
    saved.add(CORNERS[:2], EMBEDDINGS[:2].to(dtype))
    saved.add(CORNERS[2:], EMBEDDINGS[2:].to(dtype))
    saved.finish(SCALE)
    return folder / "embeddings.safetensors"


def place_of(path, name):
    """Where the bytes of a tensor begin and end in a file."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return [8 + length + offset for offset in json.loads(content[8 : 8 + length])[name]["data_offsets"]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_checksum_is_that_of_all_tensors_in_the_order_of_their_names(tmp_path, dtype):
    path = save(tmp_path, dtype)
    with safe_open(path, "pt") as file:
        assert file.metadata()["sha256"] == sha256_of(load_file(path)) == sha256_in(path)
        assert has_the_form(file)
    assert len(SavedEmbeddings(tmp_path, CONTENT).missing(CORNERS)) == 0


@pytest.mark.parametrize("bit", [0, 3, 7])
def test_no_flipped_bit_anywhere_gives_other_embeddings(tmp_path, bit):
    path = save(tmp_path)
    content = path.read_bytes()
    ends = place_of(path, "embeddings")
    for number in range(len(content)):
        path.write_bytes(content[:number] + bytes([content[number] ^ 1 << bit]) + content[number + 1 :])
        saved = SavedEmbeddings(tmp_path, CONTENT)
        lost = len(saved.missing(CORNERS))
        assert lost in ((5,) if number >= ends[0] else (0, 5)), number
        if not lost:  # the header's words on other things
            table = saved.finish(SCALE)
            assert torch.equal(table.embeddings[torch.from_numpy(table.rows(CORNERS))], EMBEDDINGS), number


@pytest.mark.parametrize("name", ["embeddings", "xy", "xy_level0"])
@pytest.mark.parametrize("damage", ["signs", "zeros", "swapped"])
def test_damage_that_keeps_the_length_is_told_and_mended(tmp_path, name, damage, caplog):
    path = save(tmp_path)
    start, end = place_of(path, name)
    content = bytearray(path.read_bytes())
    part = content[start:end]
    if damage == "signs":
        part[3::4] = bytes(byte ^ 0x80 for byte in part[3::4])
    content[start:end] = {"signs": part, "zeros": bytes(len(part)), "swapped": part[::-1]}[damage]
    path.write_bytes(content)
    saved = SavedEmbeddings(tmp_path, CONTENT)
    np.testing.assert_array_equal(saved.missing(CORNERS), CORNERS)
    assert "is damaged, its patches are embedded again: its content does not fit its checksum" in caplog.text
    saved.add(CORNERS, EMBEDDINGS)
    table = saved.finish(SCALE)
    assert torch.equal(table.embeddings[torch.from_numpy(table.rows(CORNERS))], EMBEDDINGS)


@pytest.mark.parametrize(
    "tensors",
    [
        {"embeddings": EMBEDDINGS},
        {"xy": torch.from_numpy(CORNERS).int()},
        {"embeddings": EMBEDDINGS[:4].clone(), "xy": torch.from_numpy(CORNERS).int()},
        {"embeddings": EMBEDDINGS.int(), "xy": torch.from_numpy(CORNERS).int()},
        {"embeddings": EMBEDDINGS, "xy": torch.from_numpy(CORNERS)},
        {"embeddings": EMBEDDINGS.flatten(), "xy": torch.from_numpy(CORNERS).int()},
        {"embeddings": EMBEDDINGS, "xy": torch.from_numpy(CORNERS).int(), "more": EMBEDDINGS.clone()},
    ],
)
def test_tensors_of_another_form_are_embedded_again(tmp_path, tensors, caplog):
    with safe_open(save(tmp_path), "pt") as file:
        key = file.metadata()["key"]
    save_file(tensors, tmp_path / "embeddings.safetensors", {"key": key, "sha256": sha256_of(tensors)})
    assert len(SavedEmbeddings(tmp_path, CONTENT).missing(CORNERS)) == 5
    assert "its tensors are not those of embeddings" in caplog.text


def without_checksum(path):
    with safe_open(path, "pt") as file:
        metadata = {key: value for key, value in file.metadata().items() if key != "sha256"}
    save_file(load_file(path), path, metadata)


def test_a_file_of_an_earlier_version_is_used_and_that_is_said(tmp_path, caplog):
    path = save(tmp_path)
    without_checksum(path)
    with caplog.at_level(logging.INFO):
        saved = SavedEmbeddings(tmp_path, CONTENT)
    assert len(saved.missing(CORNERS)) == 0
    told = [record for record in caplog.records if "holds no checksum" in record.message]
    assert [record.levelno for record in told] == [logging.INFO]


def test_a_file_of_an_earlier_version_that_was_cut_off_is_not_used(tmp_path):
    path = save(tmp_path)
    without_checksum(path)
    path.write_bytes(path.read_bytes()[:-1])
    assert len(SavedEmbeddings(tmp_path, CONTENT).missing(CORNERS)) == 5


def test_verifying_holds_a_block_of_the_file_in_memory(tmp_path):
    save_file({"embeddings": torch.ones(4_000_000)}, tmp_path / "large.safetensors")
    tracemalloc.start()
    try:
        digest = sha256_in(tmp_path / "large.safetensors")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert digest == sha256_of({"embeddings": torch.ones(4_000_000)})
    assert most < 4 << 20


@pytest.mark.usefixtures("fresh_accelerator")
def test_the_next_map_of_a_slide_is_the_same_whatever_became_of_the_file(tmp_path, settings, slide_file):
    segment_slides([slide_file], settings)
    folder = settings.output_dir / slide_file.stem
    composition = (folder / "composition.csv").read_bytes()
    path = folder / "embeddings.safetensors"
    start, end = place_of(path, "embeddings")
    content = bytearray(path.read_bytes())
    content[start + 3 : end : 4] = bytes(byte ^ 0x80 for byte in content[start + 3 : end : 4])
    path.write_bytes(content)
    (folder / "slide.json").unlink()
    assert segment_slides([slide_file], settings)[0].embedded > 0
    assert (folder / "composition.csv").read_bytes() == composition


def test_embeddings_of_an_earlier_version_that_are_no_numbers_make_no_map(tmp_path, slide_model):
    """Without a checksum nothing else tells."""
    lattice = Lattice(28, 28, 5, (56, 28), (1.0, 1.0))
    embeddings = torch.zeros(2, slide_model.config.backbone_config.hidden_size)
    embeddings[1, 0] = float("nan")
    with pytest.raises(FloatingPointError, match=r"The logits of 2 of 2 patches are NaN.* row, column = \[0, 0\]"):
        classify_positions(slide_model, lattice, np.ones((1, 2), dtype=bool), np.array([[0, 1]]), embeddings)
