"""Evaluation: equal to a brute-force loop over whole regions, whatever the number of processes."""

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import launched
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.metrics import accuracy_score, f1_score
from transformers import AutoModel, AutoProcessor

from spider_tools import remote_code
from spider_tools.data.settings import DataSettings
from spider_tools.demo.synthetic import CLASS_NAMES, SyntheticSettings, write_dataset
from spider_tools.evaluation.metrics import expected_calibration_error
from spider_tools.evaluation.predict import context_window
from spider_tools.evaluation.run import evaluate_model
from spider_tools.evaluation.settings import EvaluationSettings
from spider_tools.model_folder import weights_sha256
from spider_tools.output_folder import only_run_in
from spider_tools.weights.loading import load_spider

pytestmark = [pytest.mark.usefixtures("fresh_accelerator"), pytest.mark.slow]

ROOT = remote_code.REPOSITORY_ROOT
PATCH_SIZE = 28


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Two test slides, with context missing in some records."""
    folder = tmp_path_factory.mktemp("data") / "tissue"
    write_dataset(folder, SyntheticSettings(train_slides=6, test_slides=4, lattice=9, patch_size=PATCH_SIZE, seed=8))
    records = json.loads((folder / "metadata.json").read_text())
    for number, record in enumerate(records):
        if number % 3 == 0:
            del record["context_info"][f"{number % 2}_{number % 5}"]
    (folder / "metadata.json").write_text(json.dumps(records))
    return folder


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, make_model, make_processor):
    """A model of the data's classes, in an order of its own."""
    folder = tmp_path_factory.mktemp("model")
    model = make_model(class_names=CLASS_NAMES[::-1])
    with torch.no_grad():
        model.projection.weight.mul_(6)  # so that regions, and contexts, make a difference
        model.classifier.bias.zero_()
    model.save_pretrained(folder)
    make_processor().save_pretrained(folder)
    return folder


@pytest.fixture
def data_settings(dataset, tmp_path):
    return DataSettings(str(dataset), cache_dir=tmp_path / "cache")


@pytest.fixture
def settings(evaluated, tmp_path):
    return EvaluationSettings(
        model=str(evaluated), output_dir=tmp_path / "report", num_workers=0, batch_size=7, resamples=50
    )


def by_brute_force(model_folder, dataset, split="test", context_size=5):
    """Probabilities, labels and centre patches: one region at a time, from pixels, through the Auto classes."""
    model = AutoModel.from_pretrained(model_folder, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(model_folder, trust_remote_code=True)
    probabilities, labels, centers = [], [], []
    for record in json.loads((dataset / "metadata.json").read_text()):
        if record["split"] != split:
            continue
        names = record["context_info"] | {"2_2": record["image_name"]}
        region = np.zeros((5 * PATCH_SIZE, 5 * PATCH_SIZE, 3), dtype=np.uint8)
        mask = np.zeros((5, 5), dtype=bool)
        for key, name in names.items():
            row, column = map(int, key.split("_"))
            patch = np.asarray(Image.open(dataset / "images" / name).convert("RGB"))
            region[row * PATCH_SIZE : (row + 1) * PATCH_SIZE, column * PATCH_SIZE : (column + 1) * PATCH_SIZE] = patch
            mask[row, column] = max(abs(row - 2), abs(column - 2)) <= context_size // 2
        inputs = processor(images=region, return_tensors="pt")
        inputs["context_mask"] = torch.from_numpy(mask).view(1, 25)
        with torch.no_grad():
            probabilities.append(model(**inputs).logits.softmax(dim=-1)[0].numpy())
        labels.append(model.config.label2id[record["class"]])
        centers.append(record["image_name"])
    return np.array(probabilities), np.array(labels), centers


def reported_probabilities(folder, class_names):
    table = pq.read_table(folder / "predictions.parquet")
    return np.stack([table.column(f"probability: {name}").to_numpy() for name in class_names], axis=1), table


def test_results_equal_those_of_one_region_at_a_time(settings, data_settings, evaluated, dataset):
    results = evaluate_model(settings, data_settings)
    probabilities, labels, centers = by_brute_force(evaluated, dataset)
    reported, table = reported_probabilities(settings.output_dir, CLASS_NAMES[::-1])
    assert table.column("patch").to_pylist() == centers
    np.testing.assert_allclose(reported, probabilities, atol=2e-3)  # embeddings are stored as float16
    predicted = reported.argmax(axis=1)
    figures = {name: figure["value"] for name, figure in results["metrics"].items()}
    assert figures["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert figures["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert results["regions"] == len(labels)
    assert results["slides"] == 4
    assert json.loads((settings.output_dir / "results.json").read_text()) == results


def test_smaller_contexts_equal_masking_by_hand(settings, data_settings, evaluated, dataset):
    evaluate_model(replace(settings, context_sizes=("5", "3", "1")), data_settings)
    ablation = json.loads((settings.output_dir / "context_ablation.json").read_text())
    calibration = {}
    for size in (5, 3, 1):
        probabilities, labels, _ = by_brute_force(evaluated, dataset, context_size=size)
        figures = ablation["context_sizes"][str(size)]["metrics"]
        assert figures["accuracy"]["value"] == pytest.approx(accuracy_score(labels, probabilities.argmax(axis=1)))
        calibration[size] = figures["expected_calibration_error"]["value"]
        assert calibration[size] == pytest.approx(expected_calibration_error(probabilities, labels), abs=2e-3)
    assert np.ptp(list(calibration.values())) > 0.01, "a model that ignores its context shows nothing"


def test_the_context_window_is_the_central_square():
    window = context_window(25, 3).view(5, 5)
    expected = [[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 1, 1, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]]
    assert window.int().tolist() == expected
    assert context_window(9, 3).all()


@pytest.mark.parametrize("size", [0, 2, 7])
def test_a_context_that_is_no_central_square_is_refused(size):
    with pytest.raises(ValueError, match=f"odd and between 1 and 5, got {size}"):
        context_window(25, size)


def other_model(tmp_path, make_model, make_processor, class_names):
    make_model(class_names=class_names).save_pretrained(tmp_path / "other")
    make_processor().save_pretrained(tmp_path / "other")
    return str(tmp_path / "other")


def test_differing_classes_are_refused_with_both_differences(
    settings, data_settings, tmp_path, make_model, make_processor
):
    model = other_model(tmp_path, make_model, make_processor, ["Bone", *CLASS_NAMES[1:]])
    with pytest.raises(ValueError, match=r"Only in the data: \['Fat'\]. Only in the model: \['Bone'\]"):
        evaluate_model(replace(settings, model=model), data_settings)
    assert not settings.output_dir.exists()


def test_a_subset_evaluates_the_classes_that_both_have(settings, data_settings, tmp_path, make_model, make_processor):
    model = other_model(tmp_path, make_model, make_processor, ["Bone", *CLASS_NAMES[1:]])
    results = evaluate_model(replace(settings, model=model, allow_subset=True), data_settings)
    records = json.loads((Path(data_settings.dataset) / "metadata.json").read_text())
    assert results["regions"] == sum(r["split"] == "test" and r["class"] != "Fat" for r in records)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "holdout"}, "has no split 'holdout', only"),
        ({"context_sizes": ("7",)}, "odd and between 1 and 5, got 7"),
    ],
)
def test_what_the_data_or_the_model_do_not_have_is_said(settings, data_settings, change, message):
    with pytest.raises(ValueError, match=message):
        evaluate_model(replace(settings, **change), data_settings)


