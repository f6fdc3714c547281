import json
import pickle

import datasets
import numpy as np
import pytest
from PIL import Image
from small_datasets import pixels_of
from small_regions import PATCH, SIDE, grid_of, image_of

NAMES = ["Stroma", "Fat"]  # not in alphabetical order


@pytest.fixture
def load(load_whole):
    return lambda folder, **options: load_whole(folder, **({"validation_fraction": 0.1} | options))


def dataset_of(prefix, slides, **changes):
    count = len(slides)
    columns = {
        "image": [image_of(f"{prefix}{i}") for i in range(count)],
        "label": [i % 2 for i in range(count)],
        "slide_id": slides,
    } | changes
    features = {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=NAMES),
        "slide_id": datasets.Value("string"),
    }
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def saved(tmp_path, **changes):
    folder = tmp_path / "saved"
    train = dataset_of("train", ["a", "a", "b", "b", "c", "c"], **changes)
    datasets.DatasetDict({"train": train, "test": dataset_of("test", ["d", "d"])}).save_to_disk(str(folder))
    return folder


def test_a_saved_data_set_becomes_rows_of_virtual_patches(tmp_path, load):
    data = load(saved(tmp_path), validation_fraction=0)
    assert data.name == "saved"
    assert data.splits["train"].features["label"].names == ["Fat", "Stroma"]
    assert data.splits["train"]["slide_id"][:] == ["a", "a", "b", "b", "c", "c"]
    assert [["Fat", "Stroma"][i] for i in data.splits["train"]["label"]] == ["Stroma", "Fat"] * 3
    assert data.splits["test"][1]["patches"] == [f"test/000001/{r}_{c}" for r in range(3) for c in range(3)]
    for split in ("train", "test"):
        for number, row in enumerate(data.splits[split]):
            np.testing.assert_array_equal(grid_of(data, row), pixels_of(f"{split}{number}", SIDE, SIDE))


def test_a_split_by_slide_column_keeps_slides_together(tmp_path, load):
    slides = {name: set(split["slide_id"]) for name, split in load(saved(tmp_path)).splits.items()}
    assert slides["validation"] | slides["train"] == {"a", "b", "c"}
    assert not slides["validation"] & slides["train"]


@pytest.mark.parametrize("column", ["patient_id", "case"])
def test_a_split_by_patient_column_keeps_patients_together(tmp_path, load, column):
    folder = tmp_path / "saved"
    patients = ["p", "p", "q", "q", "p", "p", None, ""]
    train = dataset_of("train", list("aabbccdd")).add_column(column, patients)
    datasets.DatasetDict({"train": train}).save_to_disk(str(folder))
    options = {} if column == "patient_id" else {"patient_column": column}
    splits = load(folder, validation_fraction=0.3, **options).splits
    found = {row["slide_id"]: row["patient_id"] for split in splits.values() for row in split}
    assert found == {"a": "p", "b": "q", "c": "p", "d": None}
    assert len({name for name, split in splits.items() if "p" in split["patient_id"]}) == 1
    with pytest.raises(ValueError, match="There is no patient column 'who'"):
        load(folder, patient_column="who")


def test_a_region_is_decoded_once_for_its_patches_and_workers_start_empty(tmp_path, load, monkeypatch):
    from spider_tools.data import patches

    data = load(saved(tmp_path))
    opened = []
    open_encoded = patches.open_encoded
    monkeypatch.setattr(patches, "open_encoded", lambda encoded: opened.append(1) or open_encoded(encoded))
    grid_of(data, data.splits["test"][0])
    assert len(opened) == 1
    assert len(pickle.dumps(data.patches)) < 20_000
    copy = pickle.loads(pickle.dumps(data.patches))
    np.testing.assert_array_equal(copy.read("test/000001/0_2"), pixels_of("test1", SIDE, SIDE)[:PATCH, 2 * PATCH :])
    assert len(opened) == 2


def test_a_larger_region_is_cropped_as_the_image_processor_does(tmp_path, load):
    from spider_tools import remote_code

    whole = pixels_of("large", SIDE + 7, SIDE + 4)
    data = load(saved(tmp_path, image=[Image.fromarray(whole)] * 6), validation_fraction=0)
    processor = remote_code.image_processor_class()(context_size=3, patch_size=PATCH, do_normalize=False)
    tiles = processor(whole, return_tensors="np")["pixel_values"][0].transpose(0, 2, 3, 1) * 255
    for name, tile in zip(data.splits["train"][0]["patches"], tiles):
        np.testing.assert_allclose(data.patches.read(name), tile, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"image": [*[image_of("x")] * 3, image_of("s", SIDE - 1, SIDE + 9), image_of("y"), image_of("z")]},
            "it is 21x11 px",
        ),
        (
            {"image": [*[image_of("x")] * 3, {"bytes": b"no image", "path": None}, image_of("y"), image_of("z")]},
            "cannot be read",
        ),
        ({"image": [*[image_of("x")] * 3, None, image_of("y"), image_of("z")]}, "got null"),
        ({"label": [0, 1, 0, None, 0, 1]}, "expected a value, got None"),
        ({"label": [0, 1, 0, -1, 0, 1]}, "expected a value, got -1"),
        ({"slide_id": ["a", "b", "c", None, "d", "e"]}, "expected a value, got None"),
    ],
)
def test_a_bad_row_is_named_with_its_column_or_left_out(tmp_path, load, change, message):
    folder = saved(tmp_path, **change)
    with pytest.raises(ValueError, match=f"Row 3 of split 'train', field '{next(iter(change))}': .*{message}"):
        load(folder)
    data = load(folder, skip_bad_records=True, validation_fraction=0)
    assert [bad.place for bad in data.dropped] == ["row 3 of split 'train'"]
    assert [row["patches"][0].split("/")[1] for row in data.splits["train"]] == [f"00000{i}" for i in (0, 1, 2, 4, 5)]


