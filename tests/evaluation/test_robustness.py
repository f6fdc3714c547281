"""Robustness: disturbed regions by brute force from pixels, and its figures against scikit-learn and loops."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from made_up_predictions import CONTEXT, make_predictions, table_rows
from PIL import Image, ImageEnhance, ImageOps
from sklearn.metrics import accuracy_score, f1_score
from transformers import AutoModel, AutoProcessor

from spider_tools.data.disturbances import DISTURBANCES
from spider_tools.data.settings import DataSettings
from spider_tools.demo.synthetic import CLASS_NAMES, SyntheticSettings, write_dataset
from spider_tools.evaluation import asking, embedded_splits
from spider_tools.evaluation.bootstrap import resample_counts
from spider_tools.evaluation.report import write_report
from spider_tools.evaluation.robustness import draw_robustness, make_robustness, robustness_page
from spider_tools.evaluation.run import evaluate_model
from spider_tools.evaluation.settings import EvaluationSettings

PATCH_SIZE = 28


@pytest.fixture(scope="module")
def undisturbed():
    return make_predictions()


@pytest.fixture(scope="module")
def disturbed(undisturbed):
    """Two disturbances, one of which changes nothing."""
    return {"dark": make_predictions(seed=5, slides=15), "none": undisturbed}


@pytest.fixture(scope="module")
def dark(undisturbed, disturbed):
    """Another opinion on the regions of `undisturbed`."""
    return replace(undisturbed, probabilities=disturbed["dark"].probabilities)


@pytest.fixture(scope="module")
def robustness(undisturbed, dark):
    return make_robustness(undisturbed, {"dark": dark, "none": undisturbed}, CONTEXT)


def test_figures_and_changes_are_those_of_scikit_learn(robustness, undisturbed, dark):
    row = robustness["disturbances"]["dark"]
    for name, score in (("accuracy", accuracy_score), ("macro_f1", lambda *x: f1_score(*x, average="macro"))):
        before, after = (score(undisturbed.labels, p.predicted) for p in (undisturbed, dark))
        assert robustness["undisturbed"][name]["value"] == pytest.approx(before)
        assert row[name]["value"] == pytest.approx(after)
        assert row["change"][name]["value"] == pytest.approx(after - before)
        assert after < before
    assert row["agreement"]["value"] == pytest.approx(accuracy_score(undisturbed.predicted, dark.predicted))


def test_intervals_are_those_of_slides_put_together_by_hand(robustness, undisturbed, dark):
    names, slides = np.unique(undisturbed.slide_ids, return_inverse=True)
    same, change = [], []
    for counts in resample_counts(len(names), CONTEXT.resamples, CONTEXT.seed):
        drawn = np.concatenate([np.flatnonzero(slides == i) for i, n in enumerate(counts) for _ in range(n)])
        labels, old, new = undisturbed.labels[drawn], undisturbed.predicted[drawn], dark.predicted[drawn]
        same.append((old == new).mean())
        change.append(f1_score(labels, new, average="macro") - f1_score(labels, old, average="macro"))
    row = robustness["disturbances"]["dark"]
    assert row["agreement"]["ci95"] == pytest.approx(np.percentile(same, [2.5, 97.5]))
    assert row["change"]["macro_f1"]["ci95"] == pytest.approx(np.percentile(change, [2.5, 97.5]))


def test_what_changes_nothing_agrees_everywhere(robustness):
    row = robustness["disturbances"]["none"]
    assert row["agreement"] == {"value": 1, "ci95": [1, 1]}
    assert row["change"]["macro_f1"] == {"value": 0, "ci95": [0, 0]}
    assert {name: row[name] for name in robustness["undisturbed"]} == robustness["undisturbed"]


def test_the_page_shows_a_row_for_each_disturbance(robustness):
    header, plain, dark, none = table_rows(robustness_page(robustness))
    assert header[0] == "Regions"
    assert plain[0] == "undisturbed"
    assert plain[3] == plain[7] == "n/a"
    figures = robustness["disturbances"]["dark"]
    assert dark[:2] == ["dark", f"{figures['accuracy']['value']:.3f}"]
    assert dark[6].startswith(f"{figures['change']['macro_f1']['value']:+.3f} (")
    assert none[7:] == ["1.000", "1.000 to 1.000"]
    assert len({len(row) for row in (header, plain, dark, none)}) == 1


def test_the_picture_has_a_place_for_each_disturbance_and_its_intervals(robustness):
    left, right = draw_robustness(robustness).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["dark", "none"]
    for axes, name in ((left, "macro_f1"), (right, "agreement")):
        drawn = [list(line.get_xdata()) for line in axes.lines if line.get_label() != "undisturbed"]
        for row in robustness["disturbances"].values():
            assert [row[name]["value"]] in drawn
            assert row[name]["ci95"] in drawn


def test_few_slides_give_figures_without_intervals_and_say_why(undisturbed, dark):
    few, other = (replace(p, slide_ids=["only one"] * 120) for p in (undisturbed, dark))
    robustness = make_robustness(few, {"dark": other}, CONTEXT)
    assert robustness["disturbances"]["dark"]["agreement"]["ci95"] is None
    assert robustness_page(robustness).count("No 95% interval can be given") == 1
    draw_robustness(robustness)


def test_predictions_for_other_regions_are_refused(undisturbed, disturbed):
    with pytest.raises(ValueError, match="for 'dark' are not for the same regions"):
        make_robustness(undisturbed, disturbed, CONTEXT)


def test_the_report_holds_it_thrice(tmp_path, undisturbed, dark):
    results = write_report(tmp_path, undisturbed, replace(CONTEXT, disturbed={"dark": dark}))
    written = json.loads((tmp_path / "robustness.json").read_text())
    assert written == results["robustness"] == json.loads((tmp_path / "results.json").read_text())["robustness"]
    assert (tmp_path / "robustness.png").read_bytes().startswith(b"\x89PNG")
    assert "| dark |" in (tmp_path / "robustness.md").read_text()


# --- From pixels


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Test slides, with context missing in some records."""
    folder = tmp_path_factory.mktemp("data") / "tissue"
    write_dataset(folder, SyntheticSettings(train_slides=6, test_slides=4, lattice=9, patch_size=PATCH_SIZE, seed=8))
    records = json.loads((folder / "metadata.json").read_text())
    for record in records[::2]:
        del record["context_info"]["0_1"]
    (folder / "metadata.json").write_text(json.dumps(records))
    return folder


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, make_model, make_processor):
    """A model whose answer depends on where a patch lies: position embeddings are large."""
    folder = tmp_path_factory.mktemp("model")
    model = make_model(class_names=CLASS_NAMES)
    with torch.no_grad():
        model.projection.weight.mul_(6)
        model.classifier.bias.zero_()
    model.save_pretrained(folder)
    make_processor().save_pretrained(folder)
    return folder


