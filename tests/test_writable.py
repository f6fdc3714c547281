"""A folder that cannot be written is refused before the work, with the setting that chose it, and left as it was."""

import os
from pathlib import Path

import pytest
from bound_by_rights import read_only, run_bound_by_rights

from spider_tools.files import require_writable


def file_in_the_way(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    return tmp_path / "notes.txt"


def below_a_file(tmp_path):
    return file_in_the_way(tmp_path) / "deep" / "down"


def link_to_nowhere(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    return tmp_path / "link"


def below_a_link_to_nowhere(tmp_path):
    return link_to_nowhere(tmp_path) / "deep"


def circle_of_links(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    return tmp_path / "a" / "deep"


def of_the_kernel(tmp_path):
    return Path("/proc/no_such_folder/deep")


def with_too_long_a_name(tmp_path):
    return tmp_path / ("n" * 300)


@pytest.mark.parametrize(
    "made",
    [
        file_in_the_way,
        below_a_file,
        link_to_nowhere,
        below_a_link_to_nowhere,
        circle_of_links,
        of_the_kernel,
        with_too_long_a_name,
    ],
)
def test_what_cannot_become_a_folder_is_refused(tmp_path, made):
    folder = made(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OSError, match="cannot be written") as refusal:
        require_writable(folder, "--output_dir")
    assert str(refusal.value).startswith(f"--output_dir {folder} cannot be written (")
    assert str(refusal.value).endswith("). Choose another folder.")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("place", [".", "new", "a/b/c"])
def test_what_can_be_written_is_left_as_it_was(tmp_path, place):
    require_writable(tmp_path / place, "--output_dir")
    assert list(tmp_path.iterdir()) == []


def test_a_relative_folder_and_a_link_to_a_folder_are_taken(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    monkeypatch.chdir(tmp_path)
    for folder in ("out", "a/b", "link", "link/new", "."):
        require_writable(Path(folder), "--output_dir")
    assert sorted(os.listdir()) == ["link", "there"]


PROGRAM = (
    "import sys; from pathlib import Path; from spider_tools.files import *; require_writable(Path(sys.argv[1]), 'X')"
)


@pytest.mark.parametrize("place", ["there", "there/new", "there/a/b"])
def test_a_right_that_is_missing_is_said_with_the_folder_that_it_is_missing_on(tmp_path, place):
    (tmp_path / "there").mkdir()
    read_only(tmp_path / "there")
    done = run_bound_by_rights("-c", PROGRAM, tmp_path / place)
    expected = (
        f"X {tmp_path / place} cannot be written ({tmp_path / 'there'}: Permission denied). Choose another folder."
    )
    assert done.stderr.splitlines()[-1] == f"OSError: {expected}"


def test_a_folder_in_one_that_may_not_be_entered_is_refused(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o600)
    done = run_bound_by_rights("-c", PROGRAM, tmp_path / "closed" / "new")
    assert f"X {tmp_path / 'closed' / 'new'} cannot be written" in done.stderr


def test_a_full_disk_is_found(tmp_path, monkeypatch):
    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            return False

        def write(self, content):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", lambda **options: Full())
    with pytest.raises(OSError, match=f"X .*new cannot be written .{tmp_path}: No space left on device"):
        require_writable(tmp_path / "new", "X")
