"""Of two runs into one folder the second is refused, whatever became of the first."""

import subprocess
import sys
import types

import accelerate
import pytest
from bound_by_rights import read_only, run_bound_by_rights
from tiny_spider import ROOT

from spider_tools.output_folder import only_run_in

HOLD = """
import sys, time
from pathlib import Path
from spider_tools.output_folder import only_run_in
with only_run_in(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def held(tmp_path):
    """A folder that another process holds, and that process."""
    folder = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLD, folder], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield folder, process
        process.kill()


def test_a_second_run_is_refused_at_once_in_words(held):
    folder, _ = held
    with pytest.raises(OSError, match="is being written by another run") as refusal, only_run_in(folder):
        pytest.fail("both hold the folder")
    assert str(refusal.value) == f"{folder} is being written by another run."


def test_a_killed_run_leaves_the_folder_free(held):
    folder, process = held
    process.kill()
    process.wait()
    with only_run_in(folder):
        pass


def test_a_run_of_the_same_process_is_refused_too_and_later_ones_are_not(tmp_path):
    with only_run_in(tmp_path):
        for _ in range(2):
            with pytest.raises(OSError, match="another run"), only_run_in(tmp_path):
                pytest.fail("both hold the folder")
    with pytest.raises(KeyError), only_run_in(tmp_path):
        raise KeyError("the run failed")
    with only_run_in(tmp_path), only_run_in(tmp_path / "another" / "folder"):
        pass


@pytest.mark.parametrize("is_main", [True, False])
def test_all_processes_learn_whether_the_main_one_could_lock(tmp_path, monkeypatch, is_main):
    told = []

    def broadcast(problems):
        told.extend(problems)
        return problems if is_main else ["run: held by somebody else"]

    monkeypatch.setattr(accelerate.utils, "broadcast_object_list", broadcast)
    accelerator = types.SimpleNamespace(is_main_process=is_main)
    if is_main:
        with only_run_in(tmp_path, accelerator), pytest.raises(OSError, match="another run"), only_run_in(tmp_path):
            pytest.fail("both hold the folder")
    else:
        with pytest.raises(OSError, match="held by somebody else"), only_run_in(tmp_path / "run", accelerator):
            pytest.fail("the main process does not hold it")
        assert not (tmp_path / "run").exists()
    assert told == [""]


def test_a_folder_that_cannot_be_locked_is_refused_in_words(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=f"{tmp_path / 'file'} cannot be locked against other runs: .*File exists"):
        with only_run_in(tmp_path / "file"):
            pass
    (tmp_path / "locked").mkdir()
    folder = read_only(tmp_path / "locked")
    done = run_bound_by_rights("-c", HOLD, folder)
    assert f"OSError: {folder} cannot be locked against other runs: " in done.stderr.splitlines()[-1]


def test_another_user_of_the_folder_may_lock_it_after_a_run(tmp_path):
    with only_run_in(tmp_path):
        pass
    assert (tmp_path / ".lock").stat().st_mode & 0o777 == 0o666
