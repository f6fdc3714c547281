"""A Space for a published model, with the real client of the Hub against a server of its API."""

import json
import re
from dataclasses import replace
from importlib import metadata

import pytest
import yaml
from hub_client import READER
from hub_contents import StoredFile
from publishing_folders import MODEL_FILES, REPO, SETTINGS, commits

from spider_tools import remote_code
from spider_tools.publishing import __main__ as command
from spider_tools.publishing import publish as publishing
from spider_tools.publishing import space as spaces
from spider_tools.publishing import space_files
from spider_tools.publishing.publish import publish
from spider_tools.publishing.space_files import PACKAGES, code_of_space, texts_of_space

ROOT = remote_code.REPOSITORY_ROOT
SPACE = "lab/spider-page"
KEY = f"spaces/{SPACE}"
WITH_SPACE = replace(SETTINGS, space=SPACE)


@pytest.fixture(autouse=True)
def few_files(monkeypatch):
    """The model need not be loaded, nor all of the package be sent, to see what becomes of them."""
    monkeypatch.setattr(publishing, "check_loads", lambda files: None)
    kept = ("app.py", "spider_tools/__init__.py", "spider_tools/repository/config.json")
    code = {name: path for name, path in code_of_space().items() if name in kept}
    monkeypatch.setattr(spaces, "code_of_space", lambda: dict(code))


def front_matter(text):
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


def test_the_space_shows_the_commit_that_was_just_published(hub, folder):
    commit = publish(folder, REPO, WITH_SPACE).rsplit("/", 1)[-1]
    assert commit == hub.repositories[REPO].branches["main"]
    files = hub.files(KEY)
    assert sorted(files) == [
        *(".gitattributes", "README.md", "app.py", "app_settings.yaml", "requirements.txt"),
        *("spider_tools/__init__.py", "spider_tools/repository/config.json"),
    ]
    assert files["app.py"] == (ROOT / "app.py").read_bytes()
    settings = yaml.safe_load(files["app_settings.yaml"])
    assert settings == {"model": REPO, "revision": commit, "host": "0.0.0.0", "port": 7860}
    assert commits(hub, KEY) == ["initial commit", "Upload SPIDER page"]
    assert not hub.repositories[KEY].private
    matter, body = front_matter(files["README.md"].decode())
    assert (matter["sdk"], matter["app_file"], matter["models"]) == ("gradio", "app.py", [REPO])
    assert matter["sdk_version"] == metadata.version("gradio")
    assert len(matter["short_description"]) <= 60  # the Hub's bound
    assert REPO in body


def test_the_command_prints_both(hub, folder, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SETTINGS.token)
    command.main(command.parse_args([str(folder), REPO, "--space", SPACE]))
    lines = capsys.readouterr().out.splitlines()
    assert f"/{REPO}/commit/" in lines[0]
    assert lines[-1].startswith("Space: http://")
    assert lines[-1].endswith(f"/spaces/{SPACE}")


def test_the_same_again_makes_no_commit_and_a_new_model_moves_the_space(hub, folder):
    publish(folder, REPO, WITH_SPACE)
    publish(folder, REPO, WITH_SPACE)
    assert len(commits(hub, KEY)) == 2
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "mpp": 0.25}))
    with pytest.raises(FileExistsError, match=f"{REPO} has files already"):
        publish(folder, REPO, WITH_SPACE)
    (folder / "evaluation" / "results.json").unlink()
    commit = publish(folder, REPO, replace(WITH_SPACE, exist_ok=True)).rsplit("/", 1)[-1]
    assert yaml.safe_load(hub.files(KEY)["app_settings.yaml"])["revision"] == commit
    assert len(commits(hub, KEY)) == 3


