"""What is left behind: annotations where QuPath has them, a table, a sheet, and nothing outside of the folder."""

import csv
import io
import json
import uuid

import numpy as np
import pytest
from made_up_patches import table_of
from PIL import Image

from spider_tools.annotations.reading import read_annotations
from spider_tools.retrieval.contact_sheet import COLUMNS, MARGIN, MOST, TEXT_HEIGHT, contact_sheet
from spider_tools.retrieval.finding import Finding, write_finding
from spider_tools.retrieval.result_folder import SlideFacts
from spider_tools.retrieval.settings import FindingSettings
from spider_tools.slides.colors import class_colors
from spider_tools.suggestions import is_suggestion

CLASSES = ["Fat", "Nerves"]


def facts(origin=(0, 0)):
    return SlideFacts("s.tif", {"size": [900, 800]}, (900, 800), (0.5, 0.5), (1.0, 1.0), origin, 28)


def made(slides=("s", "t", "s"), names=("Fat", "Fat", "Nerves"), places=None, known=None):
    places = places if places is not None else [(131.5, 57.0), (0.0, 28.0), (300.0, 400.25)]
    return Finding(
        patches=table_of(list(slides), places, classes=["Fat"] * len(slides), probabilities=[0.75] * len(slides)),
        scores=np.linspace(0.9, 0.1, len(slides)),
        measure="Similarity",
        names=list(names),
        slides=known if known is not None else {"s": facts((131, 57)), "t": facts()},
        class_names=CLASSES,
        asked={"command": "query"},
    )


@pytest.fixture
def settings(tmp_path):
    return FindingSettings(output_dir=tmp_path / "out")


def features(folder, slide):
    return json.loads((folder / f"{slide}.geojson").read_text())["features"]


def test_squares_lie_where_qupath_counts_from(settings):
    write_finding(made(), settings)
    first, third = features(settings.output_dir, "s")
    # The slide was scanned from x 131, y 57 on: 131.5 - 131, 57 - 57, and 28 px further.
    assert first["geometry"] == {
        "type": "Polygon",
        "coordinates": [[[0.5, 0.0], [28.5, 0.0], [28.5, 28.0], [0.5, 28.0], [0.5, 0.0]]],
    }
    assert third["geometry"]["coordinates"][0][0] == [169.0, 343.25]
    [second] = features(settings.output_dir, "t")
    assert second["geometry"]["coordinates"][0][2] == [28.0, 56.0]


def test_squares_are_open_annotations_of_a_suggested_class_with_score_and_rank(settings):
    write_finding(made(), settings)
    first, third = features(settings.output_dir, "s")
    assert first["properties"] == {
        "objectType": "annotation",
        "classification": {"name": "Suggested: Fat", "color": list(class_colors(CLASSES)["Fat"])},
        "isLocked": False,
        "measurements": {"Similarity": 0.9, "Rank": 1},
    }
    assert third["properties"]["measurements"] == {"Similarity": 0.1, "Rank": 3}
    assert third["properties"]["classification"]["name"] == "Suggested: Nerves"
    assert uuid.UUID(first["id"]) != uuid.UUID(third["id"])


def test_what_was_written_is_read_back_at_its_place_as_a_suggestion(settings):
    write_finding(made(), settings)
    read = read_annotations(settings.output_dir / "s.geojson", facts((131, 57)).frame("s"))
    assert [one.shape.bounds for one in read.annotations] == [(131.5, 57, 159.5, 85), (300, 400.25, 328, 428.25)]
    assert all(is_suggestion(one.class_name) for one in read.annotations)


def test_the_table_has_a_row_per_patch(settings):
    write_finding(made(places=[(131.5, 57.0), None, (300.0, 400.25)]), settings)
    rows = list(csv.DictReader(io.StringIO((settings.output_dir / "results.csv").read_text())))
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    assert [row["slide"] for row in rows] == ["s", "t", "s"]
    assert [(row["x_level0"], row["y_level0"], row["width_level0"]) for row in rows] == [
        ("131.5", "57", "28"),
        ("", "", ""),
        ("300", "400.25", "28"),
    ]
    assert [row["similarity"] for row in rows] == ["0.900000", "0.500000", "0.100000"]
    assert [(row["suggested"], row["class"], row["probability"]) for row in rows][2] == ("Nerves", "Fat", "0.750000")
    assert [row["patch"] for row in rows] == ["", "p1", ""]
    assert not features(settings.output_dir, "t"), "a patch of a data set has no place on a slide"


