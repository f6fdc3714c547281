"""DICOM: each series of a folder is one slide, whatever its files are called, and none vanishes."""

import struct

import numpy as np
import openslide
import pytest
from slide_files import dicom_element, dicom_sequence, draw_slide, means_of_squares, write_dicom

from spider_tools.cohorts.many import segment_slides
from spider_tools.slide_files.dicom import files_of_series, group_by_series, read_series
from spider_tools.slide_files.reader import open_slide
from spider_tools.slide_sources.finding import find_slides

pytestmark = [pytest.mark.usefixtures("fresh_accelerator"), pytest.mark.slow]
ANNOTATIONS = "1.2.840.10008.5.1.4.1.1.91.1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two slides, one of two levels, whose files lie among each other, and annotations of one of them."""
    folder = tmp_path_factory.mktemp("dicom") / "case 7"
    folder.mkdir()
    pixels = [draw_slide(300, 220, seed=seed) for seed in (1, 2)]
    write_dicom(folder / "1.2.77.1.dcm", pixels[0], "1.2.77", series_number=3)
    write_dicom(folder / "1.2.88.1.dcm", pixels[1], "1.2.88", series_number=11)
    write_dicom(folder / "1.2.99.1.dcm", means_of_squares(pixels[0], 4), "1.2.77", 2.0, series_number=3)
    write_dicom(folder / "0.DCM", pixels[1], "1.2.66", series_number=4, sop_class=ANNOTATIONS)
    return folder


def names_of(tasks):
    return [(task.name, task.path.name) for task in tasks]


def test_a_folder_of_two_series_is_two_slides(folder, caplog):
    found = find_slides([str(folder)])
    assert names_of(found) == [("case 7-series-3", "1.2.77.1.dcm"), ("case 7-series-11", "1.2.88.1.dcm")]
    assert "the DICOM series of ['0.DCM'] hold no slides" in caplog.text


def test_the_series_is_what_openslide_says(folder):
    for path in folder.glob("*.dcm"):
        with openslide.OpenSlide(path) as slide:
            assert read_series(path).uid == slide.properties["dicom.SeriesInstanceUID"]


def test_both_slides_are_classified_and_the_bar_names_them(folder, settings, capsys):
    results = segment_slides([folder], settings)
    assert [(result.name, result.status) for result in results] == [
        ("case 7-series-3", "done"),
        ("case 7-series-11", "done"),
    ]
    bars = capsys.readouterr().err
    assert "case 7-series-3: " in bars
    assert "case 7-series-11: " in bars
    assert "1.2.77" not in bars


def test_all_levels_of_a_series_are_found_and_no_others(folder):
    path = folder / "1.2.77.1.dcm"
    assert [level.size for level in open_slide(path).levels] == [(300, 220), (75, 55)]
    assert [file.name for file in files_of_series(path)] == ["1.2.77.1.dcm", "1.2.99.1.dcm"]


def test_one_series_has_the_name_of_its_folder(tmp_path):
    pixels = draw_slide(128, 128)
    for number in (1, 2):
        write_dicom(tmp_path / f"{number}.dcm", means_of_squares(pixels, number), "1.2.5", series_number=1)
    assert names_of(find_slides([str(tmp_path)])) == [(tmp_path.name, "1.dcm")]


@pytest.mark.parametrize("numbers", [(None, None), (2, 2), (1, None)])
def test_series_that_no_number_tells_apart_have_their_uid_as_name(tmp_path, numbers):
    for series, number in zip(("1.2.5", "1.2.6"), numbers):
        write_dicom(tmp_path / f"{series}.dcm", draw_slide(128, 128), series, series_number=number)
    assert [task.name for task in find_slides([str(tmp_path)])] == [f"{tmp_path.name}-1.2.5", f"{tmp_path.name}-1.2.6"]


def test_files_that_say_no_series_are_not_lost(folder, tmp_path):
    write_dicom(tmp_path / "b.dcm", draw_slide(128, 128), "1.2.5", series_number=1)
    (tmp_path / "a.dcm").write_bytes(b"broken")
    assert names_of(find_slides([str(tmp_path)])) == [
        (f"{tmp_path.name}-unnamed-series", "a.dcm"),
        (f"{tmp_path.name}-1.2.5", "b.dcm"),
    ]


