import io
import multiprocessing
import os
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from small_datasets import PATCH, some_records, write_folder

from spider_tools.data.loading import load_regions
from spider_tools.data.settings import DataSettings
from spider_tools.data.tar_parts import find_archives, unpack
from spider_tools.data.tar_streams import JoinedParts


def content_of(number: int) -> bytes:
    return bytes([number % 251]) * (700 + 37 * number)  # sizes that are no multiples of a tar block


def make_tar(members, mode="w") -> bytes:
    """A tar file of `(name, bytes)` or `TarInfo` members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return buffer.getvalue()


def split_into(folder: Path, data: bytes, names: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    step = -(-len(data) // len(names))
    for number, name in enumerate(names):
        (folder / name).write_bytes(data[number * step : (number + 1) * step])
    return folder


def parts(*numbers: str) -> list[str]:
    return [f"tissue.tar.{number}" for number in numbers]


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name[0] != "."}


MEMBERS = [(f"./images/{number:02d}.png", content_of(number)) for number in range(40)] + [("metadata.json", b"[]")]
EXPECTED = {name.removeprefix("./"): content for name, content in MEMBERS}


@pytest.mark.parametrize("names", [parts("aa", "ab", "ac"), parts("part1", "part2"), parts("00", "01"), ["tissue.tar"]])
@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_parts_are_unpacked_as_one_archive(tmp_path, names, mode):
    folder = split_into(tmp_path / "parts", make_tar(MEMBERS, mode), names)
    target, bad = unpack(find_archives(folder), tmp_path / "cache", "tissue", skip=False)
    assert files_below(target) == EXPECTED
    assert bad == []


def test_nothing_but_the_unpacked_files_takes_space(tmp_path):
    folder = split_into(tmp_path / "parts", make_tar(MEMBERS), parts("aa", "ab", "ac"))
    unpack(find_archives(folder), tmp_path / "cache", "tissue", skip=False)
    written = sum(p.stat().st_size for p in (tmp_path / "cache").rglob("*") if p.is_file())
    assert written - sum(map(len, EXPECTED.values())) < 100


def test_an_archive_is_unpacked_once(tmp_path):
    folder = split_into(tmp_path / "parts", make_tar(MEMBERS), parts("aa", "ab"))
    target, _ = unpack(find_archives(folder), tmp_path / "cache", "tissue", skip=False)
    (target / "images" / "00.png").unlink()
    assert unpack(find_archives(folder), tmp_path / "cache", "tissue", skip=False)[0] == target
    assert not (target / "images" / "00.png").exists()


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_killed_run_is_gone_on_with(tmp_path, mode):
    members = [(f"images/{number:04d}.png", content_of(number % 40)) for number in range(1200)]
    folder = split_into(tmp_path / "parts", make_tar(members, mode), parts("aa", "ab", "ac"))
    arguments = (find_archives(folder), tmp_path / "cache", "tissue", False)
    process = multiprocessing.get_context("fork").Process(target=unpack, args=arguments)
    process.start()
    while len(list((tmp_path / "cache").rglob("*.png"))) < 50:
        assert process.is_alive()
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.png")}
    assert 50 <= len(before) < 1200

    target, _ = unpack(find_archives(folder), tmp_path / "cache", "tissue", skip=False)
    assert files_below(target) == dict(members)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not (target / ".unfinished").exists()


def test_a_file_that_was_left_short_is_written_again(tmp_path, monkeypatch):
    folder = split_into(tmp_path / "parts", make_tar(MEMBERS), parts("aa"))
    replace, count = os.replace, []

    def stop_at_the_tenth(source, target):
        count.append(target)
        if len(count) == 10:
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", stop_at_the_tenth)
        with pytest.raises(OSError, match="No space left"):
            unpack(find_archives(folder), tmp_path / "cache", "tissue", skip=False)
    (target,) = (p for p in (tmp_path / "cache" / "unpacked").iterdir() if p.is_dir())
    assert len(files_below(target)) == 9
    (target / "images" / "03.png").write_bytes(b"short")
    assert files_below(unpack(find_archives(folder), tmp_path / "cache", "tissue", skip=False)[0]) == EXPECTED


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (("aa", "ab", "ad", "ae"), "the part tissue.tar.ac is missing between tissue.tar.ab and tissue.tar.ad"),
        (("00", "01", "03"), "the part tissue.tar.02 is missing"),
        (("part8", "part10"), "the first part is missing"),
        (("part1", "part2", "part4"), "the part tissue.tar.part3 is missing"),
        (("ab", "ac"), "the first part is missing, the parts begin with tissue.tar.ab"),
        (("02", "03"), "the first part is missing"),
        (("09", "0a", "0c"), "the first part is missing"),
        (("00", "01", "02", "03", "04", "05", "06", "07", "08", "09", "0a", "0c"), "the part tissue.tar.0b is missing"),
    ],
)
def test_a_missing_part_is_named(tmp_path, numbers, message):
    split_into(tmp_path / "parts", bytes(100), parts(*numbers))
    with pytest.raises(ValueError, match=message):
        find_archives(tmp_path / "parts")


@pytest.mark.parametrize(
    ("option", "count"), [("", 30), ("-d", 101), ("-x", 20), ("-a1", 20), ("-da3", 15), ("", 660), ("-d", 95)]
)
def test_every_way_in_which_split_names_parts_is_put_in_order(tmp_path, option, count):
    data = os.urandom(count)
    (tmp_path / "parts").mkdir()
    prefix = str(tmp_path / "parts" / "tissue.tar.")
    subprocess.run(["split", "-b1", *option.split(), "-", prefix], input=data, check=True)
    (tmp_path / "parts" / "tissue.tar.md5").write_text("checksum")
    (paths,) = find_archives(tmp_path / "parts").values()
    assert b"".join(path.read_bytes() for path in paths) == data


@pytest.mark.parametrize("name", ["tissue.tar.gz", "tissue.tgz", "tissue.tar"])
def test_a_whole_archive_is_one_part(tmp_path, name):
    split_into(tmp_path, b"x", [name])
    assert find_archives(tmp_path) == {name: [tmp_path / name]}


def test_parts_of_a_compressed_archive_are_found(tmp_path):
    split_into(tmp_path, b"xy", ["tissue.tar.gz.aa", "tissue.tar.gz.ab"])
    assert find_archives(tmp_path) == {"tissue.tar.gz": [tmp_path / "tissue.tar.gz.aa", tmp_path / "tissue.tar.gz.ab"]}


def test_numbers_without_leading_zeros_are_put_in_order(tmp_path):
    split_into(tmp_path / "parts", bytes(120), parts(*(f"part{n}" for n in range(1, 13))))
    (paths,) = find_archives(tmp_path / "parts").values()
    assert [path.name for path in paths] == parts(*(f"part{n}" for n in range(1, 13)))


def damaged():
    data = make_tar(MEMBERS)
    end = data.rindex(b"ustar") - 257  # of the last member's header
    return {
        "within a file": data[: len(data) // 2 + 100],
        "between two files": data[:end],
        "in a header": data[: end + 100],
        "without the end": data[: end + 1024],
        "a hole of whole blocks": data[:5120] + data[15360:],
        "data after the end": data + data,
        "no tar at all": b"<html>Too many requests</html>" * 100,
        "empty": b"",
        "gzip, truncated": make_tar(MEMBERS, "w:gz")[:-300],
        "xz, truncated": make_tar(MEMBERS, "w:xz")[:-100],
    }


@pytest.mark.parametrize("kind", damaged())
@pytest.mark.parametrize("skip", [False, True])
def test_a_damaged_archive_is_refused(tmp_path, kind, skip):
    folder = split_into(tmp_path / "parts", damaged()[kind], parts("aa", "ab"))
    with pytest.raises(ValueError, match=r"tissue\.tar is damaged or truncated in or before tissue\.tar\.a[ab]"):
        unpack(find_archives(folder), tmp_path / "cache", "tissue", skip)
    assert not list((tmp_path / "cache").rglob(".complete.json"))


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (("../outside.png", b"x"), "leaves the folder"),
        (("images/../../outside.png", b"x"), "leaves the folder"),
        (("/tmp/outside.png", b"x"), "leaves the folder"),
        (("images\\..\\outside.png", b"x"), "leaves the folder"),
        (special("images/link.png", tarfile.SYMTYPE, "/etc/passwd"), "got a link or device"),
        (special("images", tarfile.SYMTYPE, ".."), "got a link or device"),
        (special("images/hard.png", tarfile.LNKTYPE, "/etc/passwd"), "got a link or device"),
        (special("images/pipe", tarfile.FIFOTYPE), "got a link or device"),
        (special("images/sparse.png", tarfile.GNUTYPE_SPARSE), "got a sparse one"),
        ((".complete.json", b"[]"), "one that unpacking itself uses"),
    ],
)
def test_an_unsafe_member_is_refused_or_left_out(tmp_path, member, message):
    folder = split_into(tmp_path / "parts", make_tar([*MEMBERS[:3], member, *MEMBERS[3:]]), parts("aa", "ab"))
    with pytest.raises(ValueError, match=message) as caught:
        unpack(find_archives(folder), tmp_path / "cache", "tissue", skip=False)
    name = member.name if isinstance(member, tarfile.TarInfo) else member[0]
    assert f"Member {name!r} of tissue.tar" in str(caught.value)
    target, bad = unpack(find_archives(folder), tmp_path / "cache", "tissue", skip=True)
    assert [b.place for b in bad] == [f"member {name!r} of tissue.tar"]
    assert files_below(target) == EXPECTED
    assert not [path for path in tmp_path.rglob("*") if path.is_symlink() or path.name == "outside.png"]
    with pytest.raises(ValueError, match=message):  # what was left out once is not forgotten
        unpack(find_archives(folder), tmp_path / "cache", "tissue", skip=False)


def test_joined_parts_read_and_seek_like_one_file(tmp_path):
    whole = os.urandom(997)
    names = [tmp_path / name for name in "abcd"]
    for path, (start, stop) in zip(names, [(0, 100), (100, 100), (100, 613), (613, 997)]):
        path.write_bytes(whole[start:stop])
    plain = io.BytesIO(whole)
    with io.BufferedReader(JoinedParts(names), 64) as joined:
        for seek, count in [(0, 150), (90, 20), (613, 1), (612, 2), (500, 5000), (5, 3), (2000, 4), (99, 2), (0, 997)]:
            assert joined.seek(seek) == plain.seek(seek)
            assert joined.read(count) == plain.read(count)
            assert joined.tell() == plain.tell()
        assert joined.seek(-7, os.SEEK_END) == 990
        assert joined.read() == whole[990:]


@pytest.mark.parametrize("top", ["", "SPIDER-tissue/"])
def test_a_folder_of_parts_loads_like_the_folder_itself(tmp_path, top):
    folder = write_folder(tmp_path / "tissue", some_records())
    members = [(f"{top}{path.relative_to(folder)}", path.read_bytes()) for path in folder.rglob("*") if path.is_file()]
    packed = split_into(tmp_path / "packed", make_tar(members), parts("aa", "ab", "ac"))
    plain, unpacked = (
        load_regions(DataSettings(str(f), cache_dir=tmp_path / "cache", patch_size=PATCH)) for f in (folder, packed)
    )
    assert unpacked.name == "packed"
    assert unpacked.fingerprint == plain.fingerprint
    for name in plain.splits:
        assert list(unpacked.splits[name]) == list(plain.splits[name])
    patch = plain.splits["train"][0]["patches"][0]
    assert (unpacked.patches.read(patch) == plain.patches.read(patch)).all()


def test_archives_of_something_else_are_refused(tmp_path):
    packed = split_into(tmp_path / "packed", make_tar([("notes.txt", b"nothing here")]), parts("aa"))
    with pytest.raises(ValueError, match=r"do not hold metadata\.json and images/"):
        load_regions(DataSettings(str(packed), cache_dir=tmp_path / "cache"))


def test_members_left_out_are_listed_with_the_bad_records(tmp_path):
    folder = write_folder(tmp_path / "tissue", some_records())
    members = [(str(path.relative_to(folder)), path.read_bytes()) for path in folder.rglob("*") if path.is_file()]
    gone = some_records()[0]["image_name"]
    members = [member for member in members if not member[0].endswith(gone)]
    link = special(f"images/{gone}", tarfile.SYMTYPE, "/etc/passwd")
    packed = split_into(tmp_path / "packed", make_tar([*members, link]), parts("aa", "ab"))
    settings = DataSettings(str(packed), cache_dir=tmp_path / "cache", patch_size=PATCH, skip_bad_records=True)
    assert [bad.place for bad in load_regions(settings).dropped] == [
        f"member 'images/{gone}' of tissue.tar",
        "record 0 of metadata.json",
    ]
