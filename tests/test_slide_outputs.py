"""What a slide leaves: polygons, tables, colours, pictures and the report."""

import csv
import io
import json
import re
import shutil
import subprocess

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
from PIL import Image
from slide_files import draw_slide

from spider_tools.paper_results import organ_names, published_organ
from spider_tools.slides import outputs, pictures
from spider_tools.slides.classification import SlidePredictions
from spider_tools.slides.colors import class_colors
from spider_tools.slides.composition import composition_csv, make_composition
from spider_tools.slides.html_report import make_report
from spider_tools.slides.lattice import Lattice
from spider_tools.slides.polygons import cells_to_polygon, write_geojson

CLASS_NAMES = ("Stroma", "Fat & <oil>", "Vessels", "Never")
SCALE, MPP = (2.0, 3.0), (0.25, 0.2)


def make_predictions(classes, stride=28, seed=0):
    """Predictions of these classes, int `(rows, columns)`; -1 where there is no tissue."""
    classes = np.asarray(classes)
    rows, columns = classes.shape
    size = ((columns - 1) * stride + 28, (rows - 1) * stride + 28)
    positions = np.argwhere(classes >= 0)
    probabilities = np.random.default_rng(seed).dirichlet([1] * 4, len(positions)).astype(np.float32)
    best = probabilities.argmax(axis=1)
    wanted = classes[tuple(positions.T)]
    for row, (old, new) in enumerate(zip(best, wanted)):
        probabilities[row, [old, new]] = probabilities[row, [new, old]]
    return SlidePredictions(Lattice(28, stride, 5, size, SCALE), MPP, positions, probabilities, CLASS_NAMES)


CLASSES = [
    [0, 0, 0, -1, 2],
    [0, 1, 0, -1, 2],
    [0, 0, 0, 1, -1],
    [-1, -1, -1, 1, 1],
]


@pytest.fixture
def predictions():
    return make_predictions(CLASSES)


def features_of(predictions, tmp_path, tiles=False):
    write_geojson(tmp_path / "p.geojson", predictions, "slide", tiles)
    content = json.loads((tmp_path / "p.geojson").read_text())
    assert content["type"] == "FeatureCollection"
    return content["features"]


def test_areas_are_merged_and_keep_their_holes(predictions, tmp_path):
    features = features_of(predictions, tmp_path)
    shapes = [(f["properties"]["classification"]["name"], shapely.geometry.shape(f["geometry"])) for f in features]
    width, height = 28 * SCALE[0], 28 * SCALE[1]
    assert [name for name, _ in shapes] == ["Stroma", "Fat & <oil>", "Fat & <oil>", "Vessels"]
    ring = shapes[0][1]
    assert ring.exterior.bounds == (0, 0, 3 * width, 3 * height)
    assert [shapely.Polygon(hole).bounds for hole in ring.interiors] == [(width, height, 2 * width, 2 * height)]
    assert shapes[1][1].equals(shapely.box(width, height, 2 * width, 2 * height))
    corner = shapely.Polygon([(168, 168), (224, 168), (224, 252), (280, 252), (280, 336), (168, 336)])
    assert shapes[2][1].equals(corner)
    assert len(shapes[2][1].exterior.coords) == 7, "points on straight lines are left out"
    assert shapes[3][1].bounds == (4 * width, 0, 5 * width, 2 * height)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("stride", [28, 7])
def test_polygons_cover_exactly_the_cells_of_their_class(tmp_path, seed, stride):
    classes = np.random.default_rng(seed).integers(-1, 3, (13, 17))
    predictions = make_predictions(classes, stride)
    areas = {name: [] for name in CLASS_NAMES}
    for feature in features_of(predictions, tmp_path):
        shape = shapely.geometry.shape(feature["geometry"])
        assert shape.is_valid
        measurements = feature["properties"]["measurements"]
        assert measurements["area mm2"] == pytest.approx(shape.area * MPP[0] * MPP[1] / 1e6, rel=1e-6)
        assert measurements["patches"] * stride**2 * 6 == pytest.approx(shape.area)
        areas[feature["properties"]["classification"]["name"]].append(shape)
    x_edges, y_edges = predictions.lattice.cell_edges_level0()
    for number, name in enumerate(CLASS_NAMES):
        whole = shapely.union_all(areas[name])
        for row, column in np.ndindex(classes.shape):
            middle = ((x_edges[column] + x_edges[column + 1]) / 2, (y_edges[row] + y_edges[row + 1]) / 2)
            assert shapely.contains_xy(whole, *middle) == (classes[row, column] == number)


