"""The command line: from slides to squares in QuPath, and one sentence for what cannot be done."""

import json
import subprocess
import sys

import pytest

from spider_tools.remote_code import REPOSITORY_ROOT
from spider_tools.retrieval.__main__ import main, parse_args
from spider_tools.scripts import run_script


def run(*words):
    main(parse_args([str(word) for word in words]))


def test_from_results_to_an_index_a_query_and_suggestions(classified_once, tmp_path, capsys):
    pytest.importorskip("faiss")
    run("index", classified_once.results, "--index", tmp_path / "I")
    out = capsys.readouterr().out
    assert "patches of 3 slides; exact; float16" in out
    assert f"The index is in {tmp_path / 'I'}" in out
    words = ["--output_dir", tmp_path / "Q", "--top", 5, "--per_slide", 2, "--slides", classified_once.slides]
    run("query", "--index", tmp_path / "I", "--patch", "a:60,250", "c:200,420", "--name", "Nevus", *words)
    assert "Patches found: 5, slides: 3. They are in" in capsys.readouterr().out
    names = {"a.geojson", "b.geojson", "c.geojson", "results.csv", "contact_sheet.png", "finding.json", ".lock"}
    assert {path.name for path in (tmp_path / "Q").iterdir()} == names
    asked = json.loads((tmp_path / "Q" / "finding.json").read_text())["asked"]
    assert (asked["command"], asked["patches"], asked["examples"]) == ("query", ["a:60,250", "c:200,420"], 2)
    words = ["--output_dir", tmp_path / "S", "--top", 3, "--slides", classified_once.slides]
    run("suggest", "--results", classified_once.results, "--strategy", "diverse", *words)
    assert "Patches found: 3, slides:" in capsys.readouterr().out
    assert (tmp_path / "S" / "contact_sheet.png").stat().st_size > 500


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        (["index"], "SOURCE"),
        (["index", "results"], "--index"),
        (["query", "--index", "I"], "--output_dir"),
        (["query", "--output_dir", "O"], "--index"),
        (["suggest", "--strategy", "diverse", "--output_dir", "O"], "--results"),
        (["suggest", "--results", "R", "--output_dir", "O"], "--strategy"),
    ],
)
def test_flags_without_a_default_must_be_given(words, missing, capsys):
    with pytest.raises(SystemExit) as ending:
        parse_args(words)
    assert ending.value.code == 2
    assert missing in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["index", "{}/nowhere", "--index", "{}/I"], "There is no folder"),
        (["query", "--index", "{}", "--patch", "a:1,1", "--output_dir", "{}/O"], "index.json cannot be read"),
        (["query", "--index", "{}", "--output_dir", "{}/O"], "Say what to search for with one of"),
        (["suggest", "--results", "{}", "--strategy", "typical", "--output_dir", "{}/O"], "holds neither results"),
        (["suggest", "--results", "{}", "--strategy", "typical", "--output_dir", "{}"], "holds other files"),
    ],
)
def test_bad_input_is_told_in_one_sentence(tmp_path, words, message, capsys):
    (tmp_path / "other").touch()
    with pytest.raises(SystemExit) as ending:
        run_script(lambda argv: main(parse_args(argv)), [word.format(tmp_path) for word in words])
    assert ending.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other"]


def test_help_comes_without_the_heavy_libraries():
    code = (
        "import sys; from spider_tools.retrieval.__main__ import parse_args\n"
        "try: parse_args(['query', '--help'])\n"
        "except SystemExit: print(sorted({'torch', 'faiss', 'sklearn', 'openslide'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY_ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("[]\n"), done.stdout + done.stderr
    assert "--class X" in done.stdout
