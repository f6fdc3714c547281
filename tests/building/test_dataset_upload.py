"""A data set as tar parts, read back by the loader."""

import json

import pytest
from building_slides import PATCH, box, feature, write_field

from spider_tools.building.run import build_dataset
from spider_tools.building.settings import BuildSettings
from spider_tools.building.upload import check_dataset_target, push_dataset, write_parts
from spider_tools.data.loading import load_regions
from spider_tools.data.settings import DataSettings


@pytest.fixture
def dataset(tmp_path):
    for i, name in enumerate("abc"):
        write_field(tmp_path, name, [feature("Fat", box(0, 0, 96, 64)), feature("Wart", box(192, 128, 320, 256))], i)
    settings = BuildSettings(
        output_dir=tmp_path / "out",
        annotations=(str(tmp_path / "annotations"),),
        mpp=0.5,
        patch_size=PATCH,
        num_workers=0,
    )
    build_dataset([str(tmp_path / "slides")], settings)
    return tmp_path / "out"


@pytest.mark.parametrize("part_bytes", [50_000, 1 << 30])
def test_parts_are_read_back_as_they_were(dataset, tmp_path, part_bytes):
    uploaded = tmp_path / "uploaded"
    uploaded.mkdir()
    parts = write_parts(dataset, uploaded, "mine", part_bytes)
    assert [part.name for part in parts] == [f"mine.tar.{i:03d}" for i in range(len(parts))]
    assert all(part.stat().st_size <= part_bytes for part in parts)
    assert (len(parts) > 2) == (part_bytes == 50_000)
    (uploaded / "metadata.json").write_text((dataset / "metadata.json").read_text())
    load = {"patch_size": PATCH, "validation_fraction": 0, "cache_dir": tmp_path / "cache"}
    theirs = load_regions(DataSettings(dataset=str(uploaded), **load))
    ours = load_regions(DataSettings(dataset=str(dataset), **load))
    assert theirs.splits["train"][:] == ours.splits["train"][:]
    name = json.loads((dataset / "metadata.json").read_text())[0]["image_name"]
    assert (theirs.patches.read(name) == ours.patches.read(name)).all()


def test_the_same_files_give_the_same_bytes(dataset, tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        write_parts(dataset, tmp_path / name, "mine")
    assert (tmp_path / "first" / "mine.tar.000").read_bytes() == (tmp_path / "second" / "mine.tar.000").read_bytes()


def test_without_a_hub_nothing_is_begun(dataset):
    with pytest.raises(ConnectionError, match="unset HF_HUB_OFFLINE"):
        check_dataset_target("lab/mine")
    with pytest.raises(ConnectionError):
        push_dataset(dataset, "lab/mine")
    assert not list(dataset.glob(".upload-*"))
