import json
import multiprocessing
import os
import pickle
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from small_datasets import KEYS, PATCH, pixels_of, record, rewrite, some_records, write_folder

from spider_tools.data import spider_layout as records_module
from spider_tools.data.loading import load_regions
from spider_tools.data.settings import DataSettings

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "datasets" / "CMU-skin-weak"


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "tissue", some_records())


@pytest.fixture
def load(folder, tmp_path):
    def load(**options):
        options = {"dataset": str(folder), "cache_dir": tmp_path / "cache", "patch_size": PATCH} | options
        return load_regions(DataSettings(**options))

    return load


def all_rows(data):
    return [row for split in data.splits.values() for row in split]


def test_rows_hold_slide_label_and_patch_names_in_row_major_order(load):
    data = load(validation_fraction=0)
    assert list(data.splits) == ["train", "test"]
    assert data.splits["train"].features == datasets.Features(
        {
            "slide_id": datasets.Value("string"),
            "patient_id": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["Fat", "Nerves", "Vessels"]),
            "patches": datasets.List(datasets.Value("string"), length=25),
        }
    )
    expected = [r for r in some_records() if r["split"] == "train"]
    assert len(data.splits["train"]) == len(expected)
    for row, wanted in zip(data.splits["train"], expected):
        names = {**wanted["context_info"], "2_2": wanted["image_name"]}
        assert row == {
            "slide_id": wanted["slide_id"],
            "patient_id": None,
            "label": ["Fat", "Nerves", "Vessels"].index(wanted["class"]),
            "patches": [names.get(key) for key in KEYS],
        }
    assert data.splits["train"][1]["patches"][1] is None  # 0_1 is missing there, 1_0 is not
    assert data.splits["train"][1]["patches"][5] is not None
    assert (data.name, data.dropped, data.dropped_file) == ("tissue", (), None)


def test_a_smaller_context_is_the_central_part_of_the_grid(load):
    whole, middle, center = (load(context_size=n).splits["train"] for n in (5, 3, 1))
    assert [row["patches"] for row in middle] == [
        [row["patches"][i] for i in (6, 7, 8, 11, 12, 13, 16, 17, 18)] for row in whole
    ]
    assert [row["patches"] for row in center] == [[row["patches"][12]] for row in whole]


def test_patches_are_the_pixels_of_the_files_also_after_pickling(load):
    data = load()
    source = pickle.loads(pickle.dumps(data.patches))
    name = data.splits["train"][0]["patches"][3]
    np.testing.assert_array_equal(source.read(name), pixels_of(name))


def test_data_sets_are_mapped_from_one_file_whatever_the_labels(load, tmp_path):
    load(seed=1)
    data = load(seed=2, classes=("Fat", "Vessels"))
    assert len(pickle.dumps(data.splits["train"])) < 10_000
    assert len(list((tmp_path / "cache").rglob("*.arrow"))) == 1
    assert data.splits["train"].cache_files[0]["filename"].startswith(str(tmp_path / "cache"))


def test_validation_shares_no_slide_with_train_and_is_reproducible(load):
    def slides(data):
        return {name: set(split["slide_id"]) for name, split in data.splits.items()}

    first, again = slides(load(validation_fraction=0.3, seed=5)), slides(load(validation_fraction=0.3, seed=5))
    assert first == again
    assert first["validation"]
    assert not first["validation"] & first["train"]
    assert first["validation"] | first["train"] == {f"s{i}" for i in range(6)}
    assert first["test"] == {"t0", "t1"}
    assert len({frozenset(slides(load(validation_fraction=0.3, seed=s))["validation"]) for s in range(5)}) > 1


def test_a_validation_split_of_the_data_is_kept(folder, load):
    rewrite(folder, [{**r, "split": "validation" if r["slide_id"] == "s4" else r["split"]} for r in some_records()])
    assert set(load(validation_fraction=0.3).splits["validation"]["slide_id"]) == {"s4"}


def test_one_slide_gives_no_validation_split_and_a_warning(tmp_path, load, caplog):
    only = write_folder(tmp_path / "one", [record("s0", i, "Fat" if i else "Nerves", "train") for i in range(3)])
    assert list(load(dataset=str(only)).splits) == ["train"]
    assert "no validation split" in caplog.text


def test_classes_are_restricted_merged_renamed_and_dropped(load, tmp_path):
    restricted = load(classes=("Nerves", "Fat"), validation_fraction=0)
    assert restricted.splits["train"].features["label"].names == ["Fat", "Nerves"]
    counts = Counter(r["class"] for r in some_records() if r["split"] == "train")
    assert Counter(restricted.splits["train"]["label"]) == {0: counts["Fat"], 1: counts["Nerves"]}

    mapping = tmp_path / "mapping.json"
    mapping.write_text(json.dumps({"Vessels": "Soft tissue", "Fat": "Soft tissue"}))
    merged = load(class_mapping=mapping, validation_fraction=0)
    assert merged.splits["train"].features["label"].names == ["Nerves", "Soft tissue"]
    assert Counter(merged.splits["train"]["label"]) == {0: counts["Nerves"], 1: counts["Fat"] + counts["Vessels"]}

    mapping.write_text(json.dumps({"Vessels": None}))
    dropped = load(class_mapping=mapping, validation_fraction=0)
    assert len(dropped.splits["train"]) == counts["Fat"] + counts["Nerves"]


