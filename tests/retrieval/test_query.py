"""What is found: the nearest patches by brute force that overlap neither each other nor the examples."""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
import torch
from made_up_patches import MadeUpSource, clustered, table_of, unit
from PIL import Image

from spider_tools.retrieval import index_building
from spider_tools.retrieval.choosing import Chooser
from spider_tools.retrieval.examples import Examples
from spider_tools.retrieval.index_building import build_index
from spider_tools.retrieval.patch_index import PatchIndex
from spider_tools.retrieval.query import nearest, query_index
from spider_tools.retrieval.settings import IndexSettings, QuerySettings

pytest.importorskip("faiss")
pytestmark = pytest.mark.usefixtures("fresh_accelerator")
SIDE = 28.0


class Scattered(MadeUpSource):
    """Of three slides, every patch over some others."""

    def patches(self):
        rng = np.random.default_rng(4)
        names = [str(name) for name in rng.choice(["a", "b", "c"], len(self))]
        return table_of(names, [tuple((7.0 * rng.integers(0, 60, 2)).tolist()) for _ in names])


@pytest.fixture(scope="module")
def scattered(tmp_path_factory):
    """`scattered(ivf_from)`: an index of 3000 scattered patches, and their unit vectors."""
    made = {}

    def make(ivf_from):
        if ivf_from not in made:
            vectors, folder = clustered(3000, clusters=12), tmp_path_factory.mktemp("index") / "I"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(index_building, "find_sources", lambda paths, flags: [Scattered(vectors)])
                build_index(["x"], IndexSettings(index=folder, ivf_from=ivf_from))
            made[ivf_from] = PatchIndex(folder), unit(vectors)
        return made[ivf_from]

    return make


def slow_search(index, vectors, scores, examples, top, per_slide):
    """Every patch from the best on, held against all that were chosen."""
    chosen, boxes, slides = [], index.patches.boxes, index.patches.slide_numbers
    for row in np.argsort(-scores, kind="stable").tolist():
        if len(chosen) == top:
            break
        others = [*chosen, *examples]
        near = [
            row == o or (slides[row] == slides[o] and (np.abs(boxes[row, :2] - boxes[o, :2]) < SIDE).all())
            for o in others
        ]
        full = per_slide is not None and sum(slides[o] == slides[row] for o in chosen) >= per_slide
        if not any(near) and not full:
            chosen.append(row)
    return chosen


@pytest.mark.parametrize("combine", ["mean", "max"])
@pytest.mark.parametrize(("top", "per_slide"), [(30, None), (30, 4), (500, 40)])
def test_the_nearest_patches_are_those_of_a_slow_loop(scattered, combine, top, per_slide):
    index, vectors = scattered(10**6)
    rows = np.array([5, 900, 2222])
    chooser = Chooser(index.patches, top, per_slide)
    chooser.exclude(rows)
    found = nearest(index, Examples(index.vectors(rows), rows, ""), combine, chooser)
    cosines = vectors @ vectors[rows].T
    scores = cosines.mean(axis=1) if combine == "mean" else cosines.max(axis=1)
    expected = slow_search(index, vectors, scores, rows.tolist(), top, per_slide)
    assert len(chooser.chosen) == len(expected)
    # float16 may change the order of two that are equally near.
    np.testing.assert_allclose(scores[chooser.chosen[:5]], scores[expected[:5]], atol=1e-3)
    assert len(set(chooser.chosen) & set(expected)) > 0.9 * len(expected)
    np.testing.assert_allclose(found, scores[chooser.chosen], atol=1e-3)
    assert (np.diff(found) <= 1e-6).all()


@pytest.mark.parametrize("combine", ["mean", "max"])
def test_a_full_slide_hides_no_other_one_in_an_index_of_lists(scattered, combine):
    index, _ = scattered(1)
    assert index.facts["probes"] < index.facts["lists"]
    chooser = Chooser(index.patches, 10**4, per_slide=7)
    rows = np.array([1, 2])
    nearest(index, Examples(index.vectors(rows), rows, ""), combine, chooser)
    assert np.bincount(index.patches.slide_numbers[chooser.chosen]).tolist() == [7, 7, 7]


@pytest.fixture(scope="module")
def indexed(classified_once, tmp_path_factory):
    """The index of the classified slides."""
    folder = tmp_path_factory.mktemp("indexed") / "I"
    build_index([str(classified_once.results)], IndexSettings(index=folder))
    return SimpleNamespace(folder=folder, slides=classified_once.slides, results=classified_once.results)


def found(settings):
    query_index(settings)
    return pq.read_table(settings.index / "patches.parquet"), json.loads(
        (settings.output_dir / "finding.json").read_text()
    )


def settings_of(indexed, tmp_path, **changes):
    return QuerySettings(index=indexed.folder, output_dir=tmp_path / "out", **{"top": 6, **changes})


