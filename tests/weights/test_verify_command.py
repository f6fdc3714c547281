"""`import-spider --verify`: consent, the child process, what is written and what is said."""

import json
import logging
import os
import re
import shutil
import sys

import pytest
import torch
from PIL import Image
from published_checkpoint import CLASS_NAMES, SIDE
from published_sources import EXPRESSIBLE, INEXPRESSIBLE, write_source
from transformers import AutoModel

from spider_tools.drawn_tissue import draw_mosaics
from spider_tools.import_record import import_facts
from spider_tools.model_folder import weights_sha256
from spider_tools.scripts import run_script
from spider_tools.weights.__main__ import main, parse_args
from spider_tools.weights.import_spider import Trial, import_spider
from spider_tools.weights.loading import load_spider

REGION = 5 * SIDE


def command(*words):
    return main(parse_args(["import-spider", *map(str, words)]))


def fails(capsys, *words):
    """What the script says on stderr and stdout, which ends with exit code 2."""
    with pytest.raises(SystemExit) as stopped:
        run_script(lambda argv: main(parse_args(argv)), ["import-spider", *map(str, words)])
    assert stopped.value.code == 2
    told = capsys.readouterr()
    return told.err, told.out


def add_code(source, text):
    path = os.path.join(source, "modeling_published.py")
    with open(path) as file:
        code = file.read()
    with open(path, "w") as file:
        file.write(f"{text}\n{code}")


def test_nothing_runs_without_consent_and_it_is_said_what_would(tmp_path, capsys):
    source = write_source(tmp_path / "source", EXPRESSIBLE["plain"])
    add_code(source, f"open({str(tmp_path / 'was-run')!r}, 'w')")
    said, _ = fails(capsys, source, tmp_path / "out", "--verify")
    assert "--verify would run the Python code of" in said
    for name in ("configuration_published.py", "modeling_published.py", "processing_published.py"):
        assert re.search(rf"{re.escape(name)} \(sha256 [0-9a-f]{{12}}\)", said)
    assert "as it lies on this machine" in said
    assert "--trust-source-code" in said
    assert not (tmp_path / "was-run").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words", [["--trust-source-code"], ["--source-python", sys.executable], ["--images", "region.png"]]
)
def test_flags_of_a_verification_that_is_not_asked_for_are_refused(tmp_path, capsys, words):
    source = write_source(tmp_path / "source", EXPRESSIBLE["plain"])
    assert f"{words[0]} say how the source's own code is run, which needs --verify" in fails(
        capsys, source, tmp_path / "out", *words
    )[0]  # fmt: skip


@pytest.fixture
def snapshot(tmp_path):
    """`snapshot(recipe)`: a repository in a folder like those of the Hub's cache, whose code names its repository."""

    def write(recipe):
        folder = tmp_path / "models--lab--spider" / "snapshots" / ("ab" * 20)
        folder.parent.mkdir(parents=True)
        return write_source(folder, recipe, auto_map_prefix="lab/spider--")

    return write


