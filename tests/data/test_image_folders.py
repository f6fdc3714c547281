"""Folders of images: split, class and slide come of the folders alone, and no image is lost without a word."""

import os

import pytest
from small_regions import content_of, expected, write_images

CLASSES = ("benign", "malignant")
ODD_NAMES = ("roi-train-3", "test_1", "dev", "eval 2", "valid", "7")


@pytest.mark.parametrize("name", ODD_NAMES)
def test_words_inside_file_names_are_no_splits(tmp_path, load_whole, name):
    paths = [f"{c}/{stem}.png" for c in CLASSES for stem in (name, "a", "b")]
    data = load_whole(write_images(tmp_path / "d", *paths))
    assert list(data.splits) == ["train"]
    assert len(data.splits["train"]) == len(paths)
    assert data.class_names == list(CLASSES)


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", "validation", "test"),
        ("Train", "Val", "Test"),
        ("TRAIN", "DEV", "TEST"),
        ("training", "valid", "testing"),
        ("Training_Set", "validation-set", "TestData"),
        ("trainset", "valset", "testset"),
    ],
)
def test_folders_named_for_splits_are_the_splits_in_any_case(tmp_path, load_whole, train, validation, test):
    splits = {"train": train, "validation": validation, "test": test}
    paths = {name: [f"{top}/{c}/train{i}.png" for c in CLASSES for i in range(2)] for name, top in splits.items()}
    data = load_whole(write_images(tmp_path / "d", *(path for own in paths.values() for path in own)))
    found = content_of(data)
    assert set(found) == set(splits)
    for name, own in paths.items():
        assert {row[0::2] for row in found[name]} == {
            r[0::2] for r in expected(*((p.split("/")[1], "", p) for p in own))
        }


def test_a_folder_around_the_splits_is_looked_into(tmp_path, load_whole):
    paths = [f"archive/{split}/{c}/1.png" for split in ("Train", "Test") for c in CLASSES]
    data = load_whole(write_images(tmp_path / "d", *paths))
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 2, "test": 2}


@pytest.mark.parametrize("top", [("",), ("train/", "test/")])
def test_a_level_of_patients_is_read_as_slides(tmp_path, load_whole, caplog, top):
    rows = [(c, f"p{i}", f"{t}{c}/p{i}/{j}.png") for t in top for c in CLASSES for i in range(3) for j in range(2)]
    data = load_whole(write_images(tmp_path / "d", *(row[2] for row in rows)))
    assert data.class_names == list(CLASSES)
    assert set().union(*content_of(data).values()) == expected(*rows)
    assert "counts as its own slide" not in caplog.text
    assert ("slides have regions in both train and test" in caplog.text) == (len(top) == 2)


def test_patients_stay_together_where_validation_is_cut(tmp_path, load_whole):
    paths = [f"{c}/{c}{i}/{j}.png" for c in CLASSES for i in range(4) for j in range(3)]
    data = load_whole(write_images(tmp_path / "d", *paths), validation_fraction=0.25)
    train, validation = (set(data.splits[name]["slide_id"]) for name in ("train", "validation"))
    assert validation
    assert not train & validation


