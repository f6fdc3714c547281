"""The digest of what a folder holds: it follows the content, whatever the times, and does not read it twice."""

import hashlib
import json
import os
import shutil
import time

import numpy as np
import pytest
from PIL import Image
from small_datasets import PATCH, pixels_of, some_records, write_folder

from spider_tools.data import contents
from spider_tools.data.contents import content_digest
from spider_tools.data.loading import load_regions
from spider_tools.data.settings import DataSettings


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "d" / "sub").mkdir(parents=True)
    for number in range(30):
        (tmp_path / "d" / ("sub" if number % 3 else "") / f"{number}.bin").write_bytes(bytes([number]) * 50)
    return tmp_path / "d"


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def settled(monkeypatch):
    """Files count as settled at once, so that what was read is remembered."""
    monkeypatch.setattr(contents, "_SETTLED_SECONDS", -1.0)


@pytest.fixture
def reads(monkeypatch):
    """Names of the files that were read."""
    found = []
    file_digest = contents.file_digest
    monkeypatch.setattr(contents, "file_digest", lambda path: found.append(os.path.basename(path)) or file_digest(path))
    return found


def keep_times(path, change):
    before = path.stat()
    change(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_mtime_ns, path.stat().st_size) == (before.st_mtime_ns, before.st_size)


def overwrite(path):
    path.write_bytes(bytes(50))


def overwrite_and_keep_times(path):
    keep_times(path, overwrite)


def swap_names(path):
    other = path.with_name("1.bin")
    path.rename(path.with_name("x"))
    other.rename(path)
    path.with_name("x").rename(other)


@pytest.mark.parametrize(
    "change",
    [
        overwrite,
        overwrite_and_keep_times,
        swap_names,
        lambda path: path.unlink(),
        lambda path: path.rename(path.with_name("new.bin")),
        lambda path: path.with_name("more.bin").write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes() + b"x"),
    ],
)
@pytest.mark.usefixtures("settled")
def test_every_change_is_seen_also_where_size_and_times_stay(folder, cache, change):
    before = content_digest(folder, cache)
    assert content_digest(folder, cache) == before
    change(folder / "sub" / "2.bin")
    assert content_digest(folder, cache) != before


@pytest.mark.usefixtures("settled")
def test_nothing_is_read_again_while_nothing_is_touched(folder, cache, reads):
    first = content_digest(folder, cache)
    assert len(reads) == 30
    assert content_digest(folder, cache) == first
    assert len(reads) == 30
    (folder / "0.bin").touch()
    assert content_digest(folder, cache) == first
    assert len(reads) == 60


@pytest.mark.parametrize("nanoseconds", [-(10**9), 2**63 + 5])
@pytest.mark.usefixtures("settled")
def test_times_may_be_of_any_century(folder, cache, reads, nanoseconds):
    first = content_digest(folder, cache)
    os.utime(folder / "0.bin", ns=(0, nanoseconds))
    if (folder / "0.bin").stat().st_mtime_ns != nanoseconds:
        pytest.skip("this file system keeps no such times")
    assert [content_digest(folder, cache) for _ in range(2)] == [first] * 2
    assert len(reads) == 60


def test_files_that_have_just_changed_are_not_taken_for_settled(folder, cache, reads, monkeypatch):
    content_digest(folder, cache)
    content_digest(folder, cache)
    assert len(reads) == 60
    later = time.time() + 3
    monkeypatch.setattr(contents.time, "time", lambda: later)
    content_digest(folder, cache)
    content_digest(folder, cache)
    assert len(reads) == 90


def test_a_copy_has_the_digest_of_the_original(folder, cache, tmp_path):
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    for path in (tmp_path / "copy").rglob("*.bin"):
        os.utime(path, (1, 1))
    assert content_digest(tmp_path / "copy", cache) == content_digest(folder, cache)


