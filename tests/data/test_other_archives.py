"""Archives beside those that are read: hidden parts are no parts, and unknown kinds are named with their remedy."""

import shlex
import shutil
import subprocess

import pytest
from small_datasets import PATCH, some_records, write_folder

from spider_tools.data.loading import load_regions
from spider_tools.data.settings import DataSettings
from spider_tools.data.tar_parts import find_archives


def touch(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x")
    return folder


@pytest.mark.parametrize("hidden", ["._data.tar.aa", "._data.tar", ".data.tar.ac", "._data.tar.zst", "._data.zip"])
def test_hidden_files_are_no_parts(tmp_path, hidden):
    touch(tmp_path, "data.tar.aa", "data.tar.ab", hidden)
    assert find_archives(tmp_path) == {"data.tar": [tmp_path / "data.tar.aa", tmp_path / "data.tar.ab"]}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["data.tar.zst"], r"data\.tar\.zst: .*zstd .*`zstd -dc data\.tar\.zst \| tar -x`"),
        (["data.tar.zst.aa", "data.tar.zst.ab"], r"`cat data\.tar\.zst\.\* \| zstd -dc \| tar -x`"),
        (["data.tar.zst.part1", "data.tar.zst.part2"], r"`cat data\.tar\.zst\.\* \| zstd -dc"),
        (["data.tar.lz4"], r"`lz4 -dc data\.tar\.lz4 \| tar -x`"),
        (["data.tar.lz"], "lzip"),
        (["data.tar.Z"], "uncompress"),
        (["data.tzst"], "zstd"),
        (["data.tar", "more.tar.zst"], r"more\.tar\.zst"),
        (["data.tar.zst", "data.tar.lz4"], "compressed by"),
        (
            ["data.zip"],
            r"data\.zip cannot be read here: expected a folder, or tar files. Unpack it with `unzip data\.zip`",
        ),
        (["data.ZIP", "README.md", "LICENSE"], "unzip"),
        (["data.zip.001", "data.zip.002"], "unzip"),
        (["data.7z"], r"`7z x data\.7z`"),
        (["data.7z.001", "data.7z.002"], "7z x"),
        (["data.rar"], "unrar x"),
    ],
)
@pytest.mark.parametrize("whole", [False, True])
def test_kinds_that_are_not_read_are_named_with_a_remedy(tmp_path, names, message, whole):
    folder = touch(tmp_path / "d", *names)
    with pytest.raises(ValueError, match=message) as caught:
        load_regions(DataSettings(str(folder), cache_dir=tmp_path / "cache")) if whole else find_archives(folder)
    assert str(folder) in str(caught.value)


def test_the_remedy_works(tmp_path):
    zstd = shutil.which("zstd")
    if zstd is None:
        pytest.skip("the program zstd is not installed")
    folder = write_folder(tmp_path / "tissue", some_records())
    subprocess.run(["tar", "-cf", "data.tar", "-C", folder, "."], cwd=tmp_path, check=True)
    (tmp_path / "d").mkdir()
    subprocess.run([zstd, "-q", "data.tar", "-o", "d/data.tar.zst"], cwd=tmp_path, check=True)
    with pytest.raises(ValueError, match="zstd") as caught:
        find_archives(tmp_path / "d")
    (tmp_path / "out").mkdir()
    command = str(caught.value).split("`")[1].replace("data.tar.zst", shlex.quote(str(tmp_path / "d" / "data.tar.zst")))
    subprocess.run(command, cwd=tmp_path / "out", check=True, shell=True)
    settings = DataSettings(str(tmp_path / "out"), cache_dir=tmp_path / "cache", patch_size=PATCH)
    assert sum(map(len, load_regions(settings).splits.values())) == len(some_records())


def test_a_part_may_have_the_name_of_a_compression(tmp_path):
    names = [f"data.tar.{part}" for part in ("zsr", "zss", "zst", "zsu")]
    touch(tmp_path, *names)
    with pytest.raises(ValueError, match=r"the first part is missing, the parts begin with data\.tar\.zsr"):
        find_archives(tmp_path)


def test_a_zip_file_beside_tar_parts_is_warned_of(tmp_path, caplog):
    touch(tmp_path, "data.tar.aa", "slides.zip")
    assert list(find_archives(tmp_path)) == ["data.tar"]
    assert "slides.zip is no tar file and is not read" in caplog.text


@pytest.mark.parametrize("name", ["data.zip", "data.7z"])
def test_an_archive_beside_what_was_unpacked_from_it_is_left_alone(tmp_path, name):
    folder = touch(write_folder(tmp_path / "d", some_records()), name)
    assert find_archives(folder) == {}
    load_regions(DataSettings(str(folder), cache_dir=tmp_path / "cache", patch_size=PATCH))


@pytest.mark.parametrize("name", ["data.tbz2", "data.txz", "data.tbz"])
def test_short_endings_of_tar_files_are_known(tmp_path, name):
    assert find_archives(touch(tmp_path / "d", name)) == {name: [tmp_path / "d" / name]}
