"""A cache that has everything is read by whoever may read it; one that lacks something says whose it is."""

import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from other_user import as_another_user, listing, readable_folder
from small_datasets import PATCH, record, some_records, write_folder
from small_regions import png_of_region, write_images

from spider_tools.data import contents
from spider_tools.data.loading import load_regions
from spider_tools.data.settings import DataSettings

pytestmark = pytest.mark.slow


@pytest.fixture
def home():
    with readable_folder() as folder:
        yield folder


def spider_folder(home):
    write_folder(home / "data", some_records())
    return {"patch_size": PATCH}


def tar_parts(home):
    write_folder(home / "tissue", some_records())
    (home / "data").mkdir()
    with tarfile.open(home / "data" / "tissue.tar.aa", "w:") as tar:
        tar.add(home / "tissue", "tissue")
    return {"patch_size": PATCH}


def spider_folder_with_bad_records(home):
    write_folder(home / "data", [*some_records(), record("s9", 0, "Fat", "holdout")])
    return {"patch_size": PATCH, "skip_bad_records": True}


def smaller_context(home):
    return spider_folder(home) | {"context_size": 3}


def image_folder(home):
    write_images(home / "data", "a/1.png", "b/2.png")
    return {"patch_size": 4, "context_size": 3}


def parquet(home):
    (home / "data").mkdir()
    table = pa.table({"image": [png_of_region(name) for name in "xy"], "label": ["a", "b"]})
    pq.write_table(table, home / "data" / "train.parquet")
    return {"patch_size": 4, "context_size": 3}


KINDS = [spider_folder, tar_parts, spider_folder_with_bad_records, smaller_context, image_folder, parquet]


def rows_of(settings):
    data = load_regions(settings)
    return {name: list(split) for name, split in data.splits.items()}, data.dropped


@pytest.mark.parametrize("make", KINDS)
def test_a_complete_cache_of_another_user_is_read_without_a_lock(home, make, monkeypatch):
    monkeypatch.setattr(contents, "_SETTLED_SECONDS", -1.0)
    settings = DataSettings(str(home / "data"), cache_dir=home / "cache", **make(home))
    mine = rows_of(settings)
    before = listing(home)
    assert as_another_user(home, lambda: rows_of(settings)) == mine
    assert listing(home) == before


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("begun", [False, True])
def test_a_cache_that_lacks_something_and_may_not_be_written_is_named(home, make, begun):
    settings = DataSettings(str(home / "data"), cache_dir=home / "cache", **make(home))
    if begun:
        rows_of(settings)
        (home / "cache" / "regions").rename(home / "elsewhere")
        (home / "cache" / "regions").mkdir()
        if make is tar_parts:
            next((home / "cache" / "unpacked").glob("*/.complete.json")).unlink()
    kind, message = as_another_user(home, lambda: rows_of(settings))
    assert kind == "PermissionError"
    assert str(home / "cache") in message
    assert "may not be written (Permission denied): it is read-only or belongs to another user. " in message
    assert message.endswith("Choose a cache of your own with --cache_dir.")
