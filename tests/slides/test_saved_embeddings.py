"""Saved embeddings: nothing is lost but the unsaved, nothing is read that belongs to something else."""

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from spider_tools.slides.saved_embeddings import SavedEmbeddings

CONTENT = {"slide": "s", "backbone": "b"}


def made(count, seed=0, dtype=torch.float32):
    generator = np.random.default_rng(seed)
    corners = generator.permutation([(x * 28, y * 28) for y in range(40) for x in range(50)])[:count].astype(np.int64)
    return corners, torch.from_numpy(generator.standard_normal((count, 6)).astype(np.float32)).to(dtype)


def parts(folder):
    return sorted((folder / "embeddings.unfinished").glob("*"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_file_holds_every_embedding_beside_its_place(tmp_path, dtype):
    corners, embeddings = made(500, dtype=dtype)
    saved = SavedEmbeddings(tmp_path, CONTENT)
    for start in range(0, 500, 130):
        saved.add(corners[start : start + 130], embeddings[start : start + 130])
    table = saved.finish((2.0, 3.0))
    assert not parts(tmp_path)

    stored = load_file(tmp_path / "embeddings.safetensors")  # with the library, not with our reader
    order = np.lexsort(corners.T)
    assert stored["xy"].dtype == torch.int32
    np.testing.assert_array_equal(stored["xy"], corners[order])
    np.testing.assert_array_equal(stored["xy_level0"], corners[order] * (2.0, 3.0))
    assert stored["embeddings"].dtype == dtype
    assert torch.equal(stored["embeddings"], embeddings[order])
    assert torch.equal(table.embeddings[torch.from_numpy(table.rows(corners))], embeddings)


def test_what_was_saved_before_a_kill_is_not_embedded_again(tmp_path):
    corners, embeddings = made(100)
    saved = SavedEmbeddings(tmp_path, CONTENT)
    saved.add(corners[:30], embeddings[:30])
    saved.add(corners[30:50], embeddings[30:50])
    resumed = SavedEmbeddings(tmp_path, CONTENT)
    np.testing.assert_array_equal(resumed.missing(corners), corners[50:])
    resumed.add(corners[50:], embeddings[50:])
    table = resumed.finish((1.0, 1.0))
    assert torch.equal(table.embeddings[torch.from_numpy(table.rows(corners))], embeddings)


def test_a_whole_file_is_extended(tmp_path):
    corners, embeddings = made(90)
    first = SavedEmbeddings(tmp_path, CONTENT)
    first.add(corners[:60], embeddings[:60])
    first.finish((1.0, 1.0))
    second = SavedEmbeddings(tmp_path, CONTENT)
    np.testing.assert_array_equal(second.missing(corners), corners[60:])
    second.add(corners[60:], embeddings[60:])
    table = second.finish((1.0, 1.0))
    assert torch.equal(table.embeddings[torch.from_numpy(table.rows(corners))], embeddings)
    assert len(SavedEmbeddings(tmp_path, CONTENT).missing(corners)) == 0


def test_a_whole_file_with_everything_is_not_written_again(tmp_path):
    corners, embeddings = made(20)
    saved = SavedEmbeddings(tmp_path, CONTENT)
    saved.add(corners, embeddings)
    saved.finish((1.0, 1.0))
    before = (tmp_path / "embeddings.safetensors").stat()
    SavedEmbeddings(tmp_path, CONTENT).finish((1.0, 1.0))
    after = (tmp_path / "embeddings.safetensors").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize("finished", [False, True])
def test_embeddings_of_another_slide_or_backbone_are_not_used(tmp_path, finished):
    corners, embeddings = made(20)
    saved = SavedEmbeddings(tmp_path, CONTENT)
    saved.add(corners, embeddings)
    if finished:
        saved.finish((1.0, 1.0))
    other = SavedEmbeddings(tmp_path, {**CONTENT, "backbone": "another"})
    assert len(other.missing(corners)) == 20
    other.add(corners, embeddings + 1)
    table = other.finish((1.0, 1.0))
    assert torch.equal(table.embeddings[torch.from_numpy(table.rows(corners))], embeddings + 1)


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_damaged_parts_are_embedded_again(tmp_path, damage, caplog):
    corners, embeddings = made(50)
    saved = SavedEmbeddings(tmp_path, CONTENT)
    saved.add(corners[:20], embeddings[:20])
    saved.add(corners[20:], embeddings[20:])
    path = next(p for p in parts(tmp_path) if p.name.endswith("-20.safetensors"))
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        del content[-7:]
    else:
        content[-9] ^= 4
    path.write_bytes(content)
    resumed = SavedEmbeddings(tmp_path, CONTENT)
    np.testing.assert_array_equal(resumed.missing(corners), corners[:20])
    assert "is damaged, its patches are embedded again" in caplog.text
    assert len(parts(tmp_path)) == 1


def test_unfinished_files_of_a_killed_run_are_not_read(tmp_path):
    corners, embeddings = made(20)
    saved = SavedEmbeddings(tmp_path, CONTENT)
    saved.add(corners, embeddings)
    parts(tmp_path)[0].rename(parts(tmp_path)[0].with_name(".part.safetensors.77.unfinished"))
    assert len(SavedEmbeddings(tmp_path, CONTENT).missing(corners)) == 20


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_embeddings_that_are_no_numbers_are_refused(tmp_path, value):
    corners, embeddings = made(20)
    embeddings[7, 3] = value
    x, y = corners[7]
    with pytest.raises(FloatingPointError, match=rf"1 of 20 patches are NaN or infinite.*\[{x}, {y}\].*--dtype"):
        SavedEmbeddings(tmp_path, CONTENT).add(corners, embeddings)
    assert not parts(tmp_path)


def test_patches_that_are_not_there_are_named(tmp_path):
    corners, embeddings = made(20)
    saved = SavedEmbeddings(tmp_path, CONTENT)
    saved.add(corners, embeddings)
    with pytest.raises(KeyError, match=r"no embedding of the patch at \[1, 2\] and 0 others"):
        saved.finish((1.0, 1.0)).rows(np.array([[1, 2], corners[3]]))


def test_the_file_names_what_its_embeddings_are_of(tmp_path):
    saved = SavedEmbeddings(tmp_path, CONTENT)
    saved.add(*made(3))
    saved.finish((1.0, 1.0))
    with safe_open(tmp_path / "embeddings.safetensors", framework="np") as file:
        assert '"backbone": "b"' in file.metadata()["content"]