def test_an_area_carries_the_mean_probabilities_of_its_patches(predictions, tmp_path):
    first = features_of(predictions, tmp_path)[0]["properties"]
    members = [i for i, (row, column) in enumerate(predictions.positions) if CLASSES[row][column] == 0]
    for number, name in enumerate(CLASS_NAMES):
        expected = predictions.probabilities[members, number].mean()
        assert first["measurements"][f"probability: {name}"] == pytest.approx(expected, abs=1e-5)
    assert first["objectType"] == "annotation"
    assert first["classification"]["color"] == list(class_colors(CLASS_NAMES)["Stroma"])


def test_tiles_are_one_square_per_prediction(predictions, tmp_path):
    features = features_of(predictions, tmp_path, tiles=True)
    tiles = [f for f in features if f["properties"]["objectType"] == "tile"]
    assert len(tiles) == len(predictions.positions)
    for tile, (row, column), probabilities, entropy in zip(
        tiles, predictions.positions, predictions.probabilities, predictions.entropy
    ):
        bounds = shapely.geometry.shape(tile["geometry"]).bounds
        assert bounds == (column * 56, row * 84, (column + 1) * 56, (row + 1) * 84)
        assert tile["properties"]["classification"]["name"] == CLASS_NAMES[CLASSES[row][column]]
        measured = tile["properties"]["measurements"]
        assert [measured[f"probability: {n}"] for n in CLASS_NAMES] == pytest.approx(probabilities.tolist(), abs=1e-6)
        assert measured["entropy"] == pytest.approx(entropy)


def test_ids_are_unique_and_stay(predictions, tmp_path):
    first = [f["id"] for f in features_of(predictions, tmp_path, tiles=True)]
    assert len(set(first)) == len(first)
    assert first == [f["id"] for f in features_of(predictions, tmp_path, tiles=True)]


def test_cells_that_touch_at_a_corner_make_a_valid_polygon():
    cells = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], dtype=bool)
    polygon = cells_to_polygon(cells, np.arange(4.0), np.arange(4.0))
    assert polygon.is_valid
    assert (polygon.geom_type, polygon.area) == ("Polygon", 7)


def test_the_table_has_a_row_per_prediction(predictions, tmp_path):
    outputs.table_writer(predictions)(tmp_path / "p.parquet")
    table = pq.read_table(tmp_path / "p.parquet").to_pydict()
    assert list(table) == ["row", "column", "x_level0", "y_level0", "class"] + [
        f"probability: {name}" for name in CLASS_NAMES
    ] + ["entropy"]
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


