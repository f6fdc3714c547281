"""Classes that a reader cannot tell apart are told of once, and stay what they are."""

import pytest
from small_datasets import PATCH, some_records, write_folder

from spider_tools.data.loading import load_regions
from spider_tools.data.settings import DataSettings


def load_with(tmp_path, renamed, **options):
    records = some_records()
    for record in records[:6]:
        record["class"] = renamed.get(record["class"], record["class"])
    folder = write_folder(tmp_path / "tissue", records)
    settings = DataSettings(str(folder), cache_dir=tmp_path / "cache", patch_size=PATCH, **options)
    return load_regions(settings).class_names


@pytest.mark.parametrize("other", ["Fat ", " Fat", "fat", "FAT\t"])
def test_classes_that_differ_by_spaces_or_case_are_warned_of_once(tmp_path, caplog, other):
    names = load_with(tmp_path, {"Fat": other})
    assert {"Fat", other} <= set(names)
    (message,) = [m for m in caplog.messages if "differ only by" in m]
    assert repr("Fat") in message
    assert repr(other) in message
    assert "Nerves" not in message
    assert "--class_mapping" in message


def test_other_classes_are_not(tmp_path, caplog):
    load_with(tmp_path, {"Fat": "Fat tissue"})
    assert "differ only by" not in caplog.text


def test_those_that_a_mapping_joins_are_not(tmp_path, caplog):
    mapping = tmp_path / "mapping.json"
    mapping.write_text('{"fat": "Fat"}')
    names = load_with(tmp_path, {"Fat": "fat"}, class_mapping=mapping)
    assert names == ["Fat", "Nerves", "Vessels"]
    assert "differ only by" not in caplog.text
