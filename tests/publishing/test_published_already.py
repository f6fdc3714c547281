"""What a repository holds already is not refused and not uploaded again; what differs is refused as ever."""

import logging
from dataclasses import replace

import pytest
from hub_client import WRITER
from hub_contents import StoredFile
from publishing_folders import MODEL_FILES, REPO, SETTINGS, as_shards, commits, names, save_model, with_card

from spider_tools.publishing import __main__ as command
from spider_tools.publishing import publish as publishing
from spider_tools.publishing.checks import model_files
from spider_tools.publishing.publish import publish
from spider_tools.publishing.upload import check_target, find_uploaded, upload
from spider_tools.scripts import run_script
from spider_tools.training.run import train


@pytest.fixture
def loads(monkeypatch):
    """A list with an entry for each time that a model was loaded to check it, which takes a minute with a real one."""
    calls = []
    monkeypatch.setattr(publishing, "check_loads", calls.append)
    return calls


def commit_by_hand(hub, change):
    """Somebody else's commit; `change` gets the repository's files by name."""
    files = dict(hub.repositories[REPO].at("main").files)
    change(files)
    hub.repositories[REPO].add("main", "by hand", files)


def test_an_upload_whose_answer_was_lost_ends_well_when_it_is_run_again(hub, folder, loads, caplog):
    hub.mute_at = "/commit/"
    with pytest.raises(ConnectionError, match="Run the same command again"):
        publish(folder, REPO, SETTINGS)
    hub.revive()
    assert names(hub) == sorted([*MODEL_FILES, "README.md", "confusion_matrix.png", "results.json"])
    caplog.set_level(logging.INFO)

    url = publish(folder, REPO, SETTINGS)

    assert url.rsplit("/")[-1] == hub.repositories[REPO].branches["main"]
    assert f"{REPO} holds this model already; nothing was uploaded" in caplog.text
    assert commits(hub) == ["initial commit", "Upload SPIDER model"]
    assert hub.count("PUT", "/lfs/") == 1
    assert len(loads) == 1  # by the first run


@pytest.mark.usefixtures("loads")
def test_the_same_command_twice_prints_the_same_commit_and_ends_with_0(hub, folder, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", WRITER)
    said = []
    for _ in range(2):
        with pytest.raises(SystemExit) as stopped:
            run_script(lambda argv: command.main(command.parse_args(argv)), [str(folder), REPO, "--private"])
        assert stopped.value.code == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert f"Pin it: revision='{hub.repositories[REPO].branches['main']}'" in said[0]
    assert len(commits(hub)) == 2


def test_shards_of_weights_on_a_branch_are_recognised_too(hub, folder, make_model):
    shards = as_shards(folder, make_model)
    settings = replace(SETTINGS, branch="next/try 1")
    url = upload(with_card(folder), REPO, settings)
    sent = hub.count("PUT", "/lfs/")
    assert sent == len(shards)
    assert find_uploaded(with_card(folder), REPO, SETTINGS) is None  # main is empty
    assert find_uploaded(with_card(folder), REPO, settings) == upload(with_card(folder), REPO, settings) == url
    assert hub.count("PUT", "/lfs/") == sent


def edited(name):
    """A file of the same size with another content."""

    def change(files):
        content = bytearray(files[name].content)
        content[-3] ^= 1
        files[name] = StoredFile(bytes(content), files[name].lfs)

    return change


@pytest.mark.parametrize(
    "change",
    [
        edited("model.safetensors"),
        edited("modeling_spider.py"),
        edited("README.md"),
        lambda files: files.update({"config.json": StoredFile(files["config.json"].content + b"\n")}),
        lambda files: files.update({"notes/figure.svg": files["README.md"]}),
        lambda files: files.update({"model-00001-of-00002.safetensors": files["model.safetensors"]}),
        lambda files: files.pop("processing_spider.py"),
        lambda files: files.pop("README.md"),
        lambda files: files.clear() or files.update({"README.md": StoredFile(b"# Another model")}),
    ],
)
def test_a_repository_that_holds_anything_else_is_refused(hub, folder, change):
    upload(with_card(folder), REPO, SETTINGS)
    commit_by_hand(hub, change)
    before = hub.files(REPO)
    for refused in (find_uploaded, upload):
        with pytest.raises(FileExistsError, match=r"has files already. --exist_ok adds a commit"):
            refused(with_card(folder), REPO, SETTINGS)
    assert hub.files(REPO) == before


def test_a_model_that_stands_on_main_does_not_open_another_branch(hub, folder):
    upload(with_card(folder), REPO, SETTINGS)
    with pytest.raises(FileExistsError, match="has files already"):
        upload(with_card(folder), REPO, replace(SETTINGS, branch="next"))
    assert list(hub.repositories[REPO].branches) == ["main"]


def test_what_is_known_of_an_upload_decides_whether_its_target_is_refused(hub, folder, make_model):
    check_target(REPO, SETTINGS, model_files(folder))
    upload(with_card(folder), REPO, SETTINGS)
    check_target(REPO, SETTINGS, model_files(folder))
    for nothing in (None, {}):
        with pytest.raises(FileExistsError, match="has files already"):
            check_target(REPO, SETTINGS, nothing)
    save_model(make_model(seed=1), folder)
    with pytest.raises(FileExistsError, match="has files already"):
        check_target(REPO, SETTINGS, model_files(folder))


def test_a_public_repository_with_the_same_model_is_not_private(hub, folder):
    upload(with_card(folder), REPO, SETTINGS)
    with pytest.raises(ValueError, match="exists and is public"):
        publish(folder, REPO, replace(SETTINGS, private=True))


@pytest.mark.slow
def test_training_whose_upload_was_killed_after_its_commit_resumes_and_ends_well(hub, training, monkeypatch, loads):
    monkeypatch.setenv("HF_TOKEN", WRITER)
    settings, data = training
    hub.mute_at = "/commit/"
    with pytest.raises(ConnectionError):
        train(settings, data)
    hub.revive()
    train(replace(settings, resume_from_checkpoint="latest"), data)
    assert commits(hub) == ["initial commit", "Upload SPIDER model"]
    assert len(loads) == 1
    # A run of its own, into a repository of another model, is refused before it starts.
    with pytest.raises(FileExistsError, match="has files already"):
        train(replace(settings, output_dir=settings.output_dir / "other"), data)