def test_a_second_evaluation_into_the_same_folder_is_refused_and_writes_nothing(settings, data_settings):
    with only_run_in(settings.output_dir):
        with pytest.raises(OSError, match=f"{settings.output_dir} is being written by another run"):
            evaluate_model(settings, data_settings)
        assert [path.name for path in settings.output_dir.iterdir()] == [".lock"]
    assert evaluate_model(settings, data_settings)["slides"] == 4


@pytest.mark.parametrize("place", ["notes.txt", "notes.txt/report", "/proc/no_such_folder/report"])
def test_an_output_folder_that_cannot_be_written_is_refused_before_the_work(
    settings, data_settings, tmp_path, monkeypatch, place
):
    (tmp_path / "notes.txt").write_text("mine")
    monkeypatch.setattr("spider_tools.evaluation.run.load_regions", lambda settings: pytest.fail("work has begun"))
    for setting in ("output_dir", "embedding_store"):
        with pytest.raises(OSError, match=f"^--{setting} .*{place.split('/')[-1]} cannot be written"):
            evaluate_model(replace(settings, **{setting: tmp_path / place}), data_settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context_sizes": ("4",)}, "odd numbers separated by commas, got '4'"),
        ({"batch_size": 0}, "--batch_size must be at least 1, got 0"),
        ({"test_time_views": 41}, "--test_time_views must be at least 1 and at most 40, got 41"),
        ({"test_time_views": 2, "robustness": True}, "--robustness asks the model alone"),
    ],
)
def test_settings_out_of_range_are_refused(settings, change, message):
    with pytest.raises(ValueError, match=message):
        replace(settings, **change)


def rounded(text):
    """JSON whose numbers have six digits: sums of another order differ in the eighth."""
    return json.loads(text, parse_float=lambda number: float(f"{float(number):.6g}"))


@pytest.mark.slow
def test_the_script_gives_the_same_report_with_one_process_and_with_two(settings, data_settings, tmp_path):
    expected = evaluate_model(settings, data_settings)
    flags = {"model": settings.model, "dataset": data_settings.dataset, "output_dir": tmp_path / "two"}
    flags |= {"num_workers": 0, "batch_size": 7, "resamples": 50, "cache_dir": data_settings.cache_dir}
    script = [sys.executable, str(ROOT / "evaluate.py"), *(f"--{name}={value}" for name, value in flags.items())]
    done = launched.run(script, env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "accuracy" in done.stdout
    found = (tmp_path / "two" / "results.json").read_text()
    assert rounded(found) == rounded(json.dumps(expected))
    one, two = (reported_probabilities(f, CLASS_NAMES)[0] for f in (settings.output_dir, tmp_path / "two"))
    np.testing.assert_allclose(one, two, atol=1e-5)


def test_results_name_the_weights_and_not_where_somebody_keeps_them(settings, data_settings, evaluated):
    evaluate_model(settings, data_settings)
    results = json.loads((settings.output_dir / "results.json").read_text())
    assert results["model"] == Path(evaluated).name
    assert results["weights_sha256"] == weights_sha256(Path(evaluated))
    assert str(Path(evaluated).parent) not in (settings.output_dir / "results.json").read_text()


def test_weights_that_are_no_numbers_are_told_in_words(settings, data_settings, tmp_path, evaluated):
    broken = shutil.copytree(evaluated, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["classifier.bias"][1] = float("nan")
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(FloatingPointError, match="logits that are NaN or infinite"):
        evaluate_model(replace(settings, model=str(broken)), data_settings)


def test_an_index_that_leads_out_of_the_folder_is_not_followed(tmp_path, evaluated):
    folder = shutil.copytree(evaluated, tmp_path / "led_out")
    (folder / "model.safetensors").rename(tmp_path / "x.safetensors")
    names = load_file(tmp_path / "x.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "../x.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"names '\.\./x\.safetensors'"):
        load_spider(str(folder))
