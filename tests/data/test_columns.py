"""Columns of images and labels of every type that files hold: taken, or refused with the types that are."""

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_regions import content_of, expected, png_of_region, write_images

from spider_tools.data.columns import image_column, label_column

PATHS = ["images/x.png", "images/y.png", "images/z.png"]
LABELS = ["Fat", "Stroma", "Fat"]
BYTES = [png_of_region(path) for path in PATHS]
ALL = {"train": expected(*((label, "s", path) for label, path in zip(LABELS, PATHS)))}


def write_parquet(folder, image, label=None, name="train", **others):
    folder.mkdir(exist_ok=True)
    columns = {"image": image, "label": LABELS if label is None else label, "slide_id": ["s"] * len(image), **others}
    pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return folder


STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
IMAGES = {
    "bytes": pa.array(BYTES),
    "large bytes": pa.array(BYTES, pa.large_binary()),
    "structs": pa.array([{"bytes": data, "path": None} for data in BYTES], STRUCT),
    "structs with another path": pa.array([{"bytes": data, "path": "/gone/x.png"} for data in BYTES], STRUCT),
    "structs of paths": pa.array([{"bytes": None, "path": path} for path in PATHS], STRUCT),
    "structs of bytes alone": pa.array([{"bytes": data} for data in BYTES]),
    "paths": pa.array(PATHS),
    "large paths": pa.array(PATHS, pa.large_string()),
}


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("saved", ["parquet", "by datasets"])
def test_images_of_every_kind_of_column_are_taken(tmp_path, load_whole, kind, saved):
    folder = write_images(tmp_path / "d", *PATHS)
    if saved == "parquet":
        write_parquet(folder, IMAGES[kind])
    else:
        table = pa.table({"image": IMAGES[kind], "label": LABELS, "slide_id": ["s"] * 3})
        datasets.Dataset(datasets.table.InMemoryTable(table)).save_to_disk(str(folder))
    assert content_of(load_whole(folder)) == ALL


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            pa.array([1, 2, 3]),
            r"column 'image' of images \(--image_column\) holds int64. Expected an Image, encoded bytes",
        ),
        (pa.array([0.5, 1, 2]), "holds double|holds float64"),
        (pa.array([[1], [2], [3]]), "Expected an Image, encoded bytes"),
        (pa.array([{"data": b"x"}] * 3), "Expected an Image, encoded bytes"),
        (pa.array([{"bytes": "x", "path": "y"}] * 3), "Expected an Image, encoded bytes"),
    ],
)
def test_images_of_another_type_are_refused_with_the_types_that_are_taken(tmp_path, load_whole, image, message):
    with pytest.raises(ValueError, match=message):
        load_whole(write_parquet(tmp_path / "d", image))


@pytest.mark.parametrize("kind", [pa.int8(), pa.int32(), pa.int64(), pa.uint8(), pa.uint64()])
def test_integer_labels_are_names_with_one_warning(tmp_path, load_whole, caplog, kind):
    data = load_whole(write_parquet(tmp_path / "d", BYTES, pa.array([10, 0, 2], kind)))
    assert data.class_names == ["0", "2", "10"]  # by value, so that no model learns them in the order of a dictionary
    assert [data.class_names[label] for label in data.splits["train"]["label"]] == ["10", "0", "2"]
    said = [r.getMessage() for r in caplog.records if "numbers without names" in r.getMessage()]
    assert len(said) == 1
    assert "'label' are numbers without names: 0, 2, 10. They are taken as the names of the classes" in said[0]


def test_integer_labels_of_a_csv_file_are_names_too(tmp_path, load_whole, caplog):
    folder = write_images(tmp_path / "d", *PATHS)
    lines = [f"{path},{label}" for path, label in zip(PATHS, (1, 0, 1))]
    (folder / "labels.csv").write_text("\n".join(["path,label", *lines]))
    assert load_whole(folder).class_names == ["0", "1"]
    assert caplog.text.count("numbers without names: 0, 1") == 1
    (folder / "labels.csv").write_text(
        "\n".join(["path,label", *(f"{p},{n}" for p, n in zip(PATHS, ("01", "1", "00")))])
    )
    assert load_whole(folder).class_names == ["00", "01", "1"]  # texts, which no number would keep apart


LABELS_REFUSED = {
    "bool": ([True, False, True], "true"),
    "float": ([0.0, 1.0, 0.0], "0.0"),
}


@pytest.mark.parametrize("kind", LABELS_REFUSED)
@pytest.mark.parametrize("file", ["parquet", "csv"])
@pytest.mark.parametrize("named", [False, True])
def test_labels_of_another_type_are_refused_with_the_types_that_are_taken(tmp_path, load_whole, kind, file, named):
    folder = write_images(tmp_path / "d", *PATHS)
    values, text = LABELS_REFUSED[kind]
    if file == "parquet":
        write_parquet(folder, BYTES, pa.array(values))
    else:
        (folder / "labels.csv").write_text("\n".join(["path,label,slide_id", *(f"{path},{text},s" for path in PATHS)]))
    options = {"label_column": "label"} if named else {}
    with pytest.raises(
        ValueError, match=rf"'label' of labels \(--label_column\) holds {kind}.*names \(string\), a ClassLabel"
    ):
        load_whole(folder, **options)


@pytest.mark.parametrize("kind", ["list", "timestamp", "decimal"])
def test_labels_of_odd_types_are_refused_too(tmp_path, load_whole, kind):
    import decimal

    values = {
        "list": pa.array([["a"], ["b"], ["a"]]),
        "timestamp": pa.array([1, 2, 3], pa.timestamp("s")),
        "decimal": pa.array([decimal.Decimal("1.5")] * 3),
    }[kind]
    with pytest.raises(ValueError, match=r"names \(string\), a ClassLabel, or whole numbers"):
        load_whole(write_parquet(tmp_path / "d", BYTES, values))