def test_more_classes_than_slides_may_be_upside_down(tmp_path, load_whole, caplog):
    write_images(tmp_path / "d", *(f"patient{i}/{c}/1.png" for c in CLASSES for i in range(5)))
    load_whole(tmp_path / "d")
    assert "5 classes (patient0, ...) with 2 slides (benign, ...). If the slides are the outer folders" in caplog.text


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["a/1.png", "b/2.png", "3.png"], "the image 3.png lies in no folder of a class"),
        (["train/a/1.png", "train/2.png"], "the image train/2.png lies in no folder of a class"),
        (["train/1.png", "test/2.png"], "lies in no folder of a class"),
        (["1.png", "2.png"], r"the image 1\.png lies in no folder of a class"),
        (["a/p/1.png", "b/2.png"], "ambiguous: b/2.png lies in its class's folder, a/p/1.png in a folder within it"),
        (["train/a/p/1.png", "test/a/2.png"], "ambiguous: test/a/2.png"),
        (["a/p/s/1.png", "b/p/s/2.png"], r"the image b/p/s/2\.png lies in too many folders"),
        (["train/a/1.png", "b/1.png"], r"\['train'\] are named for splits, \['b'\] are not"),
        (["fold_1_train/a/1.png", "fold_1_test/a/2.png"], "are named for splits"),
        (["train/a/1.png", "Training/b/2.png"], r"several folders for the split 'train': \['Training', 'train'\]"),
        (["val/a/1.png", "dev/b/2.png", "train/a/1.png"], "several folders for the split 'validation'"),
        (["a/train/1.png", "a/test/1.png", "b/train/1.png"], r"has the splits \['test', 'train'\] below the classes"),
        (["a/1.png", "a/2.png"], "all images lie in one folder, 'a', and so are of one class"),
        (["train/a/1.png", "test/a/2.png"], "all images lie in one folder, 'a'"),
        (["pictures/a/1.png", "pictures/b/2.png"], r"its only folder 'pictures' may be a class, or hold the classes"),
    ],
)
def test_a_layout_that_is_ambiguous_or_unknown_is_refused_in_words(tmp_path, load_whole, paths, message):
    folder = write_images(tmp_path / "d", *paths)
    with pytest.raises(ValueError, match=message) as caught:
        load_whole(folder)
    assert str(folder) in str(caught.value)


def test_hidden_files_and_folders_are_no_images(tmp_path, load_whole, caplog):
    folder = write_images(tmp_path / "d", "a/1.png", "b/2.png")
    for path in ("a/._1.png", ".cache/x/3.png", "b/.DS_Store", "a/Thumbs.db", "._b.png", "__MACOSX/a/._1.png"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"\0\5\x16\7")
    assert len(load_whole(folder).splits["train"]) == 2
    assert "are no images" not in caplog.text


def test_files_that_cannot_be_opened_as_images_are_warned_of(tmp_path, load_whole, caplog):
    folder = write_images(tmp_path / "d", "a/1.png", "b/2.png")
    for name in ("a/3.jxl", "b/4.npy", "README.md"):
        (folder / name).write_bytes(b"x")
    load_whole(folder)
    assert "2 files are no images that can be opened and are left out, the first is a/3.jxl" in caplog.text


def test_a_class_that_is_a_link_to_a_folder_is_refused(tmp_path, load_whole):
    folder = write_images(tmp_path / "d", "a/1.png", "b/2.png")
    write_images(tmp_path / "elsewhere", "3.png")
    (folder / "c").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="c is a symbolic link to a folder, which is not followed"):
        load_whole(folder)


def test_images_that_are_links_are_read_and_count_with_what_they_lead_to(tmp_path, load_whole):
    write_images(tmp_path / "pool", "1.png", "2.png")
    for name, target in (("a/x.png", "1.png"), ("b/y.png", "2.png")):
        (tmp_path / "d" / name).parent.mkdir(parents=True)
        (tmp_path / "d" / name).symlink_to(tmp_path / "pool" / target)
    data = load_whole(tmp_path / "d")
    assert content_of(data)["train"] == expected(("a", "train_000000", "1.png"), ("b", "train_000001", "2.png"))
    os.replace(tmp_path / "pool" / "1.png", tmp_path / "pool" / "2.png")
    write_images(tmp_path / "pool", "1.png")
    assert load_whole(tmp_path / "d").fingerprint != data.fingerprint


def test_every_ending_that_pillow_opens_counts_in_any_case(tmp_path, load_whole):
    from small_regions import image_of

    for i, ending in enumerate(("PNG", "tif", "TIFF", "bmp", "webp", "jpg", "JPEG", "ppm")):
        (tmp_path / "d" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        image_of(ending).save(tmp_path / "d" / "ab"[i % 2] / f"{i}.{ending}")
    assert len(load_whole(tmp_path / "d").splits["train"]) == 8