def simulated(rgb, matrix):
    """CIE Lab of a colour as a viewer with this matrix sees it (Machado, Oliveira and Fernandes 2009)."""
    channels = np.asarray(rgb) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    xyz = np.clip(np.asarray(matrix) @ linear, 0, 1) @ np.array(
        [[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]]
    )
    x, y, z = np.cbrt(xyz / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


VIEWERS = {
    "normal": np.eye(3),
    "protanopia": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "deuteranopia": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
}


@pytest.mark.parametrize("viewer", VIEWERS)
@pytest.mark.parametrize(("classes", "least"), [(8, 15), (14, 8)])
def test_colours_differ_for_colour_blind_people_too(viewer, classes, least):
    colors = list(class_colors([f"{i:02}" for i in range(classes)]).values())
    labs = [simulated(color, VIEWERS[viewer]) for color in colors]
    distances = [np.linalg.norm(a - b) for i, a in enumerate(labs) for b in labs[:i]]
    assert min(distances) > least  # a difference of 2 can be seen


def test_a_class_has_one_colour_whatever_the_order_of_the_classes():
    for organ in organ_names():
        names = published_organ(organ).class_names
        colors = class_colors(names)
        assert colors == class_colors(names[::-1])
        assert len(set(colors.values())) == len(names)
    assert len(set(class_colors([f"class {i}" for i in range(80)]).values())) == 80


@pytest.fixture
def thumbnail():
    pixels = draw_slide(280, 336, seed=2)
    return pictures.Thumbnail(pixels, (280 * MPP[0] / 1000, 336 * MPP[1] / 1000))


def colours_in(figure):
    """The colours of more than a few px of a picture."""
    image = np.asarray(Image.open(io.BytesIO(outputs.as_png(figure))).convert("RGB"))
    colours, counts = np.unique(image.reshape(-1, 3), axis=0, return_counts=True)
    return {tuple(colour.tolist()) for colour in colours[counts > 100]}


def test_the_overview_has_a_legend_of_the_classes_that_occur(predictions, thumbnail):
    figure = pictures.draw_overview(thumbnail, predictions, "costs $5 and $6")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["3  Stroma  57.1%", "1  Fat & <oil>  28.6%", "4  Vessels  14.3%"]
    colors = class_colors(CLASS_NAMES)
    shown = colours_in(figure)
    for name in ("Stroma", "Fat & <oil>", "Vessels"):  # in the legend
        assert colors[name] in shown
    assert colors["Never"] not in shown


def test_heatmaps_show_every_class_on_one_scale(predictions, thumbnail):
    figure = pictures.draw_heatmaps(thumbnail, predictions, "slide")
    *panels, bar = figure.axes
    assert [axes.get_title().splitlines()[0] for axes in panels] == list(CLASS_NAMES)
    assert bar.get_ylabel() == "Probability of the class"
    for number, axes in enumerate(panels):
        heat = axes.images[1]
        assert heat.get_clim() == (0, 1)
        shown = heat.get_array()
        np.testing.assert_allclose(shown.compressed(), predictions.probabilities[:, number], rtol=1e-6)
        left, right, bottom, top = heat.get_extent()
        assert (left, right, top, bottom) == pytest.approx((0, 5 * 56 * 0.25 / 1000, 0, 4 * 84 * 0.2 / 1000))


@pytest.mark.parametrize("length", [0.0009, 0.07, 1.0, 4.99, 12.0])
def test_scale_bars_have_round_lengths(length):
    found = pictures._round_length(length)
    assert length / 2.5 <= found <= length
    assert f"{found:e}"[0] in "125"


@pytest.mark.parametrize("size", [(3000, 40), (40, 3000)])
def test_slides_of_extreme_shapes_can_be_drawn(size):
    width, height = size
    predictions = make_predictions(np.arange(width // 28 * (height // 28)).reshape(height // 28, width // 28) % 3)
    pixels = np.full((max(1, height // 2), max(1, width // 2), 3), 200, dtype=np.uint8)
    thumbnail = pictures.Thumbnail(pixels, (width * 0.5 / 1000, height * 0.6 / 1000))
    for draw in (pictures.draw_overview, pictures.draw_heatmaps):
        image = Image.open(io.BytesIO(outputs.as_png(draw(thumbnail, predictions, "s"))))
        assert min(image.size) > 100
        assert max(image.size) < 6000


@pytest.fixture
def report(predictions, thumbnail):
    figures = {
        "overview.png": outputs.as_png(pictures.draw_overview(thumbnail, predictions, "s")),
        "heatmaps.png": outputs.as_png(pictures.draw_heatmaps(thumbnail, predictions, "s")),
    }
    facts = {"Model": "<script>alert(1)</script>", "Stride": 28}
    return make_report("a <b>slide</b>", make_composition(predictions), facts, ["It may be wrong."], figures)


def test_the_report_needs_no_other_file_and_escapes_names(report):
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!data:)", report)
    assert report.count("data:image/png;base64,") == 2
    assert "<script" not in report
    assert "&lt;script&gt;alert(1)" in report
    assert "a &lt;b&gt;slide&lt;/b&gt;" in report
    assert "Fat &amp; &lt;oil&gt;" in report
    assert "not for diagnosis" in report
    assert "It may be wrong." in report


@pytest.mark.slow
def test_the_report_opens_in_a_browser(report, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed")
    (tmp_path / "report.html").write_text(report, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={tmp_path / 'user'}"]
    target = f"file://{tmp_path / 'report.html'}"
    dom = subprocess.run([browser, *flags, "--dump-dom", target], capture_output=True, text=True, timeout=120)
    assert "a &lt;b&gt;slide&lt;/b&gt;" in dom.stdout, dom.stderr[-2000:]
    shot = [f"--screenshot={tmp_path / 'shot.png'}", "--window-size=1200,2400"]
    subprocess.run([browser, *flags, *shot, target], check=True, capture_output=True, timeout=120)
    picture = np.asarray(Image.open(tmp_path / "shot.png").convert("RGB"))
    colours = {tuple(c) for c in np.unique(picture.reshape(-1, 3), axis=0).tolist()}
    assert {class_colors(CLASS_NAMES)[name] for name in ("Stroma", "Vessels")} <= colours


def write_marked(folder, request, fail=False):
    def broken(path):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    writers = {"a.txt": outputs.text_writer("new a"), "b.txt": broken if fail else outputs.text_writer("new b")}
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
    outputs.write_outputs(tmp_path, {"a.txt": outputs.text_writer("old a")}, {"request": 1})
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