def test_categories_of_pandas_are_names(tmp_path, load_whole):
    assert content_of(load_whole(write_parquet(tmp_path / "d", BYTES, pa.array(LABELS).dictionary_encode()))) == ALL


def test_a_null_among_integer_labels_is_a_bad_row(tmp_path, load_whole):
    folder = write_parquet(tmp_path / "d", BYTES, pa.array([0, None, 1]))
    with pytest.raises(ValueError, match="Row 1 of split 'train', field 'label': expected a value, got None"):
        load_whole(folder)
    assert load_whole(folder, skip_bad_records=True).class_names == ["0", "1"]


IMAGE, TEXT, NUMBER, FLOAT = (
    datasets.Image(),
    datasets.Value("string"),
    datasets.Value("int64"),
    datasets.Value("float32"),
)
CLASS, BINARY = datasets.ClassLabel(names=["a"]), datasets.Value("binary")


@pytest.mark.parametrize(
    ("features", "image", "label"),
    [
        ({"image": IMAGE, "label": NUMBER, "slide_id": TEXT}, "image", "label"),  # the slide is no label
        ({"image": IMAGE, "tissue": TEXT, "x": NUMBER, "y": NUMBER}, "image", "tissue"),
        ({"image": IMAGE, "kind": NUMBER}, "image", "kind"),
        ({"png": BINARY, "grade": CLASS, "x": NUMBER}, "png", "grade"),
        ({"path": TEXT, "class": TEXT, "scanner": TEXT}, "path", "class"),
        ({"File_Name": TEXT, "Label": TEXT, "scanner": TEXT}, "File_Name", "Label"),
        ({"image": IMAGE, "split": TEXT, "tissue": TEXT}, "image", "tissue"),
        ({"picture": IMAGE, "path": TEXT, "label": TEXT}, "picture", "label"),
    ],
)
def test_columns_are_found_by_name_and_type(features, image, label):
    assert image_column(features, None) == image
    assert label_column(features, None, (image, "slide_id")) == label


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"image": IMAGE, "a": TEXT, "b": TEXT}, "Name the column of labels with --label_column: .*'a', 'b'"),
        ({"image": IMAGE, "a": NUMBER, "b": NUMBER}, "Name the column of labels with --label_column: .*'a', 'b'"),
        ({"image": IMAGE, "score": FLOAT}, "Name the column of labels .*whole numbers"),
        ({"image": IMAGE, "slide_id": TEXT}, r"Name the column of labels with --label_column: \[\]"),
    ],
)
def test_labels_that_cannot_be_told_are_asked_for(features, message):
    with pytest.raises(ValueError, match=message):
        label_column(features, None, ("image", "slide_id"))


@pytest.mark.parametrize("names", [("Train", "Test"), ("data/TRAIN-00000-of-00001", "data/test-00000-of-00001")])
def test_parquet_files_are_named_for_splits_in_any_case(tmp_path, load_whole, names):
    (tmp_path / "d" / "data").mkdir(parents=True)
    for name, rows in zip(names, (slice(0, 2), slice(2, 3))):
        write_parquet(tmp_path / "d", BYTES[rows], pa.array(LABELS[rows]), name)
    assert {name: len(split) for name, split in load_whole(tmp_path / "d").splits.items()} == {"train": 2, "test": 1}


def test_a_parquet_file_that_would_be_left_out_is_refused(tmp_path, load_whole):
    write_parquet(tmp_path / "d", BYTES, name="train")
    write_parquet(tmp_path / "d", BYTES, name="extra")
    with pytest.raises(
        ValueError, match=r"ambiguous: train\.parquet is named for the split 'train', extra\.parquet for none"
    ):
        load_whole(tmp_path / "d")


def test_shards_of_an_unknown_split_are_refused(tmp_path, load_whole):
    write_parquet(tmp_path / "d", BYTES, name="holdout-00000-of-00001")
    with pytest.raises(ValueError, match=r"has the splits \['holdout'\], expected some of train, validation, test"):
        load_whole(tmp_path / "d")


def test_a_readme_may_say_which_file_is_what_if_it_names_all(tmp_path, load_whole):
    folder = write_parquet(tmp_path / "d", BYTES, name="first")
    write_parquet(folder, BYTES[:2], pa.array(LABELS[:2]), name="second")
    files = "configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: first.parquet\n"
    (folder / "README.md").write_text(f"---\n{files}---\n")
    with pytest.raises(ValueError, match=r"1 of 2 Parquet files are not among the data_files .* second\.parquet"):
        load_whole(folder)
    (folder / "README.md").write_text(f"---\n{files}  - split: test\n    path: second.parquet\n---\n")
    assert {name: len(split) for name, split in load_whole(folder).splits.items()} == {"train": 3, "test": 2}


def test_a_column_of_splits_divides_a_parquet_file(tmp_path, load_whole):
    folder = write_parquet(tmp_path / "d", BYTES, split=["train", "train", "Test"])
    assert {name: len(split) for name, split in load_whole(folder).splits.items()} == {"train": 2, "test": 1}


@pytest.mark.parametrize("kind", ["bytes", "paths"])
def test_images_beside_a_parquet_file_that_holds_its_own_are_warned_of(tmp_path, load_whole, caplog, kind):
    folder = write_parquet(write_images(tmp_path / "d", *PATHS), IMAGES[kind])
    assert content_of(load_whole(folder)) == ALL
    said = "is read from train.parquet: 3 files beside it are left out, the first is images/x.png"
    assert (said in caplog.text) == (kind == "bytes")