def by_hand(folder):
    """The digest of earlier versions, which stores and tables are named by, in the plainest way."""
    total, files = 0, [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    for path in files:
        content = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest() if path.is_file() else ""
        line = os.fsencode(f"{path.relative_to(folder)}\0{content}")
        total += int.from_bytes(hashlib.blake2b(line, digest_size=16).digest(), "little")
    return hashlib.blake2b(json.dumps([total % 2**128, len(files)]).encode(), digest_size=16).hexdigest()


@pytest.mark.parametrize("alone", [1000, 10])
@pytest.mark.usefixtures("settled")
def test_processes_give_the_digest_that_one_gives_and_earlier_versions_gave(folder, cache, monkeypatch, alone):
    monkeypatch.setattr(contents, "_ALONE", alone)
    monkeypatch.setattr(contents, "_LOOKED_AT_ONCE", 3)
    monkeypatch.setattr(contents, "_READ_AT_ONCE", 4)
    (folder / os.fsdecode(b"\xff.bin")).write_bytes(b"a name that is no text")
    (folder / "empty").touch()
    (folder / "large").write_bytes(os.urandom(2**20 + 1))
    (folder / "nowhere").symlink_to("gone")
    (folder / "to").symlink_to("large")
    os.mkfifo(folder / "pipe")
    assert content_digest(folder, cache) == by_hand(folder)
    monkeypatch.setattr(contents, "_contents", None)  # read no more
    assert content_digest(folder, cache) == by_hand(folder)


def test_blobs_of_a_hub_snapshot_are_known_by_their_names(tmp_path, cache, reads):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshots" / "1" / "images").mkdir(parents=True)
    link = tmp_path / "snapshots" / "1" / "images" / "a.png"
    for name in ("0a" * 32, "0b" * 32):
        (tmp_path / "blobs" / name).write_bytes(b"the same")
    digests = []
    for name in ("0a" * 32, "0b" * 32):
        link.unlink(missing_ok=True)
        link.symlink_to(f"../../../blobs/{name}")
        digests.append(content_digest(tmp_path / "snapshots", cache))
    assert reads == []
    assert len(set(digests)) == 2


def test_other_links_count_with_what_they_lead_to(tmp_path, cache):
    (tmp_path / "d").mkdir()
    (tmp_path / "pool").write_bytes(b"one")
    (tmp_path / "d" / "link").symlink_to(tmp_path / "pool")
    first = content_digest(tmp_path / "d", cache)
    (tmp_path / "pool").write_bytes(b"two")
    assert content_digest(tmp_path / "d", cache) != first
    (tmp_path / "pool").unlink()
    assert content_digest(tmp_path / "d", cache) != first


def test_pipes_and_folders_behind_links_are_not_read(tmp_path, cache, reads):
    (tmp_path / "d").mkdir()
    os.mkfifo(tmp_path / "d" / "pipe")
    (tmp_path / "d" / "out").symlink_to(tmp_path)
    content_digest(tmp_path / "d", cache)
    assert reads == []


@pytest.mark.usefixtures("settled")
def test_a_cache_that_cannot_be_written_costs_reading_and_says_so(folder, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file, where a folder is expected")
    assert content_digest(folder, tmp_path / "cache") == content_digest(folder, tmp_path / "elsewhere")
    assert "cannot be written, so all files will be read again next time" in caplog.text


# ---- what it is for


def bmp_folder(tmp_path, ending):
    """A SPIDER folder of uncompressed images, all of one size in bytes."""
    folder = write_folder(tmp_path / "tissue", some_records())
    metadata = folder / "metadata.json"
    metadata.write_text(metadata.read_text().replace(".png", ending))
    for path in (folder / "images").iterdir():
        Image.fromarray(pixels_of(path.name)).save(path.with_suffix(ending))
        path.unlink()
    return folder


@pytest.mark.parametrize("ending", [".bmp", ".tif"])
@pytest.mark.parametrize("with_times", [False, True])
@pytest.mark.usefixtures("settled")
def test_images_normalised_in_place_are_other_data(tmp_path, cache, ending, with_times):
    folder = bmp_folder(tmp_path, ending)

    def load(dataset):
        return load_regions(DataSettings(str(dataset), cache_dir=cache, patch_size=PATCH))

    def normalise(path):
        with Image.open(path) as image:
            pixels = 255 - np.asarray(image)
        Image.fromarray(pixels).save(path)

    before = load(folder)
    shutil.copytree(folder, tmp_path / "copy")
    assert load(tmp_path / "copy").fingerprint == before.fingerprint
    path = folder / "images" / before.splits["test"][0]["patches"][7]
    if with_times:
        keep_times(path, normalise)
    else:
        size = path.stat().st_size
        normalise(path)
        assert path.stat().st_size == size
    after = load(folder)
    assert after.fingerprint != before.fingerprint
    assert after.patches.fingerprint == after.fingerprint
    normalise(path)
    assert load(folder).fingerprint == before.fingerprint


def test_an_image_of_another_shape_and_the_same_size_is_found_before_work_starts(tmp_path, cache):
    folder = bmp_folder(tmp_path, ".bmp")
    settings = DataSettings(str(folder), cache_dir=cache, patch_size=PATCH)
    name = load_regions(settings).splits["test"][0]["patches"][7]
    size = (folder / "images" / name).stat().st_size
    Image.fromarray(pixels_of("x", PATCH // 2, PATCH * 2)).save(folder / "images" / name)
    assert (folder / "images" / name).stat().st_size == size
    with pytest.raises(ValueError, match="it is 16x4 px, expected 8x8 px"):
        load_regions(settings)