def test_files_of_somebody_else_are_refused_before_the_model_goes_up(hub, folder):
    spaces_api = spaces.api_for(SPACE, SETTINGS.token)
    spaces_api.create_repo(SPACE, repo_type="space", space_sdk="gradio")
    repository = hub.repositories[KEY]
    first = dict(repository.at("main").files)
    other = {"app.py": StoredFile(b"mine"), "spider_tools/old.py": StoredFile(b"x"), "notes.md": StoredFile(b"n")}
    repository.add("main", "by hand", {**first, **other})
    with pytest.raises(FileExistsError, match=f"The Space {SPACE} has files already. --exist_ok"):
        publish(folder, REPO, WITH_SPACE)
    assert REPO not in hub.repositories
    publish(folder, REPO, replace(WITH_SPACE, exist_ok=True))
    files = hub.files(KEY)
    assert files["notes.md"] == b"n"
    assert files["app.py"] == (ROOT / "app.py").read_bytes()
    assert "spider_tools/old.py" not in files


def test_what_the_hub_puts_into_a_new_space_is_nobodys(hub, folder):
    spaces.api_for(SPACE, SETTINGS.token).create_repo(SPACE, repo_type="space", space_sdk="gradio")
    publish(folder, REPO, WITH_SPACE)
    assert commits(hub, KEY) == ["initial commit", "Upload SPIDER page"]


def test_an_upload_of_the_space_that_broke_off_goes_on(hub, folder):
    hub.dies_at = ("POST", "/api/spaces/lab/spider-page/commit/", 0)
    with pytest.raises(ConnectionError, match="Run the same command again"):
        publish(folder, REPO, WITH_SPACE)
    hub.revive()
    publish(folder, REPO, WITH_SPACE)
    assert len(commits(hub, REPO)) == len(commits(hub, KEY)) == 2


def test_private_goes_for_both_and_a_secret_is_asked_for(hub, folder, caplog):
    publish(folder, REPO, replace(WITH_SPACE, private=True))
    assert hub.repositories[KEY].private
    assert f"{REPO} is private: give the Space a secret HF_TOKEN" in caplog.text
    hub.repositories[KEY].private = False
    with pytest.raises(ValueError, match=f"The Space {SPACE} exists and is public, so that --private"):
        publish(folder, REPO, replace(WITH_SPACE, private=True))


@pytest.mark.parametrize("space", ["page", "a/b/c", "lab/..", "lab/a page", ""])
def test_what_is_no_id_of_a_space_is_refused_before_the_model_goes_up(hub, folder, space):
    with pytest.raises(ValueError, match="is no repository id"):
        publish(folder, REPO, replace(SETTINGS, space=space))
    assert REPO not in hub.repositories


def test_who_may_not_write_to_the_space_is_told_before_the_model_goes_up(hub, folder):
    with pytest.raises(PermissionError, match="may only read"):
        publish(folder, REPO, replace(WITH_SPACE, token=READER))
    assert not hub.repositories


def test_requirements_pin_every_package_of_the_project_and_none_of_this_machines_builds(monkeypatch):
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lists = [
        re.search(rf"^{name} = \[(.*?)\]", text, re.MULTILINE | re.DOTALL)[1] for name in ("dependencies", "slides")
    ]
    assert sorted(PACKAGES) == sorted(re.findall(r'"([\w-]+)>', "".join(lists)))
    versions = {"transformers": "5.1.0", "torch": "2.13.0+cpu"}
    monkeypatch.setattr(space_files, "version", lambda name: versions.get(name, "1.2"))
    lines = texts_of_space(REPO, "c" * 40)["requirements.txt"].splitlines()
    assert "torch==2.13.0" in lines
    assert len(lines) == len(PACKAGES)
    versions["transformers"] = "4.57.6"
    with pytest.raises(ValueError, match=r"A Space needs Transformers 5, got 4.57.6"):
        texts_of_space(REPO, "c" * 40)

    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(space_files, "version", absent)
    with pytest.raises(ValueError, match="accelerate is not"):
        texts_of_space(REPO, "c" * 40)


def test_the_code_of_a_space_is_the_package_with_its_templates_and_the_model_files():
    code = code_of_space()
    assert code["app.py"] == ROOT / "app.py"
    for name in (*(set(MODEL_FILES) - {"model.safetensors"}),):
        assert code[f"spider_tools/repository/{name}"] == ROOT / name
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "spider_tools").rglob("*.*")}
    assert {name for name in package if name.endswith((".py", ".j2", ".css", ".js"))} <= set(code)
    assert not [name for name in code if "__pycache__" in name or name.startswith(("tests", "/"))]
