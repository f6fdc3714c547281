import json
import os
import tracemalloc

import pytest
from PIL import Image
from small_datasets import PATCH, pixels_of, record, rewrite, some_records, write_folder

from spider_tools.data.json_list import JsonWindow, iterate_json_list
from spider_tools.data.spider_layout import build_table
from spider_tools.data.tables import map_table


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "tissue", some_records())


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"


def build(folder, tmp_path, skip=False):
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    bad = build_table(folder, PATCH, skip, work, tmp_path / "headers.json")
    return map_table(work / "regions.arrow").to_pylist(), bad


def changed(field, value):
    def change(records):
        records[3][field] = value

    return change


def without(field):
    return lambda records: records[3].pop(field)


def context(key, value):
    def change(records):
        records[3]["context_info"][key] = value

    return change


def repeated(records):
    records[3]["image_name"] = records[1]["image_name"]


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        (without("slide_id"), "slide_id", "the key is missing"),
        (without("image_name"), "image_name", "the key is missing"),
        (without("class"), "class", "the key is missing"),
        (without("split"), "split", "the key is missing"),
        (without("context_info"), "context_info", "the key is missing"),
        (changed("slide_id", ""), "slide_id", "expected a non-empty string, got ''"),
        (changed("class", 7), "class", "expected a non-empty string, got 7"),
        (changed("split", "val"), "split", "unknown split 'val', expected one of train, validation, test"),
        (changed("context_info", ["a.png"]), "context_info", "expected an object, got list"),
        (changed("image_name", "gone.png"), "image_name", "there is no file 'gone.png' in images/"),
        (changed("image_name", "../metadata.json"), "image_name", "expected the bare name of a file"),
        (context("0_5", "a.png"), "context_info.0_5", "unknown key"),
        (context("2_2", "a.png"), "context_info.2_2", "unknown key"),
        (context("1_3", 5), "context_info.1_3", "expected a file name or null, got 5"),
        (context("1_3", "gone.png"), "context_info.1_3", "there is no file 'gone.png'"),
        (context("1_3", "/etc/passwd"), "context_info.1_3", "a path, absolute or with '..', may leave it"),
        (context("1_3", "..\\a.png"), "context_info.1_3", "expected the bare name"),
        (context("1_3", "a\0.png"), "context_info.1_3", "expected the bare name"),
        (context("1_3", ""), "context_info.1_3", "expected the bare name"),
        (changed("slide_id", "\ud800"), "slide_id", "expected text, got '\\ud800' with half a character"),
        (changed("class", "Fat\udc00"), "class", "expected text"),
        (changed("image_name", "\udfff.png"), "image_name", "expected text"),
        (context("1_3", "\ud83d.png"), "context_info.1_3", "expected text"),
        (context("\ud800", "a.png"), "context_info.\\ud800", "unknown key"),
        (context("1\x1b[31m", "a.png"), "context_info.1\\x1b[31m", "unknown key"),
        (changed("patient_id", ["p"]), "patient_id", "expected text, a whole number or null, got ['p']"),
        (changed("patient_id", True), "patient_id", "expected text, a whole number or null, got True"),
        (changed("patient_id", "\ud800"), "patient_id", "expected text"),
        (repeated, "image_name", "is the centre of record 1 already"),
    ],
)
def test_a_bad_record_is_named_with_its_field_or_left_out(folder, tmp_path, change, field, message):
    records = some_records()
    change(records)
    rewrite(folder, records)
    with pytest.raises(ValueError, match=r"Record 3 of metadata\.json, field ") as caught:
        build(folder, tmp_path)
    assert f"field {field!r}: " in str(caught.value)
    assert str(caught.value).encode("utf-8")  # can be printed and written
    assert message in str(caught.value)
    rows, bad = build(folder, tmp_path, skip=True)
    assert [(b.place, b.field) for b in bad] == [("record 3 of metadata.json", field)]
    assert [row["record"] for row in rows] == [n for n in range(len(records)) if n != 3]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "there is no file"),
        (lambda path: path.write_bytes(b""), "cannot be read: cannot identify image file"),
        (lambda path: path.write_bytes(path.read_bytes()[:20]), "cannot be read"),
        (lambda path: Image.fromarray(pixels_of("x", 8, 9)).save(path), "it is 9x8 px, expected 8x8 px"),
        (lambda path: Image.new("F", (8, 8)).save(path, "TIFF"), "its mode 'F' has no fixed range"),
        (lambda path: (path.unlink(), path.mkdir()), "is a directory, expected a regular file"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "is a pipe, expected a regular file"),
        (lambda path: path.write_bytes(EPS), "cannot be read: cannot identify image file"),
        (lambda path: (path.unlink(), path.symlink_to("/etc/hostname")), "a symbolic link that leaves"),
        (lambda path: (path.unlink(), path.symlink_to("../../outside.png")), "a symbolic link that leaves"),
    ],
)
def test_a_bad_image_is_named_with_its_record_and_field(folder, tmp_path, spoil, message):
    Image.fromarray(pixels_of("x")).save(tmp_path / "outside.png")
    # A patch of the row that records 3 and 4 share: 0_3 of the latter, 4_3 of the former.
    shared = some_records()[3]["context_info"]["4_3"]
    assert shared == some_records()[4]["context_info"]["0_3"]
    spoil(folder / "images" / shared)
    with pytest.raises(
        ValueError, match=r"Record 3 of metadata.json, field 'context_info.4_3'.* 1 more are bad"
    ) as caught:
        build(folder, tmp_path)
    assert message in str(caught.value)
    rows, bad = build(folder, tmp_path, skip=True)
    assert [(b.place, b.field) for b in bad] == [
        ("record 3 of metadata.json", "context_info.4_3"),
        ("record 4 of metadata.json", "context_info.0_3"),
    ]
    assert len(rows) == len(some_records()) - 2


