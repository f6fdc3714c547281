"""Claims belong to one process, and become free when it lets them go or dies."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from other_user import as_another_user, readable_folder

from spider_tools.sharing import Claims, is_claimed, refusal_in_words

CLAIM_AND_SLEEP = """
import sys, time
from pathlib import Path
from spider_tools.sharing import Claims
claims = Claims(Path(sys.argv[1]))
print([claims.claim(name) for name in sys.argv[2:]], flush=True)
time.sleep(600)
"""


@pytest.fixture
def other_process(tmp_path):
    """`other_process(*names)`: a process that has claimed these in `tmp_path` and sleeps."""
    started = []

    def start(*names):
        process = subprocess.Popen(
            [sys.executable, "-c", CLAIM_AND_SLEEP, str(tmp_path), *names],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )
        started.append(process)
        assert process.stdout.readline().strip() == str([True] * len(names))
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_what_one_has_claimed_another_cannot_until_it_is_let_go(tmp_path):
    mine, others = Claims(tmp_path), Claims(tmp_path)
    assert mine.claim("a")
    assert not others.claim("a")
    assert others.claim("b")
    mine.release("a")
    assert others.claim("a")


def test_a_claim_that_is_held_already_is_not_given_twice(tmp_path):
    claims = Claims(tmp_path)
    assert [claims.claim("a"), claims.claim("a")] == [True, False]
    claims.release("a")
    assert not is_claimed(tmp_path)


def test_all_claims_can_be_let_go_at_once(tmp_path):
    mine = Claims(tmp_path)
    assert all([mine.claim(name) for name in "abc"])
    mine.release_all()
    mine.release("a")  # which is not held any more
    assert all([Claims(tmp_path).claim(name) for name in "abc"])


def test_looking_whether_something_is_claimed_claims_nothing(tmp_path):
    assert not is_claimed(tmp_path / "absent")
    claims = Claims(tmp_path / "folder")
    claims.claim("run")
    claims.claim("part")
    assert is_claimed(tmp_path / "folder")
    claims.release("part")
    assert [is_claimed(tmp_path / "folder", prefix) for prefix in ("", "ru", "part")] == [True, True, False]
    assert Claims(tmp_path / "folder").claim("part")


def test_claims_exclude_other_processes_and_end_when_they_are_killed(tmp_path, other_process):
    process = other_process("a", "b")
    mine = Claims(tmp_path)
    assert [mine.claim(name) for name in "abc"] == [False, False, True]
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [mine.claim(name, patience=5) for name in "ab"] == [True, True]


def test_patience_waits_as_long_as_it_says(tmp_path, other_process):
    other_process("a")
    assert not Claims(tmp_path).claim("a", patience=0.2)


def test_a_folder_that_may_not_be_written_is_named_with_the_remedy():
    with readable_folder() as folder:
        (folder / "run.lock").touch()
        claims = Claims(folder, "Choose another one with --flag.")
        kind, message = as_another_user(folder, lambda: claims.claim("run"))
    assert (kind, message) == (
        "PermissionError",
        f"{folder} may not be written (Permission denied): it is read-only or belongs to another user. "
        "Choose another one with --flag.",
    )


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_every_refusal_of_the_system_is_told_in_words_and_nothing_else(number):
    def refuse(number):
        with refusal_in_words(Path("store"), "Choose another one."):
            raise OSError(number, os.strerror(number), "store/run.lock")

    with pytest.raises(PermissionError, match=r"^store may not be written \(.*\): .* Choose another one\.$") as caught:
        refuse(number)
    assert caught.value.filename is None  # the message is the sentence
    with pytest.raises(OSError, match="No space left"):
        refuse(errno.ENOSPC)
