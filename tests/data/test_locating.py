import os
import re
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from small_datasets import PATCH, some_records, write_folder

from spider_tools.data.loading import load_regions
from spider_tools.data.locating import local_folder
from spider_tools.data.settings import DataSettings

ID = "histai/SPIDER-tissue"


def http_error(kind):
    response = SimpleNamespace(headers={}, request=None, status_code=403, url="", text="")
    return kind("the server's words", response=response)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            http_error(GatedRepoError),
            r"PermissionError.*is gated: ask for access on https://huggingface.co/datasets/histai/SPIDER-tissue",
        ),
        (http_error(RepositoryNotFoundError), "FileNotFoundError.*here, and the Hub has no such data set"),
        (
            http_error(RevisionNotFoundError),
            "FileNotFoundError.*SPIDER-tissue has no revision 'v2'",
        ),
        (http_error(HfHubHTTPError), "ConnectionError.*cannot be downloaded from .*: the server's words"),
        (LocalEntryNotFoundError("nothing here"), "ConnectionError.*the Hub cannot be reached"),
        (OfflineModeIsEnabled("offline"), "ConnectionError.*the Hub cannot be reached"),
    ],
)
def test_what_went_wrong_on_the_hub_is_explained(monkeypatch, error, message):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(OSError) as caught:  # noqa: PT011 the class is part of the message below
        local_folder(ID, "v2")
    assert re.search(message, repr(caught.value))
    assert caught.value.__cause__ is error


def test_a_repository_that_is_not_in_the_cache_is_refused_offline():
    with pytest.raises(ConnectionError, match=r"the Hub cannot be reached .* its cache on this machine does not have"):
        local_folder("some-org/never-downloaded", None)


def snapshot(tmp_path):
    """A repository as the Hub client keeps it: a snapshot of links to blobs."""
    plain = write_folder(tmp_path / "plain", some_records())
    repository = tmp_path / "hub" / "datasets--histai--SPIDER-tissue"
    folder = repository / "snapshots" / "0123abcd"
    (repository / "blobs").mkdir(parents=True)
    for number, path in enumerate(p for p in sorted(plain.rglob("*")) if p.is_file()):
        link = folder / path.relative_to(plain)
        link.parent.mkdir(parents=True, exist_ok=True)
        path.rename(repository / "blobs" / f"{number:064x}")
        link.symlink_to(os.path.relpath(repository / "blobs" / f"{number:064x}", link.parent))
    return folder


def test_a_snapshot_of_links_to_blobs_is_read(tmp_path, monkeypatch):
    calls = []
    folder = snapshot(tmp_path)

    def download(repo_id, **options):
        calls.append((repo_id, options))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    settings = DataSettings(ID, cache_dir=tmp_path / "cache", patch_size=PATCH, dataset_revision="v1")
    data = load_regions(settings)
    assert calls == [(ID, {"repo_type": "dataset", "revision": "v1"})]
    assert data.name == ID
    assert sum(len(split) for split in data.splits.values()) == len(some_records())
    assert data.patches.read(data.splits["test"][0]["patches"][4]).shape == (PATCH, PATCH, 3)
    assert "secret" not in repr(settings)


def test_a_snapshot_may_not_link_out_of_its_repository(tmp_path):
    folder = snapshot(tmp_path)
    path = folder / "images" / some_records()[0]["image_name"]
    path.unlink()
    path.symlink_to("/etc/hostname")
    with pytest.raises(ValueError, match="a symbolic link that leaves the data set's folder"):
        load_regions(DataSettings(str(folder), cache_dir=tmp_path / "cache", patch_size=PATCH))


def test_a_folder_of_the_name_comes_before_the_hub(tmp_path, monkeypatch):
    (tmp_path / "histai" / "SPIDER-tissue").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert os.fspath(local_folder(ID, None)) == ID


def test_images_that_are_a_link_out_of_the_folder_are_refused(tmp_path):
    folder = write_folder(tmp_path / "tissue", some_records())
    (folder / "images").rename(tmp_path / "elsewhere")
    (folder / "images").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="images is a symbolic link that leaves"):
        load_regions(DataSettings(str(folder), cache_dir=tmp_path / "cache", patch_size=PATCH))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "holds no data set: expected metadata.json and images/, or tar parts"),
        (["notes.txt"], "holds no data set"),
        (["metadata.json"], "has metadata.json but no folder images/ beside it"),
    ],
)
def test_a_folder_of_something_else_is_refused(tmp_path, files, message):
    folder = tmp_path / "other"
    folder.mkdir()
    for name in files:
        (folder / name).write_text("[]")
    with pytest.raises(ValueError, match=message):
        load_regions(DataSettings(str(folder), cache_dir=tmp_path / "cache"))


def test_a_file_is_refused(tmp_path):
    (tmp_path / "tissue.zip").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"tissue\.zip is a file, expected the folder"):
        load_regions(DataSettings(str(tmp_path / "tissue.zip"), cache_dir=tmp_path / "cache"))
