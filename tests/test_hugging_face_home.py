"""A Hugging Face home that cannot be written is found before the work, in every script, and HF_HOME is named."""

import json
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


# Runs scripts one by one in forks of a process that has imported what takes seconds; their outputs become files.
RUN_ALL = """
import json, os, runpy, sys
import spider_tools.evaluation.run, spider_tools.cohorts.many, spider_tools.training.run
import spider_tools.weights.import_spider
for number, words in enumerate(json.loads(sys.argv[1])):
    if os.fork() == 0:
        os.dup2(os.open(f"{sys.argv[2]}/{number}", os.O_CREAT | os.O_WRONLY), 2)
        sys.argv = words[1:] if words[0] == "-m" else words
        if words[0] == "-m":
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        runpy.run_path(words[0], run_name="__main__")
    print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
COMMANDS = [
    ["evaluate.py", "--model={tmp}/model", "--dataset={tmp}", "--output_dir={tmp}/out"],
    ["segment_slide.py", "--model={tmp}/model", "--slide={tmp}/a.png", "--output_dir={tmp}/out"],
    ["train.py", "--recipe=small", "--dataset={tmp}", "--output_dir={tmp}/out"],
    ["-m", "spider_tools.weights", "new", "--organ=skin", "{tmp}/out"],
    ["-m", "spider_tools.weights", "import-spider", "{tmp}/model", "{tmp}/out"],
]


def test_every_script_says_so_in_one_sentence_and_leaves_no_result(tmp_path, locked, model_folder):
    shutil.copytree(model_folder, tmp_path / "model")
    (tmp_path / "a.png").write_bytes(b"not read so far")
    (tmp_path / "said").mkdir()
    commands = [[word.format(tmp=tmp_path) for word in command] for command in COMMANDS]
    variables = {**WHERE, "HF_HOME": locked / "hf", "OMP_NUM_THREADS": "1"}
    done = run_bound_by_rights("-c", RUN_ALL, json.dumps(commands), tmp_path / "said", **variables)
    assert done.stdout.split() == ["2"] * len(COMMANDS), done.stderr
    for number in range(len(COMMANDS)):
        said = (tmp_path / "said" / str(number)).read_text()
        assert "Traceback" not in said
        assert f"error: Transformers cannot copy remote code into {locked / 'hf'}" in said.splitlines()[-1]
    assert not any((tmp_path / "out").glob("*"))
