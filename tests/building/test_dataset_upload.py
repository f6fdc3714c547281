"""A data set as tar parts on a server of the Hub's API, see hub_server.py, and read back by the loader."""

import json
import logging
from dataclasses import replace

import pytest
from building_slides import PATCH, box, feature, write_field
from hub_client import READER, STRANGER, WRITER, talk_to_a_hub
from hub_contents import Repository, StoredFile

import build_dataset as script
from spider_tools.building.packing import write_parts
from spider_tools.building.run import build_dataset
from spider_tools.building.settings import BuildSettings
from spider_tools.building.upload import check_dataset_target, push_dataset
from spider_tools.data.loading import load_regions
from spider_tools.data.settings import DataSettings

REPO = "lab/warts"
KEY = f"datasets/{REPO}"


@pytest.fixture
def settings(tmp_path):
    for i, name in enumerate("abc"):
        write_field(tmp_path, name, [feature("Fat", box(0, 0, 96, 64)), feature("Wart", box(192, 128, 320, 256))], i)
    return BuildSettings(
        output_dir=tmp_path / "out",
        annotations=(str(tmp_path / "annotations"),),
        mpp=0.5,
        patch_size=PATCH,
        num_workers=0,
        push_to_hub=REPO,
    )


@pytest.fixture
def dataset(settings, tmp_path):
    build_dataset([str(tmp_path / "slides")], settings)
    return settings.output_dir


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", WRITER)
    with talk_to_a_hub(monkeypatch) as hub:
        yield hub


def load(folder, tmp_path):
    options = {"patch_size": PATCH, "validation_fraction": 0, "cache_dir": tmp_path / "cache"}
    return load_regions(DataSettings(dataset=str(folder), **options))


def downloaded(hub, folder):
    for name, content in hub.files(KEY).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def is_the_same(theirs, ours):
    assert theirs.splits["train"][:] == ours.splits["train"][:]
    assert theirs.splits["test"][:] == ours.splits["test"][:]
    names = {name for patches in ours.splits["train"]["patches"] for name in patches if name}
    assert all((theirs.patches.read(name) == ours.patches.read(name)).all() for name in names)


@pytest.mark.parametrize("part_bytes", [50_000, 1 << 30])
def test_parts_are_read_back_as_they_were(dataset, tmp_path, part_bytes):
    uploaded = tmp_path / "uploaded"
    uploaded.mkdir()
    parts = write_parts(dataset, uploaded, "mine", part_bytes)
    assert [part.name for part in parts] == [f"mine.tar.{i:03d}" for i in range(len(parts))]
    assert all(part.stat().st_size <= part_bytes for part in parts)
    assert (len(parts) > 2) == (part_bytes == 50_000)
    (uploaded / "metadata.json").write_text((dataset / "metadata.json").read_text())
    is_the_same(load(uploaded, tmp_path), load(dataset, tmp_path))