def test_files_of_one_series_that_a_shell_lists_are_one_slide(folder, caplog):
    listed = sorted(str(path) for path in folder.glob("*.dcm"))
    assert [task.path.name for task in find_slides(listed)] == ["1.2.77.1.dcm", "1.2.88.1.dcm"]
    assert "1 DICOM files belong to slides that others of them name already" in caplog.text


def header(elements, syntax="1.2.840.10008.1.2.1"):
    meta = dicom_element(0x0002, 0x0010, "UI", syntax)
    return bytes(128) + b"DICM" + dicom_element(0x0002, 0x0000, "UL", struct.pack("<I", len(meta))) + meta + elements


def implicit(group, number, value):
    return struct.pack("<HHI", group, number, len(value)) + value


def big(group, number, kind, value):
    return struct.pack(">HH2sH", group, number, kind, len(value)) + value


INNER = dicom_sequence(0x0008, 0x1199, dicom_element(0x0020, 0x000E, "UI", "9.9"), known_length=False)
HEADERS = {
    "explicit": header(dicom_element(0x0020, 0x000E, "UI", "1.2.3")),
    "a sequence in a sequence": header(
        dicom_sequence(0x0008, 0x1115, INNER, known_length=False) + dicom_element(0x0020, 0x000E, "UI", "1.2.3")
    ),
    "a sequence of known length": header(
        dicom_sequence(0x0008, 0x1115, INNER) + dicom_element(0x0020, 0x000E, "UI", "1.2.3")
    ),
    "implicit": header(implicit(8, 5, b"ISO_IR 192") + implicit(0x20, 0xE, b"1.2.3\0"), "1.2.840.10008.1.2"),
    "big endian": header(big(8, 5, b"CS", b"ISO_IR 6") + big(0x20, 0xE, b"UI", b"1.2.3\0"), "1.2.840.10008.1.2.2"),
}


@pytest.mark.parametrize("way", HEADERS)
def test_the_series_is_found_however_the_header_is_written(tmp_path, way):
    (tmp_path / "a.dcm").write_bytes(HEADERS[way])
    assert read_series(tmp_path / "a.dcm").uid == "1.2.3"


@pytest.mark.parametrize("content", [b"", b"DICM", bytes(128) + b"DICM", bytes(128) + b"DICM\2\0\0\0UL"])
def test_what_is_no_dicom_has_no_series(tmp_path, content):
    (tmp_path / "a.dcm").write_bytes(content)
    assert read_series(tmp_path / "a.dcm") is None
    assert read_series(tmp_path / "absent.dcm") is None


@pytest.mark.parametrize("way", HEADERS)
def test_a_header_that_is_cut_off_anywhere_ends_in_a_series_or_in_none(tmp_path, way):
    for length in range(len(HEADERS[way])):
        path = tmp_path / f"{length}.dcm"
        path.write_bytes(HEADERS[way][:length])
        series = read_series(path)
        assert series is None or "1.2.3".startswith(series.uid)


def test_damaged_headers_come_to_an_end(tmp_path):
    rng = np.random.default_rng(0)
    whole = np.frombuffer(HEADERS["a sequence in a sequence"], dtype=np.uint8)
    for number in range(300):
        damaged = whole.copy()
        places = rng.integers(132, len(damaged), 4)
        damaged[places] = rng.integers(0, 256, 4)
        (tmp_path / f"{number}.dcm").write_bytes(damaged.tobytes())
        read_series(tmp_path / f"{number}.dcm")
    assert sum(map(len, group_by_series(sorted(tmp_path.iterdir())).values())) == 300


def test_an_identifier_of_absurd_length_is_not_read(tmp_path):
    path = write_dicom(tmp_path / "s.dcm", draw_slide(128, 128), "1.2.3")
    content = path.read_bytes()
    start = content.index(dicom_element(0x0020, 0x000E, "UI", "1.2.3"))
    wide = struct.pack("<HH", 0x0020, 0x000E) + b"UT\0\0" + struct.pack("<I", 0x7FFFFFFF)
    path.write_bytes(content[:start] + wide + content[start + 8 :])
    assert read_series(path) is None
