"""Files are written whole or not at all, alone and several together."""

import os

import pytest

from spider_tools import files
from spider_tools.files import bytes_writer, replacing, text_writer, write_text, write_together


def content_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def broken(path):
    path.write_text("half")
    raise OSError(28, "No space left on device")


OLD = {"a.txt": b"old a", "b.txt": b"old b", "sign.json": b"old sign"}


@pytest.fixture
def folder(tmp_path):
    for name, content in OLD.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def new_writers(**others):
    return {name: text_writer(f"new {name[0]}") for name in OLD} | others


def test_a_file_is_replaced_when_the_new_one_is_whole(folder):
    with replacing(folder / "a.txt") as unfinished:
        unfinished.write_text("new")
        assert content_of(folder)["a.txt"] == b"old a"
    assert content_of(folder) == {**OLD, "a.txt": b"new"}


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_else(folder):
    with pytest.raises(OSError, match="No space left"), replacing(folder / "a.txt") as unfinished:
        broken(unfinished)
    assert content_of(folder) == OLD


def test_a_folder_takes_the_place_of_a_folder_with_all_that_it_holds(tmp_path):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "old").touch()
    with replacing(tmp_path / "f") as unfinished:
        unfinished.mkdir()
        (unfinished / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["f", "new"]


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path):
    (tmp_path / ".a.txt.unfinished").mkdir()
    (tmp_path / ".a.txt.unfinished" / "part").touch()
    write_text(tmp_path / "a.txt", "new")
    assert content_of(tmp_path) == {"a.txt": b"new"}


def test_text_is_utf_8_and_keeps_its_line_ends(tmp_path):
    text_writer("µm\r\nπ\n")(tmp_path / "t")
    bytes_writer(b"\x00\xff")(tmp_path / "b")
    write_text(tmp_path / "w", "µm\n")
    assert content_of(tmp_path) == {"t": "µm\r\nπ\n".encode(), "b": b"\x00\xff", "w": "µm\n".encode()}


def test_files_that_belong_together_are_all_replaced(folder):
    write_together(folder, new_writers(), sign="sign.json")
    assert content_of(folder) == {"a.txt": b"new a", "b.txt": b"new b", "sign.json": b"new s"}


def test_the_folder_is_made(tmp_path):
    write_together(tmp_path / "deep" / "folder", {"a": text_writer("x")}, sign="a")
    assert content_of(tmp_path / "deep" / "folder") == {"a": b"x"}


@pytest.mark.parametrize("failing", list(OLD))
def test_if_one_writer_fails_all_old_files_stay_and_nothing_unfinished_is_left(folder, failing):
    with pytest.raises(OSError, match="No space left"):
        write_together(folder, new_writers(**{failing: broken}), sign="sign.json")
    assert content_of(folder) == OLD


def test_if_the_disk_says_only_at_the_end_that_it_is_full_all_old_files_stay(folder, monkeypatch):
    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_together(folder, new_writers(), sign="sign.json")
    assert content_of(folder) == OLD


@pytest.mark.parametrize("order", [["sign.json", "a.txt", "b.txt"], ["a.txt", "b.txt", "sign.json"]])
def test_the_sign_is_written_last_takes_its_name_last_and_is_absent_in_between(folder, monkeypatch, order):
    steps, replace = [], os.replace

    def writer_of(name):
        return lambda path: (steps.append(f"write {name}"), path.write_text("new"))

    def follow(source, target):
        steps.append(f"name {target.name}")
        assert not (folder / "sign.json").exists()
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", follow)
    write_together(folder, {name: writer_of(name) for name in order}, sign="sign.json")
    assert steps[:3] == ["write a.txt", "write b.txt", "write sign.json"]
    assert set(steps[3:5]) == {"name a.txt", "name b.txt"}
    assert steps[5:] == ["name sign.json"]


def test_a_sign_that_nothing_writes_is_refused_before_anything_is_written(folder):
    with pytest.raises(KeyError, match=r"done\.json"):
        write_together(folder, {"a.txt": broken}, sign="done.json")
    assert content_of(folder) == OLD


def test_what_belongs_to_the_old_ones_alone_is_removed_while_the_old_sign_still_tells_of_it(folder, monkeypatch):
    (folder / "deep").mkdir()
    (folder / "deep" / "x").touch()
    seen, remove = [], files.remove

    def follow(path):
        if path.name == "deep":
            seen.append((folder / "sign.json").read_text())
        remove(path)

    monkeypatch.setattr(files, "remove", follow)
    write_together(folder, {"sign.json": text_writer("new s")}, "sign.json", obsolete=["a.txt", "deep", "absent"])
    assert seen == ["old sign"]
    assert content_of(folder) == {"b.txt": b"old b", "sign.json": b"new s"}


def test_if_a_writer_fails_nothing_obsolete_is_removed(folder):
    with pytest.raises(OSError, match="No space left"):
        write_together(folder, new_writers(**{"sign.json": broken}), "sign.json", obsolete=["a.txt"])
    assert content_of(folder) == OLD


def test_the_size_of_a_folder_is_that_of_all_its_files(tmp_path):
    (tmp_path / "f" / "g").mkdir(parents=True)
    (tmp_path / "f" / "g" / "a").write_bytes(b"12345")
    (tmp_path / "f" / "b").write_bytes(b"12")
    assert files.bytes_of(tmp_path / "f") == 7
    assert files.bytes_of(tmp_path / "f" / "b") == 2
    with pytest.raises(FileNotFoundError):
        files.bytes_of(tmp_path / "absent")
