"""What a slide leaves: the table of predictions, the composition, and a folder that is whole or says that it is not."""

import csv
import io
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from slide_predictions import CLASS_NAMES, CLASSES

from spider_tools.files import text_writer
from spider_tools.slides import outputs
from spider_tools.slides.composition import composition_csv, make_composition


def test_the_table_has_a_row_per_prediction(predictions, tmp_path):
    outputs.table_writer(predictions)(tmp_path / "p.parquet")
    table = pq.read_table(tmp_path / "p.parquet").to_pydict()
    assert list(table) == ["row", "column", "x_level0", "y_level0", "class"] + [
        f"probability: {name}" for name in CLASS_NAMES
    ] + ["entropy", "unfamiliarity", "is_familiar", "tissue_share"]
    for number, (row, column) in enumerate(predictions.positions):
        assert (table["row"][number], table["column"][number]) == (row, column)
        assert (table["x_level0"][number], table["y_level0"][number]) == (column * 56, row * 84)
        assert table["class"][number] == CLASS_NAMES[CLASSES[row][column]]
        p = np.array([table[f"probability: {name}"][number] for name in CLASS_NAMES], dtype=np.float64)
        assert table["entropy"][number] == pytest.approx(-(p * np.log(p)).sum(), rel=1e-5)


def test_the_composition_counts_areas(predictions):
    composition = make_composition(predictions)
    cell = 56 * 0.25 * 84 * 0.2 / 1e6
    assert composition["tissue_mm2"] == pytest.approx(14 * cell)
    assert {name: row["patches"] for name, row in composition["classes"].items()} == {
        "Stroma": 8,
        "Fat & <oil>": 4,
        "Vessels": 2,
        "Never": 0,
    }
    assert composition["classes"]["Fat & <oil>"]["area_mm2"] == pytest.approx(4 * cell)
    assert composition["classes"]["Fat & <oil>"]["percent_of_tissue"] == pytest.approx(100 * 4 / 14)
    assert composition["classes"]["Never"]["most_certain"] == []
    means = [row["mean_probability"] for row in composition["classes"].values()]
    assert sum(means) == pytest.approx(1)


def test_the_most_certain_places_are_those_of_the_highest_probability(predictions):
    row = make_composition(predictions)["classes"]["Fat & <oil>"]
    members = [i for i in range(14) if predictions.predicted[i] == 1]
    best = max(members, key=lambda i: predictions.probabilities[i, 1])
    assert row["most_certain"][0]["probability"] == pytest.approx(predictions.probabilities[best, 1])
    r, c = predictions.positions[best]
    assert row["most_certain"][0]["center_level0"] == [c * 56 + 28, r * 84 + 42]
    ordered = [place["probability"] for place in row["most_certain"]]
    assert ordered == sorted(ordered, reverse=True)
    assert len(ordered) == 4


def test_the_composition_as_csv_says_the_same(predictions):
    composition = make_composition(predictions)
    rows = list(csv.DictReader(io.StringIO(composition_csv(composition))))
    assert [row["class"] for row in rows] == list(composition["classes"])
    for row in rows:
        assert float(row["area_mm2"]) == composition["classes"][row["class"]]["area_mm2"]


def write_marked(folder, request, fail=False):
    def broken(path):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    writers = {"a.txt": text_writer("new a"), "b.txt": broken if fail else text_writer("new b")}
    outputs.write_outputs(folder, writers, {"request": request})


def test_a_folder_is_done_only_with_the_same_request_and_all_files(tmp_path):
    assert not outputs.is_done(tmp_path, {"stride": 224})
    write_marked(tmp_path, {"stride": 224, "size": (3, 4)})
    assert outputs.is_done(tmp_path, {"stride": 224, "size": (3, 4)})
    assert not outputs.is_done(tmp_path, {"stride": 112, "size": (3, 4)})
    (tmp_path / "b.txt").write_text("cut")
    assert not outputs.is_done(tmp_path, {"stride": 224, "size": (3, 4)})
    (tmp_path / "b.txt").unlink()
    assert not outputs.is_done(tmp_path, {"stride": 224, "size": (3, 4)})
    (tmp_path / "slide.json").write_text("{")
    assert not outputs.is_done(tmp_path, {"stride": 224, "size": (3, 4)})


def test_a_full_disk_leaves_the_earlier_result_whole(tmp_path):
    outputs.write_outputs(tmp_path, {"a.txt": text_writer("old a")}, {"request": 1})
    with pytest.raises(OSError, match="No space left"):
        write_marked(tmp_path, 2, fail=True)
    assert (tmp_path / "a.txt").read_text() == "old a"
    assert outputs.is_done(tmp_path, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "slide.json"]


def test_what_the_disk_has_no_room_for_is_refused(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=100_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    outputs.check_space(tmp_path, 2000, 4096)
    with pytest.raises(OSError, match=r"20,000 rows of embeddings need 0\.1 GB, 0\.1 GB are free"):
        outputs.check_space(tmp_path, 20_000, 4096)
