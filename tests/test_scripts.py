"""The scripts' front doors: quick help, settings files, and a user's mistake in one sentence with exit code 2."""

import io
import json
import os
import runpy
import subprocess
import sys
import time
from functools import partial

import pytest
from tiny_spider import ROOT

from spider_tools.scripts import run_script

pytestmark = pytest.mark.slow

COMMANDS = {
    "train": ["train.py"],
    "evaluate": ["evaluate.py"],
    "segment_slide": ["segment_slide.py"],
    "app": ["app.py"],
    "weights": ["-m", "spider_tools.weights"],
    "publishing": ["-m", "spider_tools.publishing"],
    "endpoint": ["-m", "spider_tools.publishing.endpoint"],
    "export": ["-m", "spider_tools.export"],
    "demo": ["-m", "spider_tools.demo"],
    "retrieval": ["-m", "spider_tools.retrieval"],
}
HEAVY = (
    "torch",
    "transformers",
    "datasets",
    "accelerate",
    "numpy",
    "pyarrow",
    "matplotlib",
    "huggingface_hub",
    "gradio",
)


def run(command, *words, cwd=ROOT):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *command, *map(str, words)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def run_here(monkeypatch, capsys, fresh_accelerator):
    """`run_here(command, *words)`: the same in this process, which has imported what takes seconds."""

    def run_here(command, *words):
        monkeypatch.setattr(sys, "argv", [command[-1], *map(str, words)])
        monkeypatch.chdir(ROOT)
        monkeypatch.delitem(sys.modules, f"{command[-1]}.__main__", raising=False)  # runpy warns of it
        start = runpy.run_path if len(command) == 1 else partial(runpy.run_module, alter_sys=True)
        with pytest.raises(SystemExit) as stopped:
            start(command[-1], run_name="__main__")
        return subprocess.CompletedProcess(words, stopped.value.code, *capsys.readouterr())

    return run_here