@pytest.mark.parametrize("field", ["slide_id", "class", "context_info"])
def test_a_number_longer_than_python_converts_is_named_or_left_out(folder, tmp_path, field):
    records = some_records()
    records[3][field] = "LONG"
    (folder / "metadata.json").write_text(json.dumps(records).replace('"LONG"', "-" + "9" * 5000))
    with pytest.raises(ValueError, match=rf"Record 3 of metadata\.json, field '{field}': expected .*[Nn]umber"):
        build(folder, tmp_path)
    rows, bad = build(folder, tmp_path, skip=True)
    assert [b.field for b in bad] == [field]
    assert len(rows) == len(records) - 1


def test_whole_characters_beyond_the_first_plane_are_text(folder, tmp_path):
    records = some_records()
    records[3]["class"] = "\U0001f9ec"  # json writes it as two surrogates, a pair
    rewrite(folder, records)
    assert build(folder, tmp_path)[0][3]["class"] == "\U0001f9ec"


def test_a_link_within_the_data_set_is_followed(folder, tmp_path):
    path = folder / "images" / some_records()[3]["image_name"]
    path.rename(folder / "elsewhere.png")
    path.symlink_to("../elsewhere.png")
    assert len(build(folder, tmp_path)[0]) == len(some_records())


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ('"slide_id": "s1"', '"slide_id": "s1", "slide_id": "s1"', "slide_id"),
        ('"1_3": "s1_0008.png"', '"1_3": "s1_0008.png", "1_3": "s1_0009.png"', "context_info.1_3"),
    ],
)
def test_a_key_that_appears_twice_is_refused(folder, tmp_path, old, new, field):
    text = json.dumps(some_records())
    assert old in text
    (folder / "metadata.json").write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=f"Record 2 of metadata.json, field '{field}': the key appears twice"):
        build(folder, tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected '\\['"),
        ('{"a": 1}', "expected '\\[', got '{'"),
        ("[]", "is an empty list"),
        ('[{"a": 1}', "expected ',' or '\\]', got the end of the file, at character 9"),
        ('[{"a": 1}, {"b": ', "Expecting value, at character 17"),
        ('[{"a": 1} {"b": 2}]', "expected ',' or '\\]', got '{', at character 10"),
        ('[{"a": 1},]', "Expecting value, at character 10"),
        ('[{"a": 1}] x', "unexpected text after the end"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_file_that_is_no_list_of_records_is_refused(tmp_path, text, message):
    path = tmp_path / "metadata.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        list(iterate_json_list(path))


def test_text_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "metadata.json").write_bytes(b'[{"class": "Kaposi\x92s sarcoma"}]')
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        list(iterate_json_list(tmp_path / "metadata.json"))


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_reading_in_pieces_gives_what_json_gives(tmp_path, monkeypatch, chunk):
    values = [*some_records(), {"class": "Kaposi\u2019s sarcoma", "x": [1.5, None, {"y": "]},["}]}, {}]
    (tmp_path / "metadata.json").write_text("\ufeff \n" + json.dumps(values, indent=2, ensure_ascii=False) + "\n\n")
    monkeypatch.setattr(JsonWindow, "CHUNK", chunk)
    assert list(iterate_json_list(tmp_path / "metadata.json")) == values


def test_an_error_far_into_the_file_is_placed_where_json_places_it(tmp_path, monkeypatch):
    text = json.dumps(some_records()).replace('"s5"', "s5", 1)
    (tmp_path / "metadata.json").write_text(text)
    monkeypatch.setattr(JsonWindow, "CHUNK", 100)
    with pytest.raises(json.JSONDecodeError) as expected:
        json.loads(text)
    with pytest.raises(ValueError, match=f"Expecting value, at character {expected.value.pos}"):
        list(iterate_json_list(tmp_path / "metadata.json"))


def test_memory_does_not_grow_with_the_number_of_records(tmp_path, monkeypatch):
    monkeypatch.setattr(JsonWindow, "CHUNK", 20_000)

    def peak(count):
        path = tmp_path / "metadata.json"
        path.write_text(json.dumps([record("s", number, "Fat", "train") for number in range(count)]))
        tracemalloc.start()
        assert sum(1 for _ in iterate_json_list(path)) == count
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    assert peak(4000) < 1.5 * peak(400)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_named(folder, tmp_path):
    name = some_records()[3]["image_name"]
    (folder / "images" / name).chmod(0)
    with pytest.raises(ValueError, match=f"Record 3 .*'{name}' cannot be read: .*Permission denied"):
        build(folder, tmp_path)


def test_many_images_are_checked_in_several_processes(tmp_path, monkeypatch):
    from spider_tools.data import caches

    monkeypatch.setattr(caches, "_RANGE", 50)
    folder = write_folder(tmp_path / "tissue", some_records())
    names = sorted(path.name for path in (folder / "images").iterdir())
    assert len(names) > 200
    for name in (names[3], names[170]):
        (folder / "images" / name).write_bytes(b"no image")
    _, bad = build(folder, tmp_path, skip=True)
    assert {b.problem.split("'")[1] for b in bad} == {names[3], names[170]}