@pytest.mark.slow
def test_a_proven_import_says_against_what_when_and_how_close(snapshot, tmp_path, capsys, caplog, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    source = snapshot(EXPRESSIBLE["centre first, token 0"])
    add_code(source, f"import json, os; json.dump(dict(os.environ), open({str(tmp_path / 'seen')!r}, 'w'))")
    image = draw_mosaics(1, 6, SIDE, seed=8)[0][: REGION + 7, : REGION + 10]
    Image.fromarray(image).save(tmp_path / "mine.png")
    with caplog.at_level(logging.INFO):
        command(source, tmp_path / "out", "--verify", "--trust-source-code", "--images", tmp_path / "mine.png")
    assert f"running the Python code of {source}, at commit {'ab' * 20}" in caplog.text
    report = capsys.readouterr().out
    assert "Held against the source's own code" in report
    assert "row-major, centre first; read at center" in report
    record = json.loads((tmp_path / "out" / "config.json").read_text())["import"]
    assert (record["source"], record["revision"], record["verified"]) == ("lab/spider", "ab" * 20, True)
    assert record["proof"]["regions"] == 5
    assert record["weights_sha256"] == weights_sha256(tmp_path / "out")
    sentence = import_facts({"import": record}, record["weights_sha256"])["sentence"]
    assert re.search(r"^Verified: imported from .* logits differ by at most \d\.\de-0\d of their spread\.", sentence)
    caplog.clear()
    model = load_spider(str(tmp_path / "out"))
    assert model.config.class_names == CLASS_NAMES
    assert "never compared" not in caplog.text
    seen = json.loads((tmp_path / "seen").read_text())
    assert seen["HF_HUB_OFFLINE"] == "1"
    assert "HF_TOKEN" not in seen


@pytest.mark.slow
def test_the_code_may_run_in_another_environment(tmp_path, capsys):
    other = os.environ.get("SPIDER_OTHER_PYTHON")
    if not other:
        pytest.skip("SPIDER_OTHER_PYTHON names no Python with the other Transformers version")
    source = write_source(tmp_path / "source", EXPRESSIBLE["trained pooler on the centre"])
    command(source, tmp_path / "out", "--verify", "--trust-source-code", "--source-python", other)
    import transformers

    proof = json.loads((tmp_path / "out" / "config.json").read_text())["import"]["proof"]
    assert proof["transformers"].split(".")[0] == {"4": "5", "5": "4"}[transformers.__version__.split(".")[0]]
    assert proof["difference"] < 1e-4


@pytest.mark.slow
def test_a_refusal_prints_what_was_tried_and_writes_nothing(tmp_path, capsys):
    source = write_source(tmp_path / "source", INEXPRESSIBLE["maximum over tokens"])
    said, table = fails(capsys, source, tmp_path / "out", "--verify", "--trust-source-code", "--heads", 1)
    assert "none of 576 readings gives what its own code gives" in said
    assert "Nothing was written." in said
    assert table.startswith("difference    reading\n")
    assert len(table.splitlines()) == 14
    assert table.endswith("... and 564 more\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_code_that_ends_in_an_error_is_told_with_what_it_said(tmp_path, capsys):
    source = write_source(tmp_path / "source", EXPRESSIBLE["plain"])
    add_code(source, "raise ImportError('cannot import name OldThing')")
    said, _ = fails(capsys, source, tmp_path / "out", "--verify", "--trust-source-code")
    assert "cannot import name OldThing" in said
    assert "give the Python of an environment with that as --source-python" in said
    assert not (tmp_path / "out").exists()


def test_code_that_the_system_kills_is_told_with_the_usual_cause(tmp_path, capsys):
    source = write_source(tmp_path / "source", EXPRESSIBLE["plain"])
    add_code(source, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    said, _ = fails(capsys, source, tmp_path / "out", "--verify", "--trust-source-code")
    assert "was ended by SIGKILL. Memory is the usual cause" in said


def test_an_interpreter_that_is_none_is_refused(tmp_path):
    source = write_source(tmp_path / "source", EXPRESSIBLE["plain"])
    with pytest.raises(ValueError, match="--source-python must be a Python interpreter, got '/no/python'"):
        import_spider(source, trial=Trial(True, "/no/python"))


def test_images_that_cannot_be_compared_on_are_refused_before_code_runs(tmp_path):
    source = write_source(tmp_path / "source", EXPRESSIBLE["plain"])
    add_code(source, f"open({str(tmp_path / 'was-run')!r}, 'w')")
    Image.new("RGB", (REGION - 1, REGION)).save(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("no image")
    for name, message in (
        ("small.png", rf"small\.png is {REGION}x{REGION - 1} px .*expected at least {REGION}"),
        ("text.png", r"text\.png cannot be read as an image"),
        ("absent.png", r"absent\.png cannot be read as an image"),
    ):
        with pytest.raises(ValueError, match=message):
            import_spider(source, trial=Trial(True, images=[str(tmp_path / name)]))
    assert not (tmp_path / "was-run").exists()


def test_code_of_another_repository_is_refused(tmp_path):
    source = write_source(tmp_path / "source", EXPRESSIBLE["plain"], auto_map_prefix="other/code--")
    os.remove(os.path.join(source, "modeling_published.py"))
    with pytest.raises(ValueError, match=r"PublishedModel from other/code, at a revision that nobody"):
        import_spider(source, trial=Trial(True))


def test_a_repository_without_code_proves_nothing(tmp_path):
    source = write_source(tmp_path / "source", EXPRESSIBLE["plain"])
    for name in os.listdir(source):
        if name.endswith(".py"):
            os.remove(os.path.join(source, name))
    with pytest.raises(ValueError, match="has no code of its own"):
        import_spider(source, trial=Trial(True))
    assert import_spider(source).record["verified"] is False


def test_an_unproven_import_is_marked_and_warns_once(tmp_path, log):
    source = write_source(tmp_path / "source", EXPRESSIBLE["mean over tokens"])
    command(source, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "config.json").read_text())["import"]
    assert (record["source"], record["revision"], record["verified"]) == ("source", None, False)
    assert "The class is read at the centre (token 12), with nothing added to it." in record["assumptions"]
    bare = shutil.copytree(tmp_path / "out", tmp_path / "bare copy")
    log.clear()
    for _ in range(2):
        model = AutoModel.from_pretrained(bare, trust_remote_code=True)
    said = [r.getMessage() for r in log.records if "never compared with the source's own code" in r.getMessage()]
    assert len(said) == 1
    assert "imported from source" in said[0]
    model.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["import"] == record


@pytest.mark.parametrize("record", ["yes", {"verified": "true"}, {"verified": 1}, {"verified": True}, {}])
def test_a_record_that_is_none_warns_too(make_model, load_model, tmp_path, log, record):
    make_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"import": record}))
    load_model(tmp_path)
    assert sum("never compared" in entry.getMessage() for entry in log.records) == 1


