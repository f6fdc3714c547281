"""What a model does not know of a slide: computed as region by region, mapped, counted, and said on top."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
import torch
from report_page import Page
from slide_predictions import CLASS_NAMES, CLASSES

from spider_tools.cohorts.many import segment_slide, segment_slides
from spider_tools.slide_files.lattice import Lattice
from spider_tools.slides import outputs, pictures
from spider_tools.slides.classification import unfamiliarity_of_positions
from spider_tools.slides.colors import looks_of
from spider_tools.slides.composition import composition_csv, make_composition
from spider_tools.slides.facts import unfamiliar_warning
from spider_tools.slides.html_report import make_report
from spider_tools.slides.model import SlideModel
from spider_tools.slides.polygons import write_geojson

# Of the fourteen predictions, row by row: five are unfamiliar, three of them Stroma, one Fat, one Vessels.
UNFAMILIARITY = np.array([1, 3, 1, 1, 1, 3, 1, 3, 1, 1, 3, 1, 3, 1], dtype=np.float32)


@pytest.fixture
def doubted(predictions):
    return replace(predictions, unfamiliarity=UNFAMILIARITY, unfamiliarity_threshold=2.0)


@pytest.fixture
def knowing_folder(make_model, processor, tmp_path):
    """A model that knows what is familiar, of a kind."""
    model = make_model()
    model.remember(familiarity_means=2)
    hidden = model.config.backbone_config.hidden_size
    state = {"center": torch.zeros(hidden), "whitening": torch.eye(hidden), "means": torch.zeros(2, hidden)}
    model.familiarity.load_state_dict({**state, "means": torch.randn(2, hidden) * 0.1})
    model.config.unfamiliarity_threshold = 0.99
    model.save_pretrained(tmp_path / "knowing")
    processor.save_pretrained(tmp_path / "knowing")
    return tmp_path / "knowing"


def features_of(predictions, tmp_path, tiles=False):
    write_geojson(tmp_path / "p.geojson", predictions, "s", tiles)
    return json.loads((tmp_path / "p.geojson").read_text())["features"]


def test_it_is_that_of_one_region_after_the_other(make_model, processor):
    model = make_model()
    model.remember(familiarity_means=2)
    for tensor in model.familiarity.buffers():
        tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(len(tensor))))
    lattice = Lattice(28, 28, 5, (28 * 6, 28 * 5), (1.0, 1.0))
    embeddings = torch.randn(30, 32, generator=torch.Generator().manual_seed(0))
    rows = np.arange(30).reshape(5, 6)
    tissue = np.zeros((5, 6), dtype=bool)
    tissue[1:4, 2:] = True
    slide_model = SlideModel(model, processor.image_processor, torch.device("cpu"))
    found = unfamiliarity_of_positions(slide_model, lattice, tissue, rows, embeddings)
    expected = []
    for row, column in np.argwhere(tissue):
        grid, mask = torch.zeros(1, 25, 32), torch.zeros(1, 25, dtype=torch.bool)
        for place, (r, c) in enumerate(np.ndindex(5, 5)):
            y, x = row + r - 2, column + c - 2
            if 0 <= y < 5 and 0 <= x < 6:
                grid[0, place], mask[0, place] = embeddings[rows[y, x]], True
        with torch.no_grad():
            expected.append(float(model(patch_embeddings=grid, context_mask=mask).unfamiliarity))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_model_that_does_not_know_says_nothing(predictions, slide_model, tmp_path):
    lattice = Lattice(28, 28, 5, (28, 28), (1.0, 1.0))
    one = np.zeros((1, 1), dtype=np.int64)
    assert unfamiliarity_of_positions(slide_model, lattice, one == 0, one, torch.zeros(1, 32)) is None
    assert make_composition(predictions)["percent_unfamiliar"] is None
    assert unfamiliar_warning(predictions) == []
    measured = [feature["properties"]["measurements"] for feature in features_of(predictions, tmp_path)]
    assert not any("nfamiliar" in name for measurements in measured for name in measurements)


def test_areas_and_tiles_carry_it_as_measurements(doubted, tmp_path):
    *areas, _ = (f for f in features_of(doubted, tmp_path, tiles=True) if f["properties"]["objectType"] == "annotation")
    tiles = [f for f in features_of(doubted, tmp_path, tiles=True) if f["properties"]["objectType"] == "tile"]
    assert [tile["properties"]["measurements"]["unfamiliarity"] for tile in tiles] == UNFAMILIARITY.tolist()
    stroma = areas[0]["properties"]["measurements"]
    members = [i for i, (row, column) in enumerate(doubted.positions) if CLASSES[row][column] == 0]
    assert stroma["unfamiliarity"] == pytest.approx(UNFAMILIARITY[members].mean())
    assert stroma["unfamiliar %"] == pytest.approx(100 * (UNFAMILIARITY[members] > 2).mean(), abs=1e-3)


def test_a_map_that_abstains_has_a_class_of_its_own(doubted, tmp_path):
    cells = {name: 0.0 for name in (*CLASS_NAMES, "Unfamiliar")}
    abstaining = replace(doubted, abstain=True)
    for feature in features_of(abstaining, tmp_path):
        cells[feature["properties"]["classification"]["name"]] += shapely.geometry.shape(feature["geometry"]).area
    cell = 56 * 84
    unfamiliar = UNFAMILIARITY > 2
    for number, name in enumerate(CLASS_NAMES):
        assert cells[name] == pytest.approx(cell * ((doubted.predicted == number) & ~unfamiliar).sum())
    assert cells["Unfamiliar"] == pytest.approx(cell * unfamiliar.sum())
    tiles = [f for f in features_of(abstaining, tmp_path, tiles=True) if f["properties"]["objectType"] == "tile"]
    named = [tile["properties"]["classification"]["name"] for tile in tiles]
    assert [name == "Unfamiliar" for name in named] == unfamiliar.tolist()
    rows = make_composition(abstaining)["classes"]
    assert rows["Unfamiliar"]["patches"] == 5
    assert sum(row["patches"] for row in rows.values()) == 14
    assert rows["Unfamiliar"]["mean_probability"] is None
    looks = looks_of(abstaining)
    assert {name: looks[name] for name in CLASS_NAMES} == looks_of(doubted)
    page = make_report("t", make_composition(abstaining), {}, [], {}, looks=looks)
    assert page.count('<span class="mark">?</span> <span class="name">Unfamiliar</span>') == 1


def test_the_composition_says_what_share_of_each_class_is_unfamiliar(doubted):
    composition = make_composition(doubted)
    assert composition["percent_unfamiliar"] == pytest.approx(100 * 5 / 14)
    for number, name in enumerate(CLASS_NAMES[:3]):
        share = 100 * (UNFAMILIARITY[doubted.predicted == number] > 2).mean()
        assert composition["classes"][name]["percent_unfamiliar"] == pytest.approx(share)
    assert composition["classes"]["Never"]["percent_unfamiliar"] is None
    assert "percent_unfamiliar" in composition_csv(composition).splitlines()[0]
    assert any("35.7% of it is unfamiliar" in text for text in Page(make_report("t", composition, {}, [], {})).texts)


def test_the_warning_comes_where_much_is_unfamiliar(doubted):
    assert "36% of the tissue is unlike what the model has learnt from (hatched" in unfamiliar_warning(doubted)[0]
    assert "(grey" in unfamiliar_warning(replace(doubted, abstain=True))[0]
    few = np.where(np.arange(14) == 3, 3, 1).astype(np.float32)
    assert unfamiliar_warning(replace(doubted, unfamiliarity=few)) == []
    nothing_known = np.full(14, np.nan, dtype=np.float32)
    assert unfamiliar_warning(replace(doubted, unfamiliarity=nothing_known))


def test_the_overview_hatches_just_what_is_unfamiliar(doubted, thumbnail):
    figure = pictures.draw_overview(thumbnail, doubted, "s")
    axes = figure.axes[1]
    (hatched,) = axes.patches
    assert hatched.get_hatch()
    x_edges, y_edges = (edges * um / 1000 for edges, um in zip(doubted.lattice.cell_edges_level0(), doubted.mpp))
    polygons = [shapely.Polygon(ring) for ring in hatched.get_path().to_polygons()]
    inside = shapely.union_all(polygons)
    for (row, column), value in zip(doubted.positions, UNFAMILIARITY):
        middle = (x_edges[column] + x_edges[column + 1]) / 2, (y_edges[row] + y_edges[row + 1]) / 2
        assert shapely.contains_xy(inside, *middle) == (value > 2)
    assert figure.legends[0].get_texts()[-1].get_text() == "//  unfamiliar  35.7%"
    familiar = replace(doubted, unfamiliarity=np.ones(14, dtype=np.float32))
    assert not pictures.draw_overview(thumbnail, familiar, "s").axes[1].patches
    abstaining = pictures.draw_overview(thumbnail, replace(doubted, abstain=True), "s")
    assert "?  Unfamiliar  35.7%" in [text.get_text() for text in abstaining.legends[0].get_texts()]


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_accelerator")
def test_a_run_says_it_and_abstains_when_told_to(knowing_folder, slide_file, settings, caplog):
    settings = replace(settings, model=str(knowing_folder))
    segment_slide(slide_file, settings)
    folder = settings.output_dir / "slide"
    found = np.array(pq.read_table(folder / "predictions.parquet")["unfamiliarity"])
    config = json.loads((knowing_folder / "config.json").read_text())
    config["unfamiliarity_threshold"] = float(np.median(found))
    (knowing_folder / "config.json").write_text(json.dumps(config))
    assert segment_slide(slide_file, settings).status == "done"  # anew, as another threshold is another answer
    table = pq.read_table(folder / "predictions.parquet")
    assert table["is_familiar"].to_pylist() == (found <= np.median(found)).tolist()
    share = np.average(found > np.median(found), weights=np.array(table["tissue_share"]))
    assert json.loads((folder / "composition.json").read_text())["percent_unfamiliar"] == pytest.approx(100 * share)
    warning = f"{share:.0%} of the tissue is unlike what the model has learnt from"
    assert warning in caplog.text
    assert warning in (folder / "report.html").read_text(encoding="utf-8")
    assert json.loads((folder / "slide.json").read_text())["facts"]["Unfamiliar"].startswith(f"{share:.1%} of the")
    again = replace(settings, abstain=True)
    assert [result.status for result in segment_slides([slide_file], again)] == ["done"]
    composition = json.loads((folder / "composition.json").read_text())
    assert composition["classes"]["Unfamiliar"]["percent_of_tissue"] == pytest.approx(100 * share)
    assert [result.status for result in segment_slides([slide_file], again)] == ["skipped"]


@pytest.mark.usefixtures("fresh_accelerator")
def test_a_model_that_cannot_abstain_is_refused(settings, slide_file, knowing_folder):
    with pytest.raises(ValueError, match="--abstain needs a model that knows what is familiar"):
        segment_slides([slide_file], replace(settings, abstain=True))
    config = json.loads((knowing_folder / "config.json").read_text())
    names = ["Unfamiliar", *config["class_names"][1:]]
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    (knowing_folder / "config.json").write_text(json.dumps({**config, "class_names": names, **labels}))
    with pytest.raises(ValueError, match="the model has one of that name"):
        segment_slides([slide_file], replace(settings, model=str(knowing_folder), abstain=True))
    assert outputs.MARKER_NAME not in {path.name for path in settings.output_dir.rglob("*")}
