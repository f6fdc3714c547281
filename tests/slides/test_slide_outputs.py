"""What a slide leaves: the table of predictions, the composition, and a folder that is whole or says that it is not."""

import contextlib
import csv
import io
import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from slide_predictions import CLASS_NAMES, CLASSES

from spider_tools import files
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


OLD = {"prediction.geojson": "old", "predictions.zarr": "old", "../h5_files/{}.h5": "old", "overview.png": "old"}
NEW = {"predictions.zarr": "new", "predictions.h5ad": "new", "../patches/{}.h5": "new", "overview.png": "new"}


def writers_of(contents, slide):
    def folder_writer(text):
        def write(path):
            (path / "X").mkdir(parents=True)
            for name in ("X/0", "X/1", ".zgroup"):
                (path / name).write_text(text)

        return write

    return {
        name.format(slide): folder_writer(text) if name.endswith(".zarr") else text_writer(text)
        for name, text in contents.items()
    }


def content_of(output_dir):
    files = [path for path in output_dir.rglob("*") if path.is_file() and path.name != "slide.json"]
    return {str(path.relative_to(output_dir)): path.read_text() for path in files}


class Killed(BaseException):
    pass


def kill_at(monkeypatch, step):
    """From this step on nothing changes any file, as after SIGKILL, which no `finally` outlives; True once it came."""
    steps = []

    def alive(act):
        def act_or_die(*arguments):
            steps.append(arguments)
            if len(steps) == step:
                raise Killed
            if len(steps) < step:
                act(*arguments)

        return act_or_die

    monkeypatch.setattr(files.os, "replace", alive(os.replace))
    monkeypatch.setattr(files, "remove", alive(files.remove))
    return steps


def test_killed_at_any_step_a_slide_is_whole_as_it_was_or_made_anew(tmp_path):
    """A folder of zarr, files beside the slide's folder, and what the new result has not, all at once."""
    expected = {"s/overview.png": "new", "s/predictions.h5ad": "new", "patches/s.h5": "new"}
    expected |= {f"s/predictions.zarr/{name}": "new" for name in ("X/0", "X/1", ".zgroup")}
    seen = set()
    for step in range(1, 100):
        output_dir = tmp_path / str(step)
        folder = output_dir / "s"
        folder.mkdir(parents=True)
        outputs.write_outputs(folder, writers_of(OLD, "s"), {"request": "old"})
        old = content_of(output_dir)
        assert outputs.is_done(folder, "old")
        with pytest.MonkeyPatch.context() as patch:
            steps = kill_at(patch, step)
            with contextlib.suppress(Killed):
                outputs.write_outputs(folder, writers_of(NEW, "s"), {"request": "new"})
        left = {name: text for name, text in content_of(output_dir).items() if "unfinished" not in name}
        state = (outputs.is_done(folder, "old"), outputs.is_done(folder, "new"))
        assert state != (True, True)
        assert left == old if state[0] else left == expected if state[1] else True
        seen.add(state)
        outputs.write_outputs(folder, writers_of(NEW, "s"), {"request": "new"})
        assert content_of(output_dir) == expected
        assert outputs.is_done(folder, "new")
        if len(steps) < step:
            break
    assert step > 10
    assert seen == {(True, False), (False, False), (False, True)}


@pytest.mark.parametrize(
    "marker",
    [
        "[]",
        "null",
        '{"outputs": 3}',
        '{"outputs": null, "request": 1}',
        '{"outputs": {"/": 1, "../../../x": 1}, "request": 1}',
        '{"outputs": {"../other/slide.json": 1, "../../x": 1, "precious": 1}, "request": {"outputs": [[]]}}',
        '{"outputs": {}, "request": {"a": 1, "outputs": 7}}',
        '{"outputs": {"a\\u0000": 1}, "request": 1}',
    ],
)
def test_a_slide_json_of_anything_is_no_result_and_has_nothing_removed(tmp_path, marker):
    folder = tmp_path / "R" / "s"
    folder.mkdir(parents=True)
    (folder / "slide.json").write_text(marker)
    for precious in (tmp_path / "x", folder / "precious"):
        precious.write_text("kept")
    assert not outputs.is_done(folder, 1, {"a": 1})
    assert outputs.outputs_left(folder, 1, {"a": 1}) == ()
    outputs.write_outputs(folder, {"a.txt": text_writer("a")}, {"request": 1})
    assert (tmp_path / "x").read_text() == (folder / "precious").read_text() == "kept"


def test_what_is_left_of_the_same_request_is_told_by_name(tmp_path):
    request = {"stride": 224}
    for named, left in [({}, ("geojson", "parquet")), ({"outputs": ["h5ad", "x", "geojson"]}, ("geojson", "h5ad"))]:
        outputs.write_outputs(tmp_path, {"a.txt": text_writer("a")}, {"request": {**request, **named}})
        assert outputs.outputs_left(tmp_path, {"stride": 112}, None) == ()
        for asked in (request, {**request, "outputs": ["zarr"]}):
            assert outputs.outputs_left(tmp_path, {"stride": 112}, asked) == left
    (tmp_path / "a.txt").write_text("cut short?")
    assert outputs.outputs_left(tmp_path, request) == ()