def test_a_damaged_region_is_named_when_it_is_read(tmp_path, load):
    import io

    file = io.BytesIO()
    image_of("x").save(file, "PNG")
    cut = {"bytes": file.getvalue()[:-100], "path": None}
    data = load(saved(tmp_path, image=[cut, *[image_of("y")] * 5]))
    with pytest.raises(ValueError, match=r"The patch 'train/000000/1_1' of row 0 of split 'train' cannot be used"):
        data.patches.read("train/000000/1_1")


def image_folder(tmp_path):
    folder = tmp_path / "pictures"
    for split, count in (("train", 4), ("test", 2)):
        for name in NAMES:
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                image_of(f"{split}{name}{i}").save(folder / split / name / f"{i}.png")
    return folder


def test_an_image_folder_is_read_and_warns_that_neighbours_may_leak(tmp_path, load, caplog):
    folder = image_folder(tmp_path)
    data = load(folder, validation_fraction=0.25)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 6, "validation": 2, "test": 4}
    assert data.splits["test"].features["label"].names == ["Fat", "Stroma"]
    assert "each region counts as its own slide, and neighbouring regions of one slide may leak" in caplog.text
    expected = {(name, pixels_of(f"test{name}{i}", SIDE, SIDE).tobytes()) for name in NAMES for i in range(2)}
    assert {(["Fat", "Stroma"][r["label"]], grid_of(data, r).tobytes()) for r in data.splits["test"]} == expected


def test_the_fingerprint_follows_the_files_and_the_meaning_of_names(tmp_path, load):
    folder = image_folder(tmp_path)
    first = load(folder).fingerprint
    assert load(folder, seed=3).fingerprint == first
    assert load(folder, context_size=1).fingerprint != first
    image_of("new").save(folder / "train" / "Fat" / "9.png")
    changed = load(folder, validation_fraction=0)
    assert changed.fingerprint != first
    assert len(changed.splits["train"]) == 9


def test_parquet_files_with_columns_of_other_names_are_read(tmp_path, load):
    folder = tmp_path / "parquet"
    folder.mkdir()
    for split, count in (("train", 6), ("test", 2)):
        slides = [f"{split}{i // 2}" for i in range(count)]
        table = dataset_of(split, slides).cast_column("label", datasets.Value("string"))
        table = table.map(lambda row: {"tissue": NAMES[int(row["label"])]}).remove_columns("label")
        table.rename_columns({"image": "picture", "slide_id": "case"}).to_parquet(str(folder / f"{split}.parquet"))
    options = {"label_column": "tissue", "slide_column": "case", "validation_fraction": 0}
    data = load(folder, **options)
    assert data.splits["train"]["slide_id"][:] == ["train0", "train0", "train1", "train1", "train2", "train2"]
    np.testing.assert_array_equal(grid_of(data, data.splits["test"][1]), pixels_of("test1", SIDE, SIDE))
    for column, value in (("label", "case of it"), ("image", "tissue"), ("slide", "none")):
        with pytest.raises(ValueError, match=f"'{value}'.*column" if column != "slide" else "no slide column 'none'"):
            load(folder, **options | {f"{column}_column": value})
    with pytest.raises(ValueError, match="Name the column of labels with --label_column"):
        load(folder)


def test_a_data_set_without_splits_is_for_training(tmp_path, load):
    dataset_of("x", ["a", "a", "b", "b"]).save_to_disk(str(tmp_path / "one"))
    assert list(load(tmp_path / "one", validation_fraction=0).splits) == ["train"]


def test_an_unknown_split_is_refused(tmp_path, load):
    datasets.DatasetDict({"train": dataset_of("x", ["a", "b"]), "dev": dataset_of("y", ["c"])}).save_to_disk(
        str(tmp_path / "odd")
    )
    with pytest.raises(ValueError, match=r"has the splits \['dev'\], expected some of train, validation, test"):
        load(tmp_path / "odd")


def test_an_image_folder_may_name_slides_in_its_metadata(tmp_path, load, caplog):
    folder = tmp_path / "pictures" / "train"
    folder.mkdir(parents=True)
    lines = []
    for i in range(6):
        image_of(str(i)).save(folder / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "label": NAMES[i % 2], "slide_id": f"s{i // 2}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    data = load(folder.parent, validation_fraction=0)
    assert sorted(data.splits["train"]["slide_id"]) == ["s0", "s0", "s1", "s1", "s2", "s2"]
    assert "leak" not in caplog.text
