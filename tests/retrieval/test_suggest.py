"""What to annotate next, from what segment_slide.py has left, beside its own table."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
from safetensors.torch import load_file

from spider_tools.retrieval.settings import SuggestSettings
from spider_tools.retrieval.suggest import suggest

STRATEGIES = ("uncertain", "diverse", "typical")


def settings_of(classified, tmp_path, strategy, **changes):
    fields = {"results": (str(classified.results),), "output_dir": tmp_path / "out", "top": 8, **changes}
    return SuggestSettings(strategy=strategy, **fields)


def squares(folder):
    found = {}
    for path in folder.glob("*.geojson"):
        for feature in json.loads(path.read_text())["features"]:
            found.setdefault(path.stem, []).append((shapely.geometry.shape(feature["geometry"]), feature["properties"]))
    return found


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_suggestions_do_not_overlap_and_keep_to_the_limit_of_a_slide(classified_once, tmp_path, strategy):
    finding = suggest(settings_of(classified_once, tmp_path, strategy, per_slide=3, most_similar=1.0))
    found = squares(tmp_path / "out")
    assert len(finding) == 8
    assert sorted(found) == ["a", "b", "c"]
    ranks = sorted(properties["measurements"]["Rank"] for own in found.values() for _, properties in own)
    assert ranks == list(range(1, 9))
    for own in found.values():
        assert len(own) <= 3
        for number, (shape, _) in enumerate(own):
            assert all(shape.intersection(other).area == 0 for other, _ in own[:number])
    row = finding.patches.table.to_pylist()[0]
    assert finding.names[0] == row["class"]


def test_the_least_certain_patches_come_first(classified_once, tmp_path):
    finding = suggest(settings_of(classified_once, tmp_path, "uncertain", most_similar=1.0))
    rows = []
    for name in "abc":
        for row in pq.read_table(classified_once.results / name / "predictions.parquet").to_pylist():
            second, first = sorted(value for key, value in row.items() if key.startswith("probability: "))[-2:]
            rows.append((first - second, name, row["x_level0"], row["y_level0"]))
    expected = sorted(rows)[:8]
    got = finding.patches.table.to_pylist()
    assert [(row["slide"], row["x_level0"], row["y_level0"]) for row in got] == [row[1:] for row in expected]
    np.testing.assert_allclose(finding.scores, [row[0] for row in expected], atol=1e-6)
    assert finding.measure == "Margin"


def test_of_patches_that_look_the_same_one_is_suggested(classified_once, tmp_path):
    finding = suggest(settings_of(classified_once, tmp_path, "uncertain", most_similar=0.6, top=50))
    embeddings = []
    for row in finding.patches.table.to_pylist():
        saved = load_file(classified_once.results / row["slide"] / "embeddings.safetensors")
        place = (saved["xy_level0"].numpy() == (row["x_level0"], row["y_level0"])).all(axis=1)
        vector = saved["embeddings"][place.argmax()].numpy()
        embeddings.append(vector / np.linalg.norm(vector))
    cosines = np.stack(embeddings) @ np.stack(embeddings).T - 2 * np.eye(len(embeddings))
    assert cosines.max() <= 0.6 + 1e-5
    assert any("look the same as a suggested one (cosine above 0.6)" in remark for remark in finding.remarks)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_annotated_is_not_suggested_again(classified_once, tmp_path, strategy):
    """All of the slides a and c is drawn, and half of b, whose file counts from where QuPath does."""
    drawn = tmp_path / "drawn"
    drawn.mkdir()
    half = shapely.box(0, 0, 170, 320)
    for name, area in (("a", shapely.box(0, 0, 420, 380)), ("b", half), ("c", shapely.box(0, 0, 760, 600))):
        feature = {
            "type": "Feature",
            "geometry": json.loads(shapely.to_geojson(area)),
            "properties": {"classification": {"name": "Fat"}},
        }
        (drawn / f"{name}.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    settings = settings_of(classified_once, tmp_path, strategy, annotated=drawn, most_similar=1.0, top=500)
    finding = suggest(settings)
    found = squares(tmp_path / "out")
    assert list(found) == ["b"]
    assert all(shape.intersection(half).area < shape.area / 2 for shape, _ in found["b"])
    assert any("patches are annotated already" in remark for remark in finding.remarks)


def test_the_first_diverse_patch_is_the_one_nearest_to_the_mean(classified_once, tmp_path):
    finding = suggest(settings_of(classified_once, tmp_path, "diverse"))
    first = finding.patches.table.to_pylist()[0]
    everything = []
    for name in "abc":
        saved = load_file(classified_once.results / name / "embeddings.safetensors")
        own = {tuple(xy): vector.numpy() for xy, vector in zip(saved["xy_level0"].tolist(), saved["embeddings"])}
        for row in pq.read_table(classified_once.results / name / "predictions.parquet").to_pylist():
            vector = own[row["x_level0"], row["y_level0"]]
            everything.append(((name, row["x_level0"], row["y_level0"]), vector / np.linalg.norm(vector)))
    mean = np.mean([vector for _, vector in everything], axis=0)
    nearest = max(everything, key=lambda item: float(item[1] @ mean))[0]
    assert (first["slide"], first["x_level0"], first["y_level0"]) == nearest


@pytest.mark.parametrize("strategy", ["diverse", "typical"])
def test_a_part_of_the_patches_is_looked_at_where_there_are_many(classified_once, tmp_path, strategy):
    finding = suggest(settings_of(classified_once, tmp_path, strategy, candidates=12))
    assert any("12 were drawn and looked at (--candidates)" in remark for remark in finding.remarks)
    assert set(finding.patches.table["slide"].to_pylist()) == {"a", "b", "c"}
