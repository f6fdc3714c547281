"""Archives that become more than the disk holds, or more than any honest one does."""

import bz2
import errno
import gzip
import io
import lzma
import os
import subprocess
import tarfile
from types import SimpleNamespace

import pytest
from small_datasets import PATCH, some_records, write_folder

from spider_tools.data import room_on_disk
from spider_tools.data.loading import load_regions
from spider_tools.data.settings import DataSettings
from spider_tools.data.tar_parts import find_archives, unpack

MIB = 1 << 20


def tar_of(*members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, size in members:
            info = tarfile.TarInfo(name)
            info.size = size
            tar.addfile(info, io.BytesIO(bytes(size)))
    return file.getvalue()


def try_unpacking(tmp_path, content, name="tissue.tar", skip=False):
    (tmp_path / "packed").mkdir(exist_ok=True)
    if not (tmp_path / "packed" / name).exists():
        (tmp_path / "packed" / name).write_bytes(content)
    return unpack(find_archives(tmp_path / "packed"), tmp_path / "cache", "tissue", skip)


def unpacked_names(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix == ".png")


def with_free(monkeypatch, free):
    monkeypatch.setattr(room_on_disk, "shutil", SimpleNamespace(disk_usage=lambda folder: SimpleNamespace(free=free)))


@pytest.mark.parametrize("skip", [False, True])
def test_a_member_without_room_is_refused_before_it_is_written(tmp_path, monkeypatch, skip):
    with_free(monkeypatch, 258 * MIB)
    message = r"member 'b\.png' of tissue\.tar takes 3 MiB, .*free, 258 MiB, less 256 MiB in reserve\..*--cache_dir"
    with pytest.raises(ValueError, match=message):
        try_unpacking(tmp_path, tar_of(("a.png", 2 * MIB), ("b.png", 3 * MIB)), skip=skip)
    assert unpacked_names(tmp_path) == ["a.png"]
    with_free(monkeypatch, 259 * MIB)
    try_unpacking(tmp_path, tar_of(("a.png", 2 * MIB), ("b.png", 3 * MIB)))
    assert unpacked_names(tmp_path) == ["a.png", "b.png"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_meanwhile_is_named(tmp_path, monkeypatch, number):
    def full(source, target):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=r"--cache_dir\.: .*cache/unpacked/tissue-") as caught:
        try_unpacking(tmp_path, tar_of(("a.png", 5)))
    assert caught.value.errno == number


def test_a_disk_without_room_for_the_table_is_named(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder = write_folder(tmp_path / "tissue", some_records())
    monkeypatch.setattr("spider_tools.data.spider_layout.write_table", full)
    with pytest.raises(OSError, match=r"No space left on device\..*--cache_dir\.: .*cache/regions"):
        load_regions(DataSettings(str(folder), cache_dir=tmp_path / "cache", patch_size=PATCH))


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_archive_that_becomes_far_too_large_is_refused(tmp_path, monkeypatch, compress):
    monkeypatch.setattr(room_on_disk, "_UNSUSPECTED", MIB)
    content = compress(tar_of(("a.png", MIB // 4), ("b.png", 8 * MIB)))
    assert len(content) * 200 < 8 * MIB
    with pytest.raises(ValueError, match=r"tissue\.tar\.gz has .* and becomes 8 MiB or more, expected at most 200"):
        try_unpacking(tmp_path, content, "tissue.tar.gz")
    assert unpacked_names(tmp_path) == ["a.png"]


def test_a_small_archive_may_shrink_as_much_as_it_likes(tmp_path):
    try_unpacking(tmp_path, gzip.compress(tar_of(("a.png", 8 * MIB))), "tissue.tar.gz")
    assert unpacked_names(tmp_path) == ["a.png"]


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_sparse_members_are_refused_or_left_out(tmp_path, form):
    with open(tmp_path / "hole.png", "wb") as file:
        file.truncate(64 * MIB)
    (tmp_path / "good.png").write_bytes(b"good")
    command = ["tar", "-S", f"--format={form}", "-cf", "-", "good.png", "hole.png"]
    content = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout
    assert len(content) < MIB
    with pytest.raises(ValueError, match=r"Member 'hole\.png' of tissue\.tar.* got a sparse one"):
        try_unpacking(tmp_path, content)
    _, bad = try_unpacking(tmp_path, content, skip=True)
    assert [record.place for record in bad] == ["member 'hole.png' of tissue.tar"]
    assert unpacked_names(tmp_path) == ["good.png"]


def test_a_header_that_would_fill_the_memory_is_refused(tmp_path):
    info = tarfile.TarInfo("long")
    info.type, info.size = tarfile.XHDTYPE, 1 << 27
    content = gzip.compress(info.tobuf(tarfile.USTAR_FORMAT) + bytes(1024))
    with pytest.raises(ValueError, match=r"a header of 134,217,728 bytes"):
        try_unpacking(tmp_path, content, "tissue.tar.gz")