def test_labels_follow_the_order_of_a_model(load):
    names = ("Vessels", "Muscle", "Nerves", "Fat")
    plain, ordered = load(), load(class_names=names)
    for split in plain.splits:
        assert [names[i] for i in ordered.splits[split]["label"]] == [
            ["Fat", "Nerves", "Vessels"][i] for i in plain.splits[split]["label"]
        ]


def test_the_number_of_regions_per_class_is_limited_in_every_split(load):
    data = load(max_regions_per_class=1, validation_fraction=0.4)
    for split in data.splits.values():
        assert set(Counter(split["label"]).values()) == {1}
    whole = load(validation_fraction=0.4)
    assert all(row in list(whole.splits[name]) for name in data.splits for row in data.splits[name])
    chosen = {
        tuple(tuple(row["patches"]) for row in load(max_regions_per_class=1, seed=s).splits["test"]) for s in range(6)
    }
    assert len(chosen) > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context_size": 2}, "--context_size must be 1, 3 or 5, got 2"),
        ({"validation_fraction": 1.0}, "--validation_fraction must be at least 0 and below 1, got 1.0"),
        ({"max_regions_per_class": 0}, "--max_regions_per_class must be at least 1, got 0"),
        ({"classes": ("Fat", "Fat")}, "--classes must be different class names"),
        ({"classes": ("Fat", "Bone")}, r"--classes names \['Bone'\], which the data do not have"),
        (
            {"class_names": ("Fat", "Bone")},
            r"Only the data have \['Nerves', 'Vessels'\], only the model has \['Bone'\]",
        ),
        ({"dataset": "no such/folder/here"}, "neither a file, nor a folder, nor a Hub id"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(load, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load(**options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"Bone": "Fat"}', r"class mapping names \['Bone'\]"),
        ('{"Fat": 3}', "maps 'Fat' to 3"),
        ("[1]", "must hold an object, got list"),
        ("{", "not valid JSON"),
    ],
)
def test_a_class_mapping_that_makes_no_sense_is_refused(load, tmp_path, content, message):
    (tmp_path / "mapping.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        load(class_mapping=tmp_path / "mapping.json")


def test_a_class_of_test_that_is_not_in_train_is_refused_or_left_out(folder, load):
    extra = [*some_records(), record("t2", 0, "Bone", "test")]
    write_folder(folder.with_name("new"), extra)
    with pytest.raises(ValueError, match=r"Record 22 of metadata\.json, field 'class': 'Bone' is a class of test"):
        load(dataset=str(folder.with_name("new")))
    data = load(dataset=str(folder.with_name("new")), skip_bad_records=True)
    assert [bad.place for bad in data.dropped] == ["record 22 of metadata.json"]
    assert len(data.splits["test"]) == 4


def test_data_for_evaluation_alone_need_no_train_split(folder, load):
    rewrite(folder, [r for r in some_records() if r["split"] == "test"])
    assert list(load().splits) == ["test"]


def test_slides_in_train_and_test_are_warned_of(folder, load, caplog):
    records = some_records()
    records[-1]["slide_id"] = "s3"
    rewrite(folder, records)
    load()
    assert "1 slides have regions in both train and test, the first is s3" in caplog.text


def with_patients(patient_of):
    return [{**r, "patient_id": patient_of(r["slide_id"])} for r in some_records()]


def test_patients_in_train_and_test_are_warned_of(folder, load, caplog):
    rewrite(folder, with_patients({"s3": "Ada", "t1": "Ada"}.get))
    assert set(load().splits["test"]["patient_id"]) == {"Ada", None}
    assert "1 patients have regions in both train and test, the first is Ada" in caplog.text
    assert "slides have regions" not in caplog.text


@pytest.mark.parametrize("seed", range(4))
def test_validation_is_cut_by_patient(folder, load, seed):
    rewrite(folder, with_patients(lambda slide: int(slide[1:]) // 2 if slide[0] == "s" else 9))
    data = load(validation_fraction=0.3, seed=seed)
    train, validation = (set(data.splits[name]["patient_id"]) for name in ("train", "validation"))
    assert validation
    assert not train & validation
    assert all(text.isdecimal() for text in train | validation)


def test_bad_records_are_left_out_counted_and_listed_in_a_file(folder, load, caplog):
    records = some_records()
    records[2]["split"] = "holdout"
    del records[5]["image_name"]
    rewrite(folder, records)
    broken = records[7]["context_info"]["3_1"]
    (folder / "images" / broken).write_bytes(b"no image")
    data = load(skip_bad_records=True)
    assert [(bad.place, bad.field) for bad in data.dropped] == [
        ("record 2 of metadata.json", "split"),
        ("record 5 of metadata.json", "image_name"),
        ("record 7 of metadata.json", "context_info.3_1"),
    ]
    assert len(all_rows(data)) == len(records) - 3
    listed = json.loads(data.dropped_file.read_text())
    assert [line["field"] for line in listed] == ["split", "image_name", "context_info.3_1"]
    assert "3 bad records were left out" in caplog.text
    assert load(skip_bad_records=True).dropped == data.dropped  # from the cache


def test_the_table_and_the_header_check_are_reused_until_the_data_change(folder, load, monkeypatch):
    first = load()
    with monkeypatch.context() as patched:
        patched.setattr(records_module, "build_table", None)  # would fail if it were called
        assert load().fingerprint == first.fingerprint
    rewrite(folder, some_records()[1:])
    second = load()
    assert second.fingerprint != first.fingerprint
    assert len(all_rows(second)) == len(all_rows(first)) - 1
    name = second.splits["train"][0]["patches"][0]
    Image.fromarray(pixels_of("other")[:4]).save(folder / "images" / name)
    with pytest.raises(ValueError, match="it is 8x4 px, expected 8x8"):
        load()


def test_a_mended_image_is_looked_at_again_and_none_while_nothing_changes(folder, load, monkeypatch):
    name = some_records()[4]["image_name"]
    good = (folder / "images" / name).read_bytes()
    (folder / "images" / name).write_bytes(bytes(len(good)))
    with pytest.raises(ValueError, match=r"Record 4 of metadata\.json, field 'image_name'"):
        load()
    opened = []
    check = records_module.bad_images

    def watched(*settings):
        opened.extend(settings[-1])
        return check(*settings)

    monkeypatch.setattr(records_module, "bad_images", watched)
    (folder / "images" / name).write_bytes(good)  # mended, with the size that it had
    load()
    assert opened.count(name) == 1
    load(seed=1)
    assert opened.count(name) == 1
    load(skip_bad_records=True)  # decodes
    load(seed=1, skip_bad_records=True)
    assert opened.count(name) == 2


def test_an_interrupted_build_leaves_no_table(load, tmp_path, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(records_module, "check_images", stop)
        with pytest.raises(KeyboardInterrupt):
            load()
    assert not list((tmp_path / "cache").rglob("*.arrow"))
    assert len(all_rows(load())) == len(some_records())


def _load_all(options):
    return all_rows(load_regions(DataSettings(**options)))


def test_processes_that_load_at_once_get_the_same_rows(folder, tmp_path):
    options = {"dataset": str(folder), "cache_dir": tmp_path / "cache", "patch_size": PATCH}
    with multiprocessing.get_context("fork").Pool(3) as pool:
        first, *others = pool.map(_load_all, [options] * 3, chunksize=1)
    assert len(first) == len(some_records())
    assert others == [first, first]


def test_the_cache_is_below_the_hugging_face_home_by_default(load):
    from huggingface_hub.constants import HF_HOME

    data = load(cache_dir=None)
    assert data.splits["train"].cache_files[0]["filename"].startswith(os.path.join(HF_HOME, "spider"))


@pytest.mark.skipif(not REAL.is_dir(), reason="the data set CMU-skin-weak is not beside the checkout")
def test_the_real_data_set_loads_with_its_missing_neighbours(tmp_path):
    data = load_regions(DataSettings(str(REAL), cache_dir=tmp_path))
    metadata = json.loads((REAL / "metadata.json").read_text())
    assert data.splits["test"].features["label"].names == ["Background", "Collagen", "Epidermis", "Keratin"]
    assert sum(len(split) for split in data.splits.values()) == len(metadata)
    test = [r for r in metadata if r["split"] == "test"]
    assert [sum(name is not None for name in row["patches"]) for row in data.splits["test"]] == [
        1 + len(r["context_info"]) for r in test
    ]
    name = data.splits["test"][0]["patches"][12]
    with Image.open(REAL / "images" / name) as image:
        np.testing.assert_array_equal(data.patches.read(name), np.array(image.convert("RGB")))


def test_a_data_set_of_bad_records_alone_is_refused(folder, load):
    rewrite(folder, [{**r, "split": "holdout"} for r in some_records()])
    with pytest.raises(ValueError, match="No region is left of tissue"):
        load(skip_bad_records=True)
    rewrite(folder, [{**r, "image_name": f"gone{i}.png"} for i, r in enumerate(some_records())])
    with pytest.raises(ValueError, match="No region is left of tissue"):
        load(skip_bad_records=True)
