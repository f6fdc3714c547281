"""Images whose header is good and whose body is not: told with the remedy, and left out by it."""

import io
import os

import numpy as np
import pytest
from PIL import Image
from small_datasets import PATCH, pixels_of, some_records, write_folder
from small_regions import write_images

from spider_tools.data.image_files import IMAGE_FORMATS, open_image
from spider_tools.data.loading import load_regions
from spider_tools.data.settings import DataSettings

KINDS = {"JPEG": -30, "PNG": -30, "TIFF": -100, "BMP": -30}


def encoded(kind, side):
    file = io.BytesIO()
    Image.fromarray(pixels_of("x", side, side)).save(file, kind)
    return file.getvalue()


def truncated(kind, side):
    """The header says nothing of what is missing."""
    return encoded(kind, side)[: KINDS[kind]]


def load(folder, tmp_path, **options):
    return load_regions(DataSettings(str(folder), cache_dir=tmp_path / "cache", validation_fraction=0, **options))


def names_of(data):
    return {name for split in data.splits.values() for row in split["patches"] for name in row if name}


@pytest.mark.parametrize("kind", KINDS)
def test_a_patch_cut_short_is_told_with_the_flag_that_leaves_it_out(tmp_path, kind):
    folder = write_folder(tmp_path / "tissue", some_records())
    name = some_records()[0]["image_name"]
    (folder / "images" / name).write_bytes(truncated(kind, PATCH))
    data = load(folder, tmp_path, patch_size=PATCH)
    with pytest.raises(ValueError, match=rf"The patch '{name}' of record 0 .*pass --skip_bad_records"):
        data.patches.read(name)
    for _ in range(2):  # the second time from the memory
        kept = load(folder, tmp_path, patch_size=PATCH, skip_bad_records=True)
        assert [bad.place for bad in kept.dropped] == ["record 0 of metadata.json"]
        assert kept.dropped_file.is_file()
    for other in names_of(kept):
        assert kept.patches.read(other).shape == (PATCH, PATCH, 3)
    assert kept.fingerprint == data.fingerprint  # embeddings made before count


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_region_cut_short_is_told_with_the_flag_that_leaves_it_out(tmp_path, kind):
    names = [f"{label}/{number}.png" for label in "ab" for number in range(3)]
    folder = write_images(tmp_path / "regions", *names)
    (folder / names[1]).write_bytes(truncated(kind, 12))
    data = load(folder, tmp_path, patch_size=4, context_size=3)
    with pytest.raises(ValueError, match=r"row 1 of split 'train' .*pass --skip_bad_records"):
        data.patches.read("train/000001/0_0")
    kept = load(folder, tmp_path, patch_size=4, context_size=3, skip_bad_records=True)
    assert [bad.place for bad in kept.dropped] == ["row 1 of split 'train'"]
    assert all(kept.patches.read(name).shape == (4, 4, 3) for name in names_of(kept))


def test_a_pipe_in_the_place_of_a_region_or_a_table_is_refused_at_once(tmp_path):
    folder = write_images(tmp_path / "regions", "a/0.png", "a/1.png", "b/0.png", "b/1.png")
    (folder / "a/1.png").unlink()
    os.mkfifo(folder / "a/1.png")
    with pytest.raises(ValueError, match=r"Row 1 of split 'train'.* is a pipe, expected a regular file"):
        load(folder, tmp_path, patch_size=4, context_size=3)
    for name in ("metadata.csv", "metadata.jsonl", "metadata.parquet"):
        os.mkfifo(folder / name)
        with pytest.raises(ValueError, match=rf"{name} is a pipe, expected a regular file"):
            load(folder, tmp_path, patch_size=4, context_size=3)
        (folder / name).unlink()


@pytest.mark.parametrize("name", ["metadata.json", "all.tar", "train.parquet"])
def test_a_pipe_in_the_place_of_a_data_set_is_refused_at_once(tmp_path, name):
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True) if name == "metadata.json" else folder.mkdir()
    os.mkfifo(folder / name)
    with pytest.raises(ValueError, match=r"expected a regular file|holds no data set|no folder"):
        load(folder, tmp_path, patch_size=4, context_size=3)


def test_devices_are_refused():
    with pytest.raises(ValueError, match=r"/dev/null is a device, expected a regular file"):
        open_image("/dev/null")


@pytest.mark.parametrize("kind", [*IMAGE_FORMATS, "MPO"])
def test_every_format_that_is_meant_opens(tmp_path, kind):
    pixels = pixels_of("x", 16, 16)
    pixels[:] = pixels[0, 0]
    Image.fromarray(pixels).save(tmp_path / "image", kind)
    with open_image(tmp_path / "image") as image:
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - pixels).max() < 30


@pytest.mark.parametrize("kind", ["EPS", "PDF", "ICO", "TGA", "PCX", "SGI", "ICNS"])
def test_no_other_format_does(tmp_path, kind):
    Image.fromarray(pixels_of("x", 16, 16)).save(tmp_path / "image", kind)
    with pytest.raises(OSError, match="cannot identify image file"):
        open_image(tmp_path / "image")