def told(done):
    """The one sentence of a refusal."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_and_a_mistyped_flag_need_no_heavy_import(name):
    started = time.perf_counter()
    program = "import sys, runpy; sys.argv = ['x', {}]\nfrom contextlib import suppress\nwith suppress(SystemExit): "
    command = COMMANDS[name]
    call = f"runpy.run_module({command[1]!r}, run_name='__main__')" if command[0] == "-m" else ""
    call = call or f"runpy.run_path({command[0]!r}, run_name='__main__')"
    report = f"\nprint('HEAVY', sorted(set({HEAVY!r}) & set(sys.modules)))"
    for word in ("--help", "--no_such_flag"):
        done = run(["-c", program.format(repr(word)) + call + report])
        assert done.stdout.splitlines()[-1] == "HEAVY []", done.stdout + done.stderr
    assert time.perf_counter() - started < 60  # two starts of Python; the imports alone say that it is quick


@pytest.mark.parametrize("name", COMMANDS)
def test_a_mistyped_flag_ends_with_the_usage_and_exit_code_2(run_here, name):
    done = run_here(COMMANDS[name], "--no_such_flag")
    assert "error: " in told(done)
    assert done.stderr.startswith("usage: ")
    if name in ("train", "evaluate", "segment_slide", "app", "demo"):  # the others miss their arguments first
        assert "unrecognized arguments: --no_such_flag" in told(done)


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        (
            "train",
            ["--dataset", "nowhere/at/all", "--output_dir", "{tmp}/o"],
            "'nowhere/at/all' is neither a file, nor",
        ),
        ("train", ["--dataset", "{tmp}", "--output_dir", "{tmp}/o"], "holds no data set: expected metadata.json"),
        ("train", ["--dataset", "x", "--output_dir", "o", "--epochs", "0"], "--epochs must be at least 1, got 0"),
        ("train", ["--dataset", "x", "--output_dir", "o", "--epochs", "many"], "invalid int value: 'many'"),
        ("train", ["--output_dir", "o"], "the following arguments are required: --dataset"),
        ("train", ["--config", "{tmp}/none.yaml"], "The settings file {tmp}/none.yaml cannot be read"),
        ("evaluate", ["--dataset", "x", "--output_dir", "o", "--model", "{tmp}"], "{tmp} is no SPIDER model"),
        ("evaluate", ["--dataset", "x", "--output_dir", "o", "--model", "no/such/model"], "'no/such/model' is neither"),
        (
            "segment_slide",
            ["--slide", "{tmp}/m.csv", "--model", "x", "--output_dir", "{tmp}/o"],
            "There is no manifest {tmp}/m.csv",
        ),
        ("segment_slide", ["--slide", "{tmp}", "--model", "x", "--output_dir", "{tmp}/o"], "{tmp} holds no slides"),
        (
            "segment_slide",
            ["--slide", "a.svs", "--model", "{tmp}", "--output_dir", "{tmp}/o"],
            "{tmp} is no SPIDER model",
        ),
        ("weights", ["new", "--organ", "skin", "{tmp}"], "{tmp} must be a new or empty folder"),
        ("weights", ["import-spider", "{tmp}/none", "{tmp}/o"], "none' is neither a file, nor a folder"),
        ("publishing", ["{tmp}/none", "org/name"], "{tmp}/none is no folder"),
        ("publishing", ["{tmp}/none", "org/name", "--branch"], "expected one argument"),
        ("app", [], "the following arguments are required: --model"),
        ("app", ["--model", "{tmp}"], "{tmp} is no SPIDER model"),
        ("app", ["--model", "x", "--port", "0"], "--port must be at least 1 and at most 65535, got 0"),
        ("demo", ["--image", "{tmp}/none.png", "--model", "{tmp}"], "There is no image {tmp}/none.png"),
        ("demo", ["--model", "{tmp}"], "--model goes with --image"),
    ],
)
def test_a_mistake_of_the_user_is_one_sentence_and_exit_code_2(tmp_path, run_here, name, words, message):
    (tmp_path / "notes.txt").write_text("not a data set, not a model, not a slide")
    filled = [word.format(tmp=tmp_path) for word in words]
    assert message.format(tmp=tmp_path) in told(run_here(COMMANDS[name], *filled))


def test_debug_shows_the_traceback(tmp_path, run_here):
    done = run_here(COMMANDS["weights"], "new", "--organ", "skin", tmp_path / "x" / "..", "--debug")
    assert done.returncode == 0
    done = run(COMMANDS["train"], "--dataset", "x", "--output_dir", "o", "--epochs", "0", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "--epochs must be at least 1, got 0" in done.stderr


def test_errors_that_are_no_mistake_of_the_user_keep_their_traceback():
    def main(argv):
        raise KeyError(argv[0])

    with pytest.raises(KeyError):
        run_script(main, ["x"])


def test_a_system_error_names_its_file(capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        run_script(lambda argv: (tmp_path / "none").read_text(), [])
    assert stopped.value.code == 2
    assert f"{tmp_path / 'none'}: No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize(("code", "expected"), [(None, 0), (0, 0), (1, 1)])
def test_the_exit_code_is_that_of_the_script(code, expected):
    with pytest.raises(SystemExit) as stopped:
        run_script(lambda argv: code, [])
    assert stopped.value.code == expected


def test_a_run_folders_settings_can_be_given_back():
    """What a run is told and what it writes down are the same: through JSON and back, for train and evaluate."""
    program = """
import json, sys, tempfile, pathlib
import {script} as script
from spider_tools.flags import as_json, take
from spider_tools.data.settings import DataSettings
from {module} import {settings} as Own
def both(values):
    return take(Own, values), take(DataSettings, values)
told = both(script.parse_args(sys.argv[1:]))
data = as_json(told[1])
for name in getattr(sys.modules[Own.__module__], "DECIDED_BY_THE_MODEL", ()):
    del data[name]
