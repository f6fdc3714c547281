"""The head beside prototypes: figures against loops, and what is drawn and embedded for them."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up_predictions import CONTEXT, make_predictions, table_rows
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import normalize
from small_datasets import KEYS, pixels_of, record, rewrite
from tiny_spider import PATCH_SIZE

from spider_tools.data.settings import DataSettings
from spider_tools.embeddings.shards import read_names
from spider_tools.embeddings.store import EmbeddingStore
from spider_tools.evaluation.few_shot import make_few_shot
from spider_tools.evaluation.prototypes import FewShot
from spider_tools.evaluation.report import write_report
from spider_tools.evaluation.run import evaluate_model
from spider_tools.evaluation.settings import EvaluationSettings

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.fixture(scope="module")
def guesses():
    """Three draws, each right on other regions."""
    labels = make_predictions().labels
    rng = np.random.default_rng(1)
    return FewShot(
        5, np.stack([np.where(rng.random(120) < share, labels, rng.integers(0, 4)) for share in (0.4, 0.5, 0.7)])
    )


def test_figures_and_intervals_are_those_of_a_loop(guesses):
    predictions = make_predictions()
    made = make_few_shot(predictions, CONTEXT, guesses)
    slides, names = np.array(predictions.slide_ids), sorted(set(predictions.slide_ids))
    drawn = np.random.default_rng(CONTEXT.seed).multinomial(
        len(names), np.full(len(names), 1 / len(names)), size=CONTEXT.resamples
    )
    sets = [np.concatenate([np.tile(np.flatnonzero(slides == s), n) for s, n in zip(names, row)]) for row in drawn]
    labels = predictions.labels
    for name, figure in (
        ("accuracy", accuracy_score),
        ("macro_f1", lambda true, said: f1_score(true, said, average="macro", zero_division=0)),
    ):
        by_draw = [figure(labels, said) for said in guesses.predicted]
        ours = made["metrics"][name]
        assert ours["value"] == pytest.approx(np.mean(by_draw))
        assert ours["range"] == pytest.approx([min(by_draw), max(by_draw)])
        means = np.array([np.mean([figure(labels[rows], said[rows]) for said in guesses.predicted]) for rows in sets])
        assert ours["ci95"] == pytest.approx(np.percentile(means, [2.5, 97.5]))
        head = np.array([figure(labels[rows], predictions.predicted[rows]) for rows in sets])
        difference = made["head_minus_few_shot"][name]
        assert difference["value"] == pytest.approx(figure(labels, predictions.predicted) - np.mean(by_draw))
        assert difference["ci95"] == pytest.approx(np.percentile(head - means, [2.5, 97.5]))


def test_the_report_has_a_page_of_it_until_it_is_not_asked_for(tmp_path, guesses):
    context = replace(CONTEXT, few_shot=guesses)
    few = replace(make_predictions(), slide_ids=["a", "b"] * 60)
    results = write_report(tmp_path, few, context)
    assert json.loads((tmp_path / "results.json").read_text())["few_shot"] == results["few_shot"]
    page = (tmp_path / "few_shot.md").read_text()
    assert "# The head beside prototypes of 5 regions per class" in page
    assert page.count("resampling slides needs at least 10") == 1
    head, ours = results["metrics"]["accuracy"]["value"], results["few_shot"]["metrics"]["accuracy"]
    row = table_rows(page)[1]
    assert row[:2] == ["Accuracy", f"{head:.3f}"]
    assert row[3:] == [
        f"{ours['value']:.3f}",
        "n/a",
        "{:.3f} to {:.3f}".format(*ours["range"]),
        f"{head - ours['value']:+.3f}",
        "n/a",
    ]
    assert "few_shot" not in write_report(tmp_path, few, CONTEXT)
    assert not (tmp_path / "few_shot.md").exists()


def test_prototypes_of_other_regions_are_refused(guesses):
    with pytest.raises(ValueError, match=r"Expected \(draws, 60\) classes, got \(3, 120\)"):
        make_few_shot(make_predictions(regions=60), CONTEXT, guesses)


# ------------------------------------------------------------------------------------------------ with a model and data

CLASSES = ["Fat", "Nerves", "Vessels"]
OF_THE_MODEL = ["Vessels", "Bone", "Nerves"]


def records_of(split, slides, per_slide):
    """Regions of all classes on every slide, most of whose context is missing."""
    return [
        record(f"{split}{slide}", 3 * number + i, name, split, missing=KEYS[:20])
        for slide in range(slides)
        for number in range(per_slide)
        for i, name in enumerate(CLASSES)
    ]


@pytest.fixture(scope="module")
def tissue(tmp_path_factory):
    """Four regions of each class in train, on two slides, and six in test."""
    folder = tmp_path_factory.mktemp("data") / "tissue"
    records = records_of("train", 2, 2) + records_of("test", 2, 3)
    (folder / "images").mkdir(parents=True)
    for name in {name for r in records for name in [r["image_name"], *r["context_info"].values()]}:
        Image.fromarray(pixels_of(name, PATCH_SIZE, PATCH_SIZE)).save(folder / "images" / name)
    rewrite(folder, records)
    return folder


@pytest.fixture
def data_settings(tissue, tmp_path):
    return DataSettings(str(tissue), cache_dir=tmp_path / "cache", validation_fraction=0)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, make_model, processor):
    folder = tmp_path_factory.mktemp("model")
    make_model(class_names=OF_THE_MODEL).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def settings(evaluated, tmp_path):
    return EvaluationSettings(
        model=str(evaluated), output_dir=tmp_path / "R", num_workers=0, few_shot=4, resamples=5, allow_subset=True
    )


def names_in(folder):
    (store,) = map(EmbeddingStore.open, folder.iterdir())
    return {name for shard in store.index.shards for name in read_names(store.folder, shard).to_pylist()}


@pytest.mark.slow
def test_with_all_regions_of_the_classes_every_draw_is_that_of_scikit_learn(
    settings, data_settings, make_model, processor
):
    results = evaluate_model(settings, data_settings)
    model = make_model(class_names=OF_THE_MODEL)

    def central(split):
        chosen = [r for r in records_of(split, 2, 2 if split == "train" else 3) if r["class"] in OF_THE_MODEL]
        pixels = [pixels_of(r["image_name"], PATCH_SIZE, PATCH_SIZE) for r in chosen]
        patches = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255
        mean, std = (
            torch.tensor(values).view(3, 1, 1)
            for values in (processor.image_processor.image_mean, processor.image_processor.image_std)
        )
        with torch.no_grad():
            return model.embed_patches((patches - mean) / std).numpy(), [r["class"] for r in chosen]

    (support, labels), (queries, true) = central("train"), central("test")
    center = support.mean(axis=0)
    said = NearestCentroid().fit(normalize(support - center), labels).predict(normalize(queries - center))
    expected = {"accuracy": accuracy_score(true, said), "macro_f1": f1_score(true, said, average="macro")}
    assert 0 < expected["accuracy"] < 1
    assert (results["few_shot"]["regions_per_class"], results["few_shot"]["draws"]) == (4, 10)
    for name, value in expected.items():
        assert results["few_shot"]["metrics"][name]["value"] == pytest.approx(value)
        assert results["few_shot"]["metrics"][name]["range"] == pytest.approx([value, value])


@pytest.mark.slow
def test_few_patches_more_are_embedded_and_the_head_is_the_same(settings, data_settings):
    results = evaluate_model(replace(settings, few_shot=1), data_settings)
    test = [r for r in records_of("test", 2, 3) if r["class"] in OF_THE_MODEL]
    of_test = {name for r in test for name in [r["image_name"], *r["context_info"].values()]}
    central = {r["image_name"] for r in records_of("train", 2, 2) if r["class"] in OF_THE_MODEL}
    added = names_in(settings.output_dir / "embeddings") - of_test
    assert len(added) > 2
    assert added <= central
    assert of_test <= names_in(settings.output_dir / "embeddings")
    page = (settings.output_dir / "few_shot.md").read_text()
    assert "prototypes of 1 region per class" in page
    plain = evaluate_model(replace(settings, few_shot=None), data_settings)
    assert plain == {key: value for key, value in results.items() if key != "few_shot"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"few_shot": 0}, "--few_shot must be at least 1, got 0"),
        ({"few_shot": 4, "split": "train"}, "--split must be another one, got 'train'"),
        (
            {"few_shot": 5},
            r"--few_shot 5 needs 5 regions of every class in the train split, got 4 of 'Vessels', 4 of 'N",
        ),
    ],
)
def test_what_prototypes_cannot_be_made_of_is_refused_before_the_work(settings, data_settings, change, message):
    with pytest.raises(ValueError, match=message):
        evaluate_model(replace(settings, **change), data_settings)
    assert not settings.output_dir.exists()


def test_data_without_a_train_split_say_so(settings, data_settings, tissue, tmp_path):
    shutil.copytree(tissue, tmp_path / "tissue")
    rewrite(tmp_path / "tissue", records_of("test", 2, 3))
    data_settings = replace(data_settings, dataset=str(tmp_path / "tissue"))
    with pytest.raises(ValueError, match=r"from the split 'train', which tissue has not, only \['test'\]"):
        evaluate_model(settings, data_settings)
    assert not settings.output_dir.exists()
