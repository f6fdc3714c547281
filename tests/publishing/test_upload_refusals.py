"""What is refused before anything is uploaded, and what the errors say."""

import hashlib
import json
import shutil
from dataclasses import replace

import pytest
from hub_client import READER, STRANGER
from hub_server import RefusalError
from huggingface_hub import constants
from publishing_folders import REPO, SETTINGS, commits, save_model, with_card

from spider_tools.publishing.checks import model_files
from spider_tools.publishing.publish import publish
from spider_tools.publishing.settings import PublishSettings
from spider_tools.publishing.upload import check_target, upload


def link_out(folder):
    outside = folder.parent / "secret.json"
    (folder / "config.json").rename(outside)
    (folder / "config.json").symlink_to(outside)


def pickle_only(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def index_of(*shards):
    def write(folder):
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict(enumerate(shards))}))

    return write


def leave_token(folder):
    with open(folder / "config.json", "a") as file:
        file.write(f'"hf_{"aB3" * 12}"')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "is no folder"),
        (lambda f: (f / "processing_spider.py").unlink(), r"lacks processing_spider\.py"),
        (lambda f: (f / "model.safetensors").unlink(), r"lacks model\.safetensors"),
        (pickle_only, "pickles only, which run code"),
        (lambda f: (f / "model.safetensors.index.json").touch(), "holds both"),
        (index_of("../../.ssh/id_rsa"), "names '../../.ssh/id_rsa', expected files like"),
        (index_of("optimizer.pt"), "names 'optimizer.pt'"),
        (index_of("model-00001-of-00002.safetensors"), "lacks model-00001-of-00002"),
        (lambda f: (index_of()(f), (f / "model.safetensors.index.json").write_text("[]")), "no index of weights"),
        (link_out, "leads out of the folder, to .*secret.json"),
        (leave_token, "looks like an access token"),
    ],
)
def test_folders_that_are_no_safe_complete_model_are_refused(folder, damage, message):
    damage(folder)
    with pytest.raises(ValueError, match=message):
        model_files(folder)


@pytest.mark.parametrize("repo_id", ["spider", "lab/spider/skin", "lab/sp ider", "lab/-spider", "lab/spider.git", ""])
def test_an_id_that_the_hub_would_not_take_is_refused(repo_id):
    with pytest.raises(ValueError, match="is no repository id"):
        check_target(repo_id, SETTINGS)


def test_without_a_token_the_error_says_how_to_get_one(hub):
    with pytest.raises(PermissionError, match=r"no access token.*role 'write'.*hf auth login"):
        check_target(REPO, PublishSettings())
    assert hub.requests == []


@pytest.mark.parametrize(
    ("token", "message"), [("hf_nobody", "wrong or has expired.*hf auth login"), (READER, "may only read.*'write'")]
)
def test_a_token_that_cannot_write_anywhere_is_refused_before_the_upload(hub, token, message):
    with pytest.raises(PermissionError, match=message):
        check_target(REPO, PublishSettings(token=token))


@pytest.mark.parametrize("exists", [False, True])
def test_an_account_without_rights_is_told_whom_to_ask(hub, folder, exists):
    if exists:
        upload(with_card(folder), REPO, SETTINGS)
    before = commits(hub) if exists else []
    with pytest.raises(PermissionError, match=r"may not write to lab/spider-skin .*\. Ask lab for the right"):
        upload(model_files(folder), REPO, PublishSettings(token=STRANGER, exist_ok=True))
    assert (commits(hub) if exists else list(hub.repositories)) == before


def test_an_existing_repository_needs_exist_ok(hub, folder, make_model):
    upload(with_card(folder), REPO, SETTINGS)
    save_model(make_model(seed=1), folder)
    for refused in (check_target, lambda *target: upload(with_card(folder), *target)):
        with pytest.raises(FileExistsError, match=r"has files already. --exist_ok adds a commit"):
            refused(REPO, SETTINGS)
    assert len(commits(hub)) == 2
    check_target(REPO, replace(SETTINGS, exist_ok=True))


def test_a_target_that_is_refused_is_refused_before_any_work(hub, folder, make_model):
    upload(model_files(folder), REPO, SETTINGS)
    save_model(make_model(seed=1), folder)
    with pytest.raises(FileExistsError, match="has files already"):
        publish(folder, REPO, SETTINGS)
    assert not (folder / "README.md").exists()


def test_a_refusal_among_the_large_files_keeps_its_reason(hub, folder):
    def refuse():
        raise RefusalError(403, "Your storage is full")

    weights = (folder / "model.safetensors").read_bytes()
    hub.meanwhile = (f"/lfs/{hashlib.sha256(weights).hexdigest()}", refuse)
    with pytest.raises(PermissionError, match=r"may not write to lab/spider-skin .*Your storage is full"):
        upload(with_card(folder), REPO, SETTINGS)


def test_offline_the_error_names_the_switch(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="unset HF_HUB_OFFLINE"):
        check_target(REPO, SETTINGS)


def test_a_dead_hub_is_a_connection_error(hub):
    hub.dead = True
    with pytest.raises(ConnectionError, match="Run the same command again"):
        check_target(REPO, SETTINGS)


def test_a_change_by_somebody_else_during_the_upload_is_not_overwritten(hub, folder):
    upload(with_card(folder), REPO, SETTINGS)
    files = hub.repositories[REPO].at("main").files
    hub.meanwhile = ("/preupload/", lambda: hub.repositories[REPO].add("main", "theirs", files))
    with open(folder / "config.json", "a") as file:
        file.write("\n")
    with pytest.raises(FileExistsError, match="Somebody else changed"):
        upload(with_card(folder), REPO, replace(SETTINGS, exist_ok=True))
    assert commits(hub)[-1] == "theirs"
