"""Tables of paths and labels: CSV files and metadata as `datasets` knows it, against what lies in the folder."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_regions import content_of, expected, write_images

PATHS = [f"images/{name}.png" for name in ("train-1", "test-2", "c", "d")]
LABELS = ["Fat", "Stroma", "Fat", "Stroma"]
SLIDES = ["s1", "s1", "s2", "s2"]


def table(rows, delimiter=",", header=("path", "label", "slide_id")):
    return "".join(delimiter.join(map(str, row)) + "\n" for row in (header, *rows))


@pytest.fixture
def folder(tmp_path):
    return write_images(tmp_path / "d", *PATHS)


ROWS = list(zip(PATHS, LABELS, SLIDES))
ALL = expected(*((label, slide, path) for path, label, slide in ROWS))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize(("delimiter", "name"), [(",", "labels.csv"), (";", "labels.CSV"), ("\t", "labels.tsv")])
@pytest.mark.parametrize("header", ["path", "Image", "file_name", "filename", "image_path"])
def test_a_csv_file_of_paths_and_labels_is_a_data_set(folder, load_whole, delimiter, name, header, encoding):
    text = table(ROWS, delimiter, (header, "label", "slide_id"))
    (folder / name).write_text(text.replace("\n", "\r\n") + "\r\n\r\n", encoding=encoding)
    data = load_whole(folder)
    assert content_of(data) == {"train": ALL}


def test_columns_of_other_names_are_named(folder, load_whole):
    (folder / "list.csv").write_text(table(ROWS, header=("tile", "tissue", "case")))
    options = {"image_column": "tile", "label_column": "tissue", "slide_column": "case"}
    assert content_of(load_whole(folder, **options)) == {"train": ALL}
    with pytest.raises(ValueError, match=r"all images lie in one folder, 'images', and so are of one class\. Expected"):
        load_whole(folder)  # the columns have no usual names


def test_paths_may_be_absolute_within_the_folder_or_relative_to_the_list(folder, load_whole):
    (folder / "images" / "metadata.csv").write_text(
        table(
            [(path.removeprefix("images/"), label, slide) for path, label, slide in ROWS],
            header=("file_name", "label", "slide_id"),
        )
    )
    assert content_of(load_whole(folder)) == {"train": ALL}
    (folder / "images" / "metadata.csv").unlink()
    (folder / "labels.csv").write_text(table([(folder / path, label, slide) for path, label, slide in ROWS]))
    assert content_of(load_whole(folder)) == {"train": ALL}


@pytest.mark.parametrize(
    "values",
    [("train", "train", "test", "test"), ("Train", "training", "TEST", "eval"), ("train", "train", "test", "test ")],
)
def test_a_column_of_splits_divides_the_rows(folder, load_whole, values):
    rows = [(*row, value) for row, value in zip(ROWS, values)]
    (folder / "labels.csv").write_text(table(rows, header=("path", "label", "slide_id", "split")))
    found = content_of(load_whole(folder))
    assert {name: len(rows) for name, rows in found.items()} == {"train": 2, "test": 2}
    assert found["train"] | found["test"] == ALL


@pytest.mark.parametrize(("value", "said"), [("", "None"), ("fold3", "'fold3'")])
def test_a_row_of_no_split_is_refused(folder, load_whole, value, said):
    rows = [(*row, "train") for row in ROWS[:3]] + [(*ROWS[3], value)]
    (folder / "labels.csv").write_text(table(rows, header=("path", "label", "slide_id", "split")))
    with pytest.raises(ValueError, match=f"row 3 has the split {said}, expected train, validation or test"):
        load_whole(folder)


def test_lists_named_for_splits_are_the_splits(folder, load_whole):
    (folder / "Train.csv").write_text(table(ROWS[:2]))
    (folder / "labels_test.csv").write_text(table(ROWS[2:]))
    found = content_of(load_whole(folder))
    assert found == {
        "train": expected(*((label, slide, path) for path, label, slide in ROWS[:2])),
        "test": expected(*((label, slide, path) for path, label, slide in ROWS[2:])),
    }


def write_metadata(folder, kind, rows):
    names = ("file_name", "label", "slide_id")
    if kind == "csv":
        (folder / "metadata.csv").write_text(table(rows, header=names))
    elif kind == "jsonl":
        (folder / "metadata.jsonl").write_text("\n".join(json.dumps(dict(zip(names, row))) for row in rows))
    else:
        pq.write_table(pa.table(dict(zip(names, zip(*rows)))), folder / "metadata.parquet")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_metadata_lists_images_whatever_words_their_names_hold(folder, load_whole, kind):
    write_metadata(folder, kind, ROWS)
    assert content_of(load_whole(folder)) == {"train": ALL}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_images_that_metadata_do_not_list_are_refused(folder, load_whole, kind):
    write_metadata(folder, kind, ROWS[:3])
    with pytest.raises(
        ValueError, match=rf"1 of 4 images are not listed in metadata\.{kind}, the first is images/d\.png"
    ):
        load_whole(folder)


def test_metadata_of_each_split_lie_in_its_folder(tmp_path, load_whole):
    folder = write_images(tmp_path / "d", *(f"{split}/{i}.png" for split in ("Train", "val") for i in range(2)))
    for split in ("Train", "val"):
        write_metadata(folder / split, "csv", [(f"{i}.png", LABELS[i], SLIDES[i]) for i in range(2)])
    assert content_of(load_whole(folder)) == {
        name: expected(*((LABELS[i], SLIDES[i], f"{top}/{i}.png") for i in range(2)))
        for name, top in (("train", "Train"), ("validation", "val"))
    }


def test_another_list_may_be_a_selection_with_a_warning(folder, load_whole, caplog):
    (folder / "labels.csv").write_text(table(ROWS[:3]))
    assert len(load_whole(folder).splits["train"]) == 3
    assert "1 of 4 images are not listed in labels.csv, the first is images/d.png. They are left out." in caplog.text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("images/gone.png", "Fat", "s"), r"field 'image': there is no file 'images/gone\.png' in"),
        (("../outside.png", "Fat", "s"), r"the path '\.\./outside\.png' may leave the data set's folder"),
        (("/etc/hostname", "Fat", "s"), "the path '/etc/hostname' may leave"),
        (("images/train-1.png/../../../x.png", "Fat", "s"), "may leave the data set's folder"),
        (("", "Fat", "s"), "expected an image, got null"),
        (("images/e.png", "", "s"), "field 'label': expected a value, got None"),
        (("images/e.png", "Fat", ""), "field 'slide_id': expected a value, got None"),
    ],
)
def test_a_bad_row_is_named_or_left_out(folder, load_whole, row, message):
    write_images(folder, "images/e.png")
    (folder / "labels.csv").write_text(table([*ROWS, row]))
    with pytest.raises(ValueError, match=f"Row 4 of split 'train', {'' if 'field' in message else '.*'}{message}"):
        load_whole(folder)
    data = load_whole(folder, skip_bad_records=True)
    assert [bad.place for bad in data.dropped] == ["row 4 of split 'train'"]
    assert content_of(data) == {"train": ALL}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (table(ROWS) + "images/d.png,Fat\n", r"labels\.csv, line 6: 2 values, expected 3"),
        (table([*ROWS, ROWS[0]]), r"the image images/train-1\.png is listed twice"),
        (table(ROWS, header=("path", "label", "label")), "columns of the same name"),
        (table([("{'bytes': b'\\x89PNG'", "Fat", "s")]), "holds images as text .* Expected paths; save it as Parquet"),
        (table([("b'\\x89PNG'", "Fat", "s")]), "holds images as text"),
        (table(ROWS).encode() + b"images/\xff.png,Fat,s\n", "cannot be read as CSV in UTF-8"),
    ],
)
def test_a_list_that_cannot_be_read_is_named(folder, load_whole, text, message):
    (folder / "labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        load_whole(folder)


def test_a_csv_file_beside_class_folders_that_is_no_list_changes_nothing(tmp_path, load_whole, caplog):
    folder = write_images(tmp_path / "d", "a/1.png", "b/2.png")
    (folder / "checksums.csv").write_text("file,md5\na/1.png,0123\n")
    (folder / "patients.csv").write_text("patient,age\np1,50\n")
    assert load_whole(folder).class_names == ["a", "b"]
    assert "checksums.csv names images but no labels" in caplog.text
    assert "patients.csv" not in caplog.text


def test_a_jsonl_row_without_a_path_or_that_is_no_object_is_refused(folder, load_whole):
    lines = [json.dumps({"file_name": path, "label": label}) for path, label, _ in ROWS]
    (folder / "metadata.jsonl").write_text("\n".join([*lines, '{"label": "Fat"}']))
    with pytest.raises(ValueError, match=r"Row 4 of split 'train', field 'image': .*expected an image, got null"):
        load_whole(folder)
    for line, message in (("[1]", "line 5: expected an object, got list"), ("{", "line 5: Expecting")):
        (folder / "metadata.jsonl").write_text("\n".join([*lines, line]))
        with pytest.raises(ValueError, match=message):
            load_whole(folder)