def test_a_model_of_ones_own_warns_of_nothing(model_folder, load_model, log):
    load_model(model_folder)
    assert "never compared" not in log.text


# --- Forms of sources


def edit_config(source, **changes):
    path = os.path.join(source, "config.json")
    with open(path) as file:
        config = json.load(file)
    config |= changes
    with open(path, "w") as file:
        json.dump({key: value for key, value in config.items() if value is not None}, file)


def test_names_are_taken_from_id2label_where_there_are_no_class_names(tmp_path):
    source = write_source(tmp_path / "source", EXPRESSIBLE["plain"])
    names = {"0": "Nevus", "1": "Wart", "2": "Fat"}
    edit_config(source, class_names=None, id2label=names)
    assert import_spider(source).model.config.class_names == ["Nevus", "Wart", "Fat"]
    edit_config(source, class_names=CLASS_NAMES)
    with pytest.raises(ValueError, match="`class_names` and `id2label` differ"):
        import_spider(source)
    edit_config(source, class_names=None, id2label={"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"})
    with pytest.raises(ValueError, match="expected a list of strings `class_names`"):
        import_spider(source)


@pytest.mark.parametrize("wrapper", ["model.", "module.", "module.model.", "spider.net."])
def test_wrappers_around_the_names_are_seen_through(tmp_path, wrapper):
    from safetensors.torch import load_file, save_file

    source = write_source(tmp_path / "source", EXPRESSIBLE["plain"])
    expected = import_spider(source).model.state_dict()
    path = os.path.join(source, "model.safetensors")
    save_file({wrapper + name: tensor for name, tensor in load_file(path).items()}, path)
    ours = import_spider(source).model.state_dict()
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], expected[name]) for name in ours)


def test_pickles_are_refused_and_safetensors_beside_them_are_read(tmp_path):
    source = write_source(tmp_path / "source", EXPRESSIBLE["plain"])
    torch.save({"weights": torch.ones(2)}, os.path.join(source, "pytorch_model.bin"))
    assert import_spider(source).model.config.class_names == CLASS_NAMES
    os.remove(os.path.join(source, "model.safetensors"))
    with pytest.raises(ValueError, match=r"its weights in pytorch_model\.bin, pickles, which can run code"):
        import_spider(source)


def test_a_file_and_a_revision_of_a_folder_are_refused(tmp_path):
    source = write_source(tmp_path / "source", EXPRESSIBLE["plain"])
    with pytest.raises(ValueError, match="there are no revisions"):
        import_spider(source, revision="main")
    with pytest.raises(ValueError, match="is a file: expected a folder or a Hub id"):
        import_spider(os.path.join(source, "model.safetensors"))


@pytest.mark.parametrize(
    ("heads", "message"), [(5, "no multiple of 5"), (0, "no multiple of 0"), (2, "states 3 .*--heads is 2")]
)
def test_heads_that_cannot_be_are_refused(tmp_path, heads, message):
    recipe = {"config": {"heads": 3 if heads == 2 else None}}
    source = write_source(tmp_path / "source", recipe)
    with pytest.raises(ValueError, match=message):
        import_spider(source, heads=heads)


def test_heads_that_are_said_are_taken(tmp_path):
    source = write_source(tmp_path / "source", EXPRESSIBLE["four heads unstated"])
    imported = import_spider(source, heads=4)
    assert imported.model.config.head_num_attention_heads == 4
    assert "Said with --heads: 4 attention heads" in imported.report()
    assert "as in the paper" not in imported.report()