def test_names_that_a_spreadsheet_would_run_are_escaped(settings):
    name = '=HYPERLINK("http://x")'
    write_finding(made(slides=("+s",) * 3, names=(name,) * 3, known={"+s": facts()}), settings)
    for row in csv.DictReader(io.StringIO((settings.output_dir / "results.csv").read_text())):
        assert (row["suggested"], row["slide"]) == (f"'{name}", "'+s")


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "a\\b", "..", "", ".hidden", "con", "a\nb", "x" * 300])
def test_no_name_of_a_slide_leaves_the_folder(settings, name, tmp_path):
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"The index gives the name .* for its folder of results"):
        write_finding(made(slides=(name,) * 3, known={name: facts()}), settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_folder_with_other_files_is_refused(settings):
    settings.output_dir.mkdir()
    (settings.output_dir / "thesis.docx").write_text("of years")
    with pytest.raises(ValueError, match="holds other files: give a new or an empty folder"):
        write_finding(made(), settings)
    assert [path.name for path in settings.output_dir.iterdir()] == ["thesis.docx"]


def test_a_second_finding_replaces_the_files_of_the_first_and_no_others(settings):
    write_finding(made(), settings)
    (settings.output_dir / "checked.geojson").write_text("by hand")
    write_finding(made(slides=("t",) * 3), settings)
    assert {path.name for path in settings.output_dir.iterdir()} == {
        *("t.geojson", "results.csv", "finding.json", "checked.geojson", ".lock")
    }


def test_a_finding_that_someone_has_worked_on_is_not_replaced(settings):
    write_finding(made(), settings)
    path = settings.output_dir / "s.geojson"
    path.write_text(path.read_text().replace("Suggested: Fat", "Fat"))
    with pytest.raises(ValueError, match=r"s\.geojson has changed since it was written: .*give another folder"):
        write_finding(made(), settings)
    assert "Suggested: Fat" not in path.read_text()
    path.unlink()
    write_finding(made(), settings)
    assert "Suggested: Fat" in path.read_text()


def test_a_marker_cannot_have_other_files_removed(settings, tmp_path):
    (tmp_path / "precious").write_text("x")
    settings.output_dir.mkdir()
    (settings.output_dir / "finding.json").write_text(json.dumps({"files": {"../precious": "0"}}))
    with pytest.raises(ValueError, match="does not list the files of a finding"):
        write_finding(made(), settings)
    assert (tmp_path / "precious").exists()


def test_nothing_found_is_written_too(settings):
    write_finding(made(slides=(), names=(), places=[]), settings)
    assert (settings.output_dir / "results.csv").read_text().count("\n") == 1
    assert {path.suffix for path in settings.output_dir.iterdir()} == {".csv", ".json", ""}


def patches(count, side):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(count)]


def opened(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


@pytest.mark.parametrize(("count", "side"), [(1, 224), (13, 100), (25, 64)])
def test_a_sheet_shows_every_patch_over_its_caption(count, side):
    pixels = patches(count, side)
    sheet = opened(contact_sheet(pixels, [str(rank) for rank in range(1, count + 1)]))
    columns, rows = min(count, COLUMNS), -(-count // COLUMNS)
    step_x, step_y = side + MARGIN, side + MARGIN + TEXT_HEIGHT
    assert sheet.shape == (MARGIN + rows * step_y, MARGIN + columns * step_x, 3)
    for number, patch in enumerate(pixels):
        left, top = MARGIN + number % COLUMNS * step_x, MARGIN + number // COLUMNS * step_y
        np.testing.assert_array_equal(sheet[top : top + side, left : left + side], patch)
        text = sheet[top + side : top + side + TEXT_HEIGHT, left : left + side]
        assert (text.min(axis=2) < 100).sum() > 5, "a caption"


def test_what_cannot_be_shown_is_grey_and_large_patches_are_reduced():
    sheet = opened(contact_sheet([None, np.full((512, 512, 3), 200, np.uint8)], ["1", "2"]))
    assert sheet.shape[1] == MARGIN + 2 * (224 + MARGIN)
    assert (sheet[MARGIN + 5, MARGIN + 5] == 211).all()
    assert (sheet[MARGIN + 5, 2 * MARGIN + 224 + 5] == 200).all()
    assert contact_sheet([None, None], ["1", "2"]) is None
    many = opened(contact_sheet(patches(1, 64) * (MOST + 50), ["x"] * (MOST + 50)))
    assert many.shape[0] == MARGIN + MOST // COLUMNS * (64 + MARGIN + TEXT_HEIGHT)