path = pathlib.Path(tempfile.mkdtemp(), "settings.json")
path.write_text(json.dumps(as_json(told[0]) | dict(data=data)))
assert both(script.parse_args(["--config", str(path)])) == told
print(told[0].output_dir)
"""
    for script, module, settings, words in (
        ("train", "training", "TrainingSettings", ["--recipe=small", "--classes=A,B", "--seed=3"]),
        ("evaluate", "evaluation", "EvaluationSettings", ["--model=m", "--context_sizes=5,3", "--seed=3"]),
    ):
        text = program.format(script=script, module=f"spider_tools.{module}.settings", settings=settings)
        done = run(["-c", text], "--dataset=d", "--output_dir=o/p", *words)
        assert done.stdout.strip() == "o/p", done.stderr


def test_the_recipe_may_stand_in_the_settings_file(tmp_path):
    (tmp_path / "s.json").write_text(json.dumps({"recipe": "small", "epochs": 3, "dataset": "d", "output_dir": "o"}))
    program = "import train, json, sys; v = train.parse_args(sys.argv[1:]); print(v['epochs'], v['flip'])"
    assert run(["-c", program], "--config", tmp_path / "s.json").stdout.split() == ["3", "True"]
    (tmp_path / "s.json").write_text(json.dumps({"recipe": "tiny", "dataset": "d", "output_dir": "o"}))
    assert "--recipe must be one of published, small, got 'tiny'" in told(
        run(COMMANDS["train"], "--config", tmp_path / "s.json")
    )


# --- Consoles that cannot show every text

NAMES = {
    "Kaposi\u2019s": r"Kaposi\u2019s",
    "N\u00e6vus": r"N\xe6vus",
    "\u7687\U0001f52c": r"\u7687\U0001f52c",
    "\udcff": r"\udcff",
}
CONSOLES = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "strict ascii": {"PYTHONIOENCODING": "ascii:strict"},
    "C locale": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "POSIX locale": {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "utf-8": {"PYTHONIOENCODING": "utf-8"},
}
PRINTS = """
import logging, sys
from spider_tools.scripts import run_script
names = {names}
def main(argv):
    logging.getLogger("spider_tools").warning("logged %s", names)
    print(*names, sep="\\n")
    if argv:
        raise ValueError(" ".join(names))
run_script(main)
"""


def run_on(console, *command):
    """What a script writes on a console of this kind, as bytes."""
    plain = {name: value for name, value in os.environ.items() if name not in ("LC_ALL", "LANG", "LC_CTYPE")}
    environment = plain | {"PYTHONPATH": str(ROOT)} | CONSOLES[console]
    return subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, timeout=120)


@pytest.mark.parametrize("console", CONSOLES)
def test_a_result_that_the_console_cannot_show_is_escaped_and_not_lost(console):
    program = PRINTS.format(names=ascii(list(NAMES)))
    done = run_on(console, "-c", program)
    assert done.returncode == 0, done.stderr
    encoding = CONSOLES[console].get("PYTHONIOENCODING", "ascii").split(":")[0]
    shown = [name.encode(encoding, errors="backslashreplace") for name in NAMES]
    assert done.stdout.split() == shown
    assert console in ("latin-1", "cp1252", "utf-8") or shown == [escaped.encode() for escaped in NAMES.values()]
    refused = run_on(console, "-c", program, "refuse")
    assert refused.returncode == 2
    assert b"Traceback" not in refused.stderr
    assert refused.stderr.strip().endswith(b" ".join(shown))


def test_a_path_that_the_console_cannot_show_is_told_after_the_work(tmp_path):
    out = tmp_path / "N\u00e6vus"
    done = run_on("ascii", *COMMANDS["weights"], "new", "--organ", "skin", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith(str(tmp_path).encode() + rb"/N\xe6vus")
    assert (out / "config.json").is_file()


def test_a_stream_that_is_no_console_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with pytest.raises(SystemExit) as stopped:
        run_script(lambda argv: print("Kaposi\u2019s"), [])
    assert (stopped.value.code, sys.stdout.getvalue()) == (0, "Kaposi\u2019s\n")