def squares(folder, slide):
    path = folder / f"{slide}.geojson"
    features = json.loads(path.read_text())["features"] if path.exists() else []
    return [shapely.geometry.shape(feature["geometry"]) for feature in features], features


def draw(path, name, *boxes):
    features = [
        {
            "type": "Feature",
            "geometry": json.loads(shapely.to_geojson(box)),
            "properties": {"classification": {"name": name}},
        }
        for box in boxes
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def test_drawn_examples_find_patches_beside_them(indexed, tmp_path):
    # In QuPath's coordinates of the slide of which a part was scanned; its tissue is at the left and lower edge.
    drawn = draw(tmp_path / "b.geojson", "Nevus", shapely.box(40, 200, 110, 260))
    finding = query_index(settings_of(indexed, tmp_path, annotation=drawn, slide="b", per_slide=3))
    assert set(finding.names) == {"Nevus"}
    assert finding.asked["examples"] >= 2
    on_b, features = squares(tmp_path / "out", "b")
    assert not any(one.intersection(shapely.box(40, 200, 110, 260)).area > 28 * 14 + 1 for one in on_b)
    assert all(feature["properties"]["classification"]["name"] == "Suggested: Nevus" for feature in features)
    assert max(map(finding.patches.table["slide"].to_pylist().count, "abc")) <= 3


def test_the_slide_with_an_offset_is_searched_where_it_was_drawn(indexed, tmp_path):
    index = PatchIndex(indexed.folder)
    row = index.patches.on_slide("b")[3]
    x, y = index.patches.boxes[row, :2] - (131, 57)
    drawn = draw(tmp_path / "b.geojson", "Nevus", shapely.box(x + 1, y + 1, x + 27, y + 27))
    query_index(settings_of(indexed, tmp_path, annotation=drawn, slide="b"))
    by_place = settings_of(
        indexed, tmp_path / "2", patches=(f"b:{index.patches.boxes[row, 0] + 9},{index.patches.boxes[row, 1] + 9}",)
    )
    query_index(by_place)
    first, second = ((tmp_path / name / "results.csv").read_text() for name in ("out", "2/out"))
    assert first.replace("Nevus", "similar") == second


def test_the_surest_predictions_of_a_class_are_examples(indexed, tmp_path):
    table = pq.read_table(indexed.folder / "patches.parquet").to_pylist()
    name = max({row["class"] for row in table}, key=[row["class"] for row in table].count)
    finding = query_index(settings_of(indexed, tmp_path, class_name=name, predictions=True, name="like it"))
    assert finding.asked["examples"] == sum(row["class"] == name for row in table)
    assert set(finding.names) == {"like it"}
    assert name not in finding.patches.table["class"].to_pylist(), "all of that class were examples"


def test_an_image_finds_the_patch_that_it_was_cut_from(indexed, model_folder, tmp_path):
    index = PatchIndex(indexed.folder)
    row = int(index.patches.on_slide("a")[5])
    x, y = (int(value) for value in index.patches.boxes[row, :2])
    with Image.open(indexed.slides / "a.tif") as whole:
        whole.crop((x - 4, y - 4, x + 32, y + 32)).save(tmp_path / "cut.png")  # the central patch is taken
    finding = query_index(settings_of(indexed, tmp_path, images=(str(tmp_path / "cut.png"),), model=str(model_folder)))
    first = finding.patches.table.to_pylist()[0]
    assert (first["slide"], first["x_level0"], first["y_level0"]) == ("a", x, y)
    assert finding.scores[0] == pytest.approx(1, abs=1e-3)


def test_a_model_that_embeds_otherwise_is_refused(indexed, make_model, processor, tmp_path):
    make_model(seed=3).save_pretrained(tmp_path / "other")
    processor.save_pretrained(tmp_path / "other")
    Image.new("RGB", (28, 28)).save(tmp_path / "x.png")
    settings = settings_of(indexed, tmp_path, images=(str(tmp_path / "x.png"),), model=str(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"The index .* and the model .*other were not embedded alike.*backbone_sha"):
        query_index(settings)


def test_of_many_examples_the_largest_similarity_is_to_some(indexed, tmp_path, monkeypatch):
    monkeypatch.setattr("spider_tools.retrieval.examples.MOST", 3)
    drawn = draw(tmp_path / "a.geojson", "Nevus", shapely.box(0, 0, 420, 380))
    finding = query_index(settings_of(indexed, tmp_path, annotation=drawn, slide="a", combine="max"))
    assert finding.asked["examples"] == 3
    assert any("examples 3 were drawn" in remark for remark in finding.remarks)
    assert "a" not in finding.patches.table["slide"].to_pylist(), "nothing of it is left"


def test_the_sheet_shows_the_patches_that_were_found(indexed, tmp_path):
    finding = query_index(settings_of(indexed, tmp_path, patches=("c:500,400",), slides=indexed.slides))
    sheet = np.asarray(Image.open(tmp_path / "out" / "contact_sheet.png").convert("RGB"))
    with Image.open(indexed.slides / "a.tif") as whole:
        pixels = np.asarray(whole.convert("RGB"))
    seen = 0
    for number, row in enumerate(finding.patches.table.to_pylist()):
        if row["slide"] == "a":
            x, y = int(row["x_level0"]), int(row["y_level0"])
            shown = sheet[8 : 8 + 28, 8 + number * 72 : 8 + number * 72 + 28]
            np.testing.assert_array_equal(shown, pixels[y : y + 28, x : x + 28])
            seen += 1
    assert seen or {"b", "c"} >= set(finding.patches.table["slide"].to_pylist())
    assert not any("shown" in remark for remark in finding.remarks)


@pytest.mark.parametrize("place", [None, "another slide", "elsewhere"])
def test_patches_that_cannot_be_shown_are_said_to_be(indexed, tmp_path, place):
    slides = None
    if place is not None:
        slides = tmp_path / "slides"
        slides.mkdir()
        name = "a.tif" if place == "another slide" else "z.tif"
        (slides / name).write_bytes((indexed.slides / "c.tif").read_bytes())
    finding = query_index(settings_of(indexed, tmp_path, patches=("a:60,250",), slides=slides, top=200))
    assert not (tmp_path / "out" / "contact_sheet.png").exists()
    said = {None: "say where the slides are", "another slide": "holds another slide", "elsewhere": "there is no slide"}
    assert any(said[place] in remark for remark in finding.remarks)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, r"Say what to search for with one of --annotation.*got none"),
        ({"patches": ("a:1,1",), "labels": True}, r"got \['--labels', '--patch'\]"),
        ({"predictions": True}, "--predictions needs --class beside it"),
        ({"images": ("x.png",)}, "--image needs --model beside it"),
        ({"annotation": "x.geojson"}, "--annotation needs --slide beside it"),
        ({"patches": ("a",)}, r"--patch must be SLIDE:X,Y with X and Y in level-0 px, got 'a'"),
        ({"patches": ("z:1,1",)}, r"the index has no slide 'z', expected 'a', 'b', 'c'"),
        ({"patches": ("a:400,10",)}, "there is no patch of the index at this place"),
        ({"predictions": True, "class_name": "Moon"}, "The index has no patch predicted as 'Moon'; its classes are"),
        ({"labels": True, "class_name": "Fat"}, "The index has no patch labelled as 'Fat'"),
        ({"annotation": "drawn", "slide": "z"}, "The index has no slide 'z'"),
        ({"annotation": "drawn", "slide": "a", "class_name": "Moon"}, "has no annotations of the class 'Moon'"),
        ({"annotation": "glass", "slide": "a"}, "The 1 annotations of .* cover no patch of the slide a"),
        ({"annotation": "two", "slide": "a"}, "has annotations of the classes 'Fat', 'Nerves': choose one"),
        ({"annotation": "absent", "slide": "a"}, "there is no such file"),
        ({"images": ("absent.png",), "model": "m"}, "There is no image absent.png"),
        ({"patches": ("a:60,250",), "slides": "absent"}, "--slides absent: there is no such file or folder"),
    ],
)
def test_what_cannot_be_searched_for_is_refused(indexed, tmp_path, changes, message):
    draw(tmp_path / "drawn.geojson", "Fat", shapely.box(50, 240, 110, 300))
    draw(tmp_path / "glass.geojson", "Fat", shapely.box(395, 5, 398, 8))
    draw(tmp_path / "nerves.geojson", "Nerves", shapely.box(0, 300, 60, 340))
    both = [json.loads((tmp_path / f"{name}.geojson").read_text()) for name in ("drawn", "nerves")]
    (tmp_path / "two.geojson").write_text(json.dumps(both))  # a list, as QuPath writes it
    if changes.get("annotation"):
        changes = {**changes, "annotation": tmp_path / f"{changes['annotation']}.geojson"}
    with pytest.raises(ValueError, match=message):
        query_index(settings_of(indexed, tmp_path, **changes))
    assert not (tmp_path / "out").exists()


def test_a_small_or_broken_image_is_refused(indexed, model_folder, tmp_path):
    Image.new("RGB", (27, 40)).save(tmp_path / "small.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    for name, message in (("small", "has 27 x 40 px, expected a patch of 28 x 28"), ("broken", "cannot be read")):
        settings = settings_of(indexed, tmp_path, images=(str(tmp_path / f"{name}.png"),), model=str(model_folder))
        with pytest.raises(ValueError, match=message):
            query_index(settings)
    assert torch.is_grad_enabled()
