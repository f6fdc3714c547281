"""A Hugging Face home that cannot be written is found before the work, in every script, and HF_HOME is named."""

import shutil

import pytest
from bound_by_rights import read_only, run_bound_by_rights
from tiny_spider import ROOT

pytestmark = pytest.mark.slow

CHECK = ["-c", "from spider_tools.hugging_face_home import *; require_hugging_face_home()"]
WHERE = {"HF_HOME": None, "HF_MODULES_CACHE": None, "XDG_CACHE_HOME": None}


@pytest.fixture
def locked(tmp_path):
    (tmp_path / "locked").mkdir()
    return read_only(tmp_path / "locked")


def home_of_the_account(folder):
    return {"HOME": folder}, folder / ".cache" / "huggingface" / "modules"


def hugging_face_home(folder):
    return {"HF_HOME": folder / "hf"}, folder / "hf" / "modules"


def modules_cache(folder):
    return {"HF_MODULES_CACHE": folder / "code"}, folder / "code"


@pytest.mark.parametrize("place", [home_of_the_account, hugging_face_home, modules_cache])
def test_a_home_that_cannot_be_written_is_named_with_the_setting(locked, place):
    variables, folder = place(locked)
    done = run_bound_by_rights(*CHECK, **{**WHERE, **variables})
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith(f"OSError: Transformers cannot copy remote code into {folder} (")
    assert message.endswith("Set HF_HOME (or HF_MODULES_CACHE) to a folder that can be written.")


def test_a_file_in_the_way_is_refused_as_well(tmp_path):
    (tmp_path / "file").write_text("")
    done = run_bound_by_rights(*CHECK, **{**WHERE, "HF_HOME": tmp_path / "file"})
    assert f"cannot copy remote code into {tmp_path / 'file' / 'modules'}" in done.stderr


def test_an_account_without_a_home_gets_no_folder_of_the_name_tilde(tmp_path):
    done = run_bound_by_rights(*CHECK, **{**WHERE, "HF_HOME": "~nobody_of_this_name/hf"})
    assert done.stderr.strip().splitlines()[-1].startswith("OSError: This account has no home folder for ~nobody")
    assert not (ROOT / "~nobody_of_this_name").exists()


def test_a_read_only_home_that_has_all_of_the_code_will_do(tmp_path):
    variables = {**WHERE, "HF_HOME": tmp_path / "hf"}
    assert run_bound_by_rights(*CHECK, **variables).returncode == 0
    read_only(tmp_path / "hf")
    done = run_bound_by_rights(*CHECK, **variables)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["evaluate.py", "--model={tmp}/model", "--dataset={tmp}", "--output_dir={tmp}/out"],
        ["segment_slide.py", "--model={tmp}/model", "--slide={tmp}/a.png", "--output_dir={tmp}/out"],
        ["train.py", "--recipe=small", "--dataset={tmp}", "--output_dir={tmp}/out"],
        ["-m", "spider_tools.weights", "new", "--organ=skin", "{tmp}/out"],
        ["-m", "spider_tools.weights", "import-spider", "{tmp}/model", "{tmp}/out"],
    ],
)
def test_every_script_says_so_in_one_sentence_and_leaves_no_result(tmp_path, locked, model_folder, command):
    shutil.copytree(model_folder, tmp_path / "model")
    (tmp_path / "a.png").write_bytes(b"not read so far")
    done = run_bound_by_rights(
        *(word.format(tmp=tmp_path) for word in command), **{**WHERE, "HF_HOME": locked / "hf", "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert f"error: Transformers cannot copy remote code into {locked / 'hf'}" in done.stderr.splitlines()[-1]
    assert not any((tmp_path / "out").glob("*"))