def test_the_same_files_give_the_same_bytes(dataset, tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        write_parts(dataset, tmp_path / name, "mine")
    assert (tmp_path / "first" / "mine.tar.000").read_bytes() == (tmp_path / "second" / "mine.tar.000").read_bytes()


def test_without_a_hub_nothing_is_begun(dataset, settings):
    for call in (check_dataset_target, push_dataset):
        with pytest.raises(ConnectionError, match="unset HF_HUB_OFFLINE"):
            call(settings)
    assert not list(dataset.glob(".upload-*"))


def test_the_script_uploads_privately_and_the_loader_reads_what_arrived(hub, settings, tmp_path, capsys):
    flags = ["--slides", str(tmp_path / "slides"), "--annotations", *settings.annotations, "--mpp", "0.5"]
    flags += ["--output_dir", str(settings.output_dir), "--patch_size", str(PATCH), "--push_to_hub", REPO]
    script.main(script.parse_args(flags))
    assert f"/datasets/{REPO}/commit/{hub.repositories[KEY].branches['main']}" in capsys.readouterr().out
    assert hub.repositories[KEY].private
    assert len(hub.repositories[KEY].commits) == 2  # the Hub's own, and one with everything
    names = set(hub.files(KEY))
    assert {"metadata.json", "README.md", "warts.tar.000", "contact_sheets/01_Fat.png", "overlays/a.png"} <= names
    assert not any(name.startswith(("images/", ".upload", ".request")) for name in names)
    is_the_same(load(downloaded(hub, tmp_path / "theirs"), tmp_path), load(settings.output_dir, tmp_path))


@pytest.mark.usefixtures("dataset")
def test_a_killed_upload_goes_on_and_one_that_arrived_is_seen(hub, settings, caplog):
    hub.mute_at = "/commit/"
    with pytest.raises(ConnectionError, match="Run the same command again"):
        push_dataset(settings)
    hub.revive()
    caplog.set_level(logging.INFO)
    check_dataset_target(settings)
    url = push_dataset(settings)
    assert url.rsplit("/")[-1] == hub.repositories[KEY].branches["main"]
    assert "holds this data set already; nothing was uploaded" in caplog.text
    assert hub.count("PUT", "/lfs/") == 1

    hub.repositories.clear()
    hub.dies_at = ("POST", "/commit/", 0)
    with pytest.raises(ConnectionError):
        push_dataset(settings)
    hub.revive()
    push_dataset(settings)
    assert hub.count("PUT", "/lfs/") == 1  # the parts were there


def add(hub, private=True, **files):
    repository = hub.repositories[KEY] = Repository(private)
    repository.add("main", "by hand", {name: StoredFile(content) for name, content in files.items()})


@pytest.mark.usefixtures("dataset")
def test_files_that_are_there_are_replaced_only_on_request(hub, settings, tmp_path):
    old = {"warts.tar.007": b"old", "images/old.png": b"old", "metadata.json": b"[]", "notes.txt": b"mine"}
    add(hub, **old)
    for call in (check_dataset_target, push_dataset):
        with pytest.raises(FileExistsError, match=r"lab/warts has files already\. --hub_replace"):
            call(settings)
    assert hub.files(KEY) == old
    push_dataset(replace(settings, hub_replace=True))
    names = set(hub.files(KEY))
    assert "notes.txt" in names
    assert not names & {"warts.tar.007", "images/old.png"}
    is_the_same(load(downloaded(hub, tmp_path / "theirs"), tmp_path), load(settings.output_dir, tmp_path))


@pytest.mark.usefixtures("dataset")
def test_a_public_repository_is_taken_only_on_request(hub, settings, caplog):
    add(hub, private=False)
    for call in (check_dataset_target, push_dataset):
        with pytest.raises(ValueError, match="lab/warts exists and is public"):
            call(settings)
    push_dataset(replace(settings, hub_public=True))
    assert not hub.repositories[KEY].private
    add(hub)
    check_dataset_target(replace(settings, hub_public=True))
    assert "exists and is private, and stays so" in caplog.text
    hub.repositories.clear()
    push_dataset(replace(settings, hub_public=True))
    assert not hub.repositories[KEY].private


@pytest.mark.usefixtures("dataset")
@pytest.mark.parametrize(
    ("token", "error", "message"),
    [
        (READER, PermissionError, "may only read"),
        (STRANGER, PermissionError, "may not write to lab/warts"),
        ("hf_nobody", PermissionError, "does not take this access token"),
    ],
)
def test_an_account_that_may_not_write_is_told_so(hub, settings, monkeypatch, token, error, message):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(error, match=message):
        push_dataset(settings)
    assert not hub.repositories
    assert not list(settings.output_dir.glob(".upload-*"))


@pytest.mark.parametrize("flag", ["hub_public", "hub_replace"])
def test_flags_of_the_hub_need_one(settings, flag):
    with pytest.raises(ValueError, match=f"--{flag} says nothing without --push_to_hub"):
        replace(settings, push_to_hub=None, **{flag: True})


def test_a_model_and_a_data_set_may_share_a_name(hub, settings, dataset):
    hub.repositories[REPO] = Repository(True)
    hub.repositories[REPO].add("main", "by hand", {"config.json": StoredFile(b"{}")})
    push_dataset(settings)
    assert json.loads(hub.files(KEY)["metadata.json"]) == json.loads((dataset / "metadata.json").read_text())
    assert set(hub.files(REPO)) == {"config.json"}