@pytest.fixture
def data_settings(dataset, tmp_path):
    return DataSettings(str(dataset), cache_dir=tmp_path / "cache")


@pytest.fixture
def settings(evaluated, tmp_path):
    return EvaluationSettings(model=str(evaluated), output_dir=tmp_path / "report", num_workers=0, resamples=50)


def by_whole_images(model_folder, dataset, change):
    """Probabilities and labels of the test split; `change` takes and gives whole regions as PIL images."""
    model = AutoModel.from_pretrained(model_folder, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(model_folder, trust_remote_code=True)
    probabilities, labels = [], []
    for record in json.loads((dataset / "metadata.json").read_text()):
        if record["split"] != "test":
            continue
        region = Image.new("RGB", (5 * PATCH_SIZE, 5 * PATCH_SIZE))
        present = Image.new("L", region.size)
        for key, name in (record["context_info"] | {"2_2": record["image_name"]}).items():
            place = tuple(int(number) * PATCH_SIZE for number in key.split("_")[::-1])
            region.paste(Image.open(dataset / "images" / name), place)
            present.paste(255, (*place, *(p + PATCH_SIZE for p in place)))
        mask = np.array(change(present).convert("L"))[::PATCH_SIZE, ::PATCH_SIZE] > 0
        inputs = processor(images=change(region), return_tensors="pt")
        inputs["context_mask"] = torch.from_numpy(mask).view(1, 25)
        with torch.no_grad():
            probabilities.append(model(**inputs).logits.softmax(dim=-1)[0].numpy())
        labels.append(model.config.label2id[record["class"]])
    return np.array(probabilities), np.array(labels)


WHOLE_IMAGES = {
    "turned by 90 degrees": lambda image: image.rotate(90),
    "mirrored": ImageOps.mirror,
    "turned by 270 degrees, mirrored": lambda image: ImageOps.mirror(image.rotate(270)),
    "brightness -20%": lambda image: ImageEnhance.Brightness(image).enhance(0.8),
}


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_accelerator")
def test_disturbed_regions_equal_disturbing_whole_images(settings, data_settings, evaluated, dataset, monkeypatch):
    few = [disturbance for disturbance in DISTURBANCES if disturbance.name in WHOLE_IMAGES]
    monkeypatch.setattr(asking, "DISTURBANCES", few)
    embedded = []
    original = embedded_splits.embed_patches_once
    monkeypatch.setattr(
        embedded_splits, "embed_patches_once", lambda *a, **k: embedded.append(original(*a, **k)) or embedded[-1]
    )
    results = evaluate_model(replace(settings, robustness=True), data_settings)

    plain, labels = by_whole_images(evaluated, dataset, lambda image: image)
    rows = results["robustness"]["disturbances"]
    assert list(rows) == list(WHOLE_IMAGES)
    for name, change in WHOLE_IMAGES.items():
        probabilities, _ = by_whole_images(evaluated, dataset, change)
        predicted = probabilities.argmax(axis=1)
        assert rows[name]["accuracy"]["value"] == pytest.approx(accuracy_score(labels, predicted)), name
        assert rows[name]["agreement"]["value"] == pytest.approx((predicted == plain.argmax(axis=1)).mean()), name
    assert min(rows[name]["agreement"]["value"] for name in WHOLE_IMAGES) < 1
    stores = {store.folder: len(store) for store in embedded}
    assert len(stores) == len(embedded) == 1 + len(few)
    assert len(set(stores.values())) == 1, "each store has each patch once"

    monkeypatch.setattr("spider_tools.embeddings.precompute.PatchEmbedder", None)  # nothing is embedded again
    assert evaluate_model(replace(settings, robustness=True), data_settings) == results


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_accelerator")
def test_probabilities_of_views_are_averaged(settings, data_settings, evaluated, dataset):
    results = evaluate_model(replace(settings, test_time_views=3, context_sizes=("1",)), data_settings)
    turned = [lambda image, angle=angle: image.rotate(angle) for angle in (0, 90, 180)]
    expected = np.mean([by_whole_images(evaluated, dataset, change)[0] for change in turned], axis=0)
    table = pq.read_table(settings.output_dir / "predictions.parquet")
    reported = np.stack([table.column(f"probability: {name}").to_numpy() for name in CLASS_NAMES], axis=1)
    np.testing.assert_allclose(reported, expected, atol=2e-3)
    assert np.abs(expected - by_whole_images(evaluated, dataset, turned[0])[0]).max() > 0.02
    assert results["test_time_views"] == 3
    assert (settings.output_dir / "context_ablation.md").read_text().count("3 views of each region") == 1
