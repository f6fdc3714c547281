"""Uploading, with the real client of the Hub against a server of its API: see hub_server.py."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hub_client import READER, STRANGER
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from publishing_folders import MODEL_FILES, REPO, SETTINGS, as_shards, commits, names, save_model, with_card

from spider_tools.publishing.checks import model_files
from spider_tools.publishing.model_card import write_model_card
from spider_tools.publishing.upload import upload


def test_an_upload_is_one_commit_of_the_model_and_its_card_and_nothing_else(hub, folder):
    files = with_card(folder)
    url = upload(files, REPO, SETTINGS)
    assert names(hub) == sorted([*MODEL_FILES, "README.md"])
    uploaded = hub.files(REPO)
    for name in files:
        assert uploaded[name] == (folder / name).read_bytes()
    assert commits(hub) == ["initial commit", "Upload SPIDER model"]
    assert url == f"{constants.ENDPOINT}/{REPO}/commit/{hub.repositories[REPO].branches['main']}"


def test_the_same_files_again_make_no_commit_and_send_no_weights(hub, folder):
    first = upload(with_card(folder), REPO, SETTINGS)
    sent = hub.count("PUT", "/lfs/")
    again = upload(with_card(folder), REPO, replace(SETTINGS, exist_ok=True))
    assert again == first
    assert hub.count("PUT", "/lfs/") == sent == 1
    assert len(commits(hub)) == 2


def test_a_pinned_revision_keeps_its_files_when_the_model_changes(hub, folder, make_model, tmp_path):
    first = upload(with_card(folder), REPO, SETTINGS).rsplit("/")[-1]
    old = (folder / "model.safetensors").read_bytes()
    save_model(make_model(seed=1), folder)
    second = upload(with_card(folder), REPO, replace(SETTINGS, exist_ok=True)).rsplit("/")[-1]
    new = (folder / "model.safetensors").read_bytes()
    assert old != new
    for revision, expected in ((first, old), (second, new), ("main", new)):
        found = snapshot_download(REPO, revision=revision, cache_dir=tmp_path / "cache")
        assert Path(found, "model.safetensors").read_bytes() == expected
        assert sorted(os.listdir(found)) == sorted([".gitattributes", *MODEL_FILES, "README.md"])
    with pytest.raises(RevisionNotFoundError):
        snapshot_download(REPO, revision="0" * 40, cache_dir=tmp_path / "cache")


def test_weights_and_results_of_an_earlier_model_leave_in_the_same_commit(hub, folder, make_model):
    results = write_model_card(folder, folder / "evaluation").parent
    files = model_files(folder) | {name: results / name for name in ("README.md", "results.json")}
    upload(files, REPO, SETTINGS)
    repository = hub.repositories[REPO]
    present = repository.at("main").files
    repository.add("main", "by hand", {**present, "figure.svg": present["README.md"]})
    shards = as_shards(folder, make_model)
    upload(with_card(folder), REPO, replace(SETTINGS, exist_ok=True))
    expected = {*MODEL_FILES, *shards, "model.safetensors.index.json", "README.md", "figure.svg"}
    assert names(hub) == sorted(expected - {"model.safetensors"})
    assert commits(hub)[2:] == ["by hand", "Upload SPIDER model"]


def test_another_branch_leaves_main_as_it_is(hub, folder):
    url = upload(with_card(folder), REPO, replace(SETTINGS, branch="next/try 1"))
    assert names(hub) == []
    assert names(hub, revision="next/try 1") == sorted([*MODEL_FILES, "README.md"])
    assert url.rsplit("/")[-1] == hub.repositories[REPO].branches["next/try 1"]


def test_a_model_folder_behind_a_link_is_a_model_folder(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert sorted(model_files(tmp_path / "link")) == MODEL_FILES


def test_a_private_repository_opens_to_its_members_only(hub, folder, tmp_path):
    upload(with_card(folder), REPO, replace(SETTINGS, private=True))
    assert hub.repositories[REPO].private
    for token in (False, STRANGER):
        with pytest.raises(RepositoryNotFoundError):
            snapshot_download(REPO, token=token, cache_dir=tmp_path / str(token))
    found = snapshot_download(REPO, token=READER, cache_dir=tmp_path / "reader")
    assert Path(found, "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_private_weights_do_not_go_to_a_public_repository(hub, folder):
    upload(with_card(folder), REPO, SETTINGS)
    with pytest.raises(ValueError, match="exists and is public"):
        upload(with_card(folder), REPO, replace(SETTINGS, private=True, exist_ok=True))


def test_a_server_that_dies_among_the_weights_leaves_nothing_visible_and_a_retry_goes_on(hub, folder, make_model):
    shards = as_shards(folder, make_model)
    files = with_card(folder)
    hub.dies_at = ("PUT", "/lfs/", 1)
    with pytest.raises(ConnectionError, match=r"nothing half-done. Run the same command again"):
        upload(files, REPO, SETTINGS)
    arrived = len(hub.objects)
    assert 1 <= arrived < len(shards)
    assert names(hub) == []
    hub.revive()
    upload(files, REPO, SETTINGS)
    assert names(hub) == sorted(files)
    assert hub.count("PUT", "/lfs/") == len(shards)
    assert commits(hub) == ["initial commit", "Upload SPIDER model"]


def test_a_server_that_dies_in_the_commit_leaves_the_earlier_version_and_a_retry_completes(hub, folder, make_model):
    upload(with_card(folder), REPO, SETTINGS)
    before = hub.files(REPO)
    save_model(make_model(seed=1), folder)
    files = with_card(folder)
    hub.dies_at = ("POST", "/commit/", hub.count("POST", "/commit/"))
    with pytest.raises(ConnectionError, match="nothing half-done"):
        upload(files, REPO, replace(SETTINGS, exist_ok=True))
    assert hub.files(REPO) == before
    hub.revive()
    sent = hub.count("PUT", "/lfs/")
    upload(files, REPO, replace(SETTINGS, exist_ok=True))
    assert hub.files(REPO)["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert hub.count("PUT", "/lfs/") == sent == 2
    assert len(commits(hub)) == 3
