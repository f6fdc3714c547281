"""Models that training and `python -m spider_tools.calibration` calibrate: on validation alone, and as they say."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from sklearn.covariance import LedoitWolf
from tiny_spider import ROOT
from training_runs import PATCH_SIZE, remembered_by, weights_of
from transformers import AutoModel, AutoProcessor

from spider_tools.calibration import __main__ as command
from spider_tools.calibration.run import calibrate_model
from spider_tools.calibration.settings import CalibrationSettings
from spider_tools.data.loading import load_regions
from spider_tools.demo.synthetic import SyntheticSettings, write_dataset
from spider_tools.evaluation.run import evaluate_model
from spider_tools.evaluation.settings import EvaluationSettings
from spider_tools.training.run import train
from spider_tools.weights.loading import load_spider

pytestmark = [pytest.mark.usefixtures("fresh_accelerator"), pytest.mark.slow]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Enough regions to fit a temperature to, unlike what the other tests of training have."""
    folder = tmp_path_factory.mktemp("data") / "tissue"
    write_dataset(folder, SyntheticSettings(train_slides=8, test_slides=2, lattice=11, patch_size=PATCH_SIZE, seed=5))
    return folder


def fresh():
    AcceleratorState._reset_state(reset_partial_state=True)


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def calibration_of(folder, data_settings, split="validation"):
    fresh()
    report = EvaluationSettings(model=str(folder), output_dir=folder.parent / "report", split=split, num_workers=0)
    return evaluate_model(report, data_settings)["calibration"]


def value_of(side):
    return side["negative_log_likelihood"]["value"]


def test_training_ends_with_a_temperature_that_the_validation_split_prefers(settings, data_settings):
    folder = train(replace(settings, label_smoothing=0.4, epochs=4), data_settings)
    config = config_of(folder)
    temperature = config["logit_temperature"]
    assert temperature != 1
    assert config["calibration"]["temperature"] == temperature
    assert config["calibration"]["split"] == "validation"
    assert config["calibration"]["dataset"] == "tissue"
    found = calibration_of(folder, data_settings)
    assert found["temperature"] == temperature
    assert value_of(found["after"]) <= value_of(found["before"]) + 1e-6
    # Neither warmer nor colder is better but for what the smoothing of so few regions asks.
    losses = {}
    for factor in (0.7, 1.0, 1.4):
        (folder / "config.json").write_text(json.dumps(config | {"logit_temperature": temperature * factor}))
        losses[factor] = value_of(calibration_of(folder, data_settings)["after"])
    assert losses[1.0] < min(losses[0.7], losses[1.4]) + 0.02


def embeddings_of(model, processor, data, split):
    """Of each region's 25 patches, float `(regions, 25, hidden)`, through the public way; regions have no gaps."""
    grids = []
    for row in data.splits[split]:
        side = 5 * PATCH_SIZE
        region = np.zeros((side, side, 3), dtype=np.uint8)
        mask = np.array([name is not None for name in row["patches"]])
        for place in np.flatnonzero(mask):
            y, x = (int(axis) * PATCH_SIZE for axis in divmod(place, 5))
            region[y : y + PATCH_SIZE, x : x + PATCH_SIZE] = data.patches.read(row["patches"][place])
        with torch.no_grad():
            pixels = processor(images=region, return_tensors="pt")["pixel_values"][0]
            grids.append((model.embed_patches(pixels), torch.from_numpy(mask)))
    return torch.stack([grid for grid, _ in grids]), torch.stack([mask for _, mask in grids])


def test_training_ends_with_a_notion_of_what_is_familiar(settings, data_settings):
    folder = train(replace(settings, epochs=1), data_settings)
    config = config_of(folder)
    told = config["calibration"]["familiarity"]
    data = load_regions(data_settings)
    assert config["familiarity_means"] == len(data.class_names)
    assert told["fitted_to"] == len(data.splits["train"])
    assert told["threshold"] == config["unfamiliarity_threshold"]
    assert (told["false_alarm_rate"], told["regions"]) == (0.05, len(data.splits["validation"]))
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)

    train_embeddings, _ = embeddings_of(model, processor, data, "train")
    centers, labels = train_embeddings[:, 12].double().numpy(), np.array(data.splits["train"]["label"])
    means = np.stack([centers[labels == label].mean(axis=0) for label in range(len(data.class_names))])
    shrunk = LedoitWolf(assume_centered=True).fit(centers - means[labels])
    embeddings, mask = embeddings_of(model, processor, data, "validation")
    flat = embeddings.double().numpy().reshape(-1, embeddings.shape[-1])
    nearest = np.min([shrunk.mahalanobis(flat - mean) for mean in means], axis=0)
    distances = np.sqrt(nearest / flat.shape[1]).reshape(-1, 25)
    expected = [of[present].mean() for of, present in zip(distances, mask.numpy())]
    with torch.no_grad():
        outputs = model(patch_embeddings=embeddings, context_mask=mask)
    # The store that training reads has embeddings in float16, and what varies little is stretched far.
    np.testing.assert_allclose(outputs.unfamiliarity.numpy(), expected, rtol=0.05)
    slides = np.array(data.splits["validation"]["slide_id"])
    alarms = [1 - outputs.is_familiar.numpy()[slides == slide].mean() for slide in set(slides)]
    assert np.mean(alarms) <= 0.05 + 0.03
    # And noise is nothing that it knows.
    noise = np.random.default_rng(0).integers(0, 256, (5 * PATCH_SIZE, 5 * PATCH_SIZE, 3), dtype=np.uint8)
    with torch.no_grad():
        stranger = model(**processor(images=noise, return_tensors="pt"))
    assert not stranger.is_familiar.item()
    assert stranger.predicted_class_names[0] in data.class_names


def test_sets_are_remembered_and_evaluated(settings, data_settings, tmp_path):
    folder = train(replace(settings, epochs=2), data_settings)
    sets = config_of(folder)["calibration"]["sets"]
    data = load_regions(data_settings)
    labels = np.array(data.splits["validation"]["label"])
    assert [one["regions"] for one in sets.values()] == np.bincount(labels, minlength=len(data.class_names)).tolist()
    assert {one["by"] for one in sets.values()} == {"region"}  # of two slides
    fresh()
    asked = EvaluationSettings(
        model=str(folder), output_dir=tmp_path / "report", split="validation", coverage=0.6, num_workers=0
    )
    found = evaluate_model(asked, data_settings)["prediction_sets"]
    # The regions that the sets were fitted to are inside as often as asked, but for steps of one region.
    for name, row in found["per_class"].items():
        if row["coverage"] is not None:
            assert row["coverage"]["value"] >= 0.6 - 1 / sets[name]["regions"]
    fresh()
    with pytest.raises(ValueError, match=r"--coverage 0.999 needs at least 999 regions of every class"):
        evaluate_model(replace(asked, coverage=0.999), data_settings)


def test_without_a_validation_split_there_is_none_and_it_is_told(settings, data_settings, caplog):
    folder = train(replace(settings, epochs=1), replace(data_settings, validation_fraction=0.0))
    assert config_of(folder)["logit_temperature"] == 1
    assert config_of(folder)["calibration"]["reason"] == "not calibrated: there is no validation split"
    assert "The model's probabilities: not calibrated: there is no validation split." in caplog.text
    told = config_of(folder)["calibration"]
    assert told["sets"] is told["familiarity"]["threshold"] is config_of(folder)["unfamiliarity_threshold"] is None
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad():
        outputs = model(patch_embeddings=torch.zeros(1, 25, model.config.backbone_config.hidden_size))
    assert outputs.unfamiliarity is not None
    assert outputs.is_familiar is outputs.class_p_values is None


def test_a_calibrated_start_is_trained_at_temperature_1(settings, data_settings):
    start = train(replace(settings, epochs=1), replace(data_settings, validation_fraction=0.0))
    hot = shutil.copytree(start, settings.output_dir.parent / "hot")
    (hot / "config.json").write_text(json.dumps(config_of(start) | {"logit_temperature": 3.0}))
    trained = []
    for number, source in enumerate((start, hot)):
        fresh()
        again = replace(
            settings, output_dir=settings.output_dir.parent / f"again{number}", init_from=str(source), epochs=1
        )
        trained.append(weights_of(train(again, replace(data_settings, validation_fraction=0.0))))
    assert all(np.array_equal(trained[0][name], trained[1][name]) for name in trained[0])
    assert config_of(again.output_dir)["logit_temperature"] == 1


def test_the_command_calibrates_a_model_that_is_there(settings, data_settings, capsys, tmp_path):
    folder = train(replace(settings, epochs=2), data_settings)
    by_training = config_of(folder)
    spoilt = by_training | {"logit_temperature": by_training["logit_temperature"] * 2}
    (folder / "config.json").write_text(json.dumps(spoilt))
    fresh()
    words = [str(folder), "--dataset", data_settings.dataset, "--cache_dir", str(data_settings.cache_dir)]
    words += ["--validation_fraction", "0.3", "--num_workers", "0"]
    command.main(command.parse_args(words))
    told = capsys.readouterr().out
    assert config_of(folder)["logit_temperature"] == pytest.approx(by_training["logit_temperature"], rel=1e-3)
    assert f"temperature {config_of(folder)['logit_temperature']:.4g}, fitted on" in told
    assert f"The model is in {folder}" in told

    fresh()
    copy = CalibrationSettings(model=str(folder), output_dir=tmp_path / "copy", num_workers=0)
    made = calibrate_model(copy, data_settings)
    assert made["temperature"] == pytest.approx(by_training["logit_temperature"], rel=1e-3)
    assert made["before"] == pytest.approx(made["after"], abs=1e-4)
    for name in ("modeling_spider.py", "preprocessor_config.json"):
        assert (tmp_path / "copy" / name).read_bytes() == (folder / name).read_bytes()
    assert all(np.array_equal(weights_of(folder)[name], w) for name, w in weights_of(tmp_path / "copy").items())
    assert calibration_of(tmp_path / "copy", data_settings)["temperature"] == made["temperature"]


def test_the_command_teaches_a_model_what_is_familiar(settings, data_settings, tmp_path):
    """In the dtype of its files, with this version's code, and as training would have."""
    folder = train(replace(settings, epochs=1), data_settings)
    by_training, remembered = config_of(folder), remembered_by(folder)
    model = load_spider(str(folder))
    model.remember(familiarity_means=0, conformal_scores=0)
    model.config.unfamiliarity_threshold = None
    model.half().save_pretrained(folder)
    (folder / "certainty_spider.py").write_text((ROOT / "certainty_spider.py").read_text() + "# of an older version\n")
    assert not remembered_by(folder)
    fresh()
    asked = CalibrationSettings(model=str(folder), output_dir=tmp_path / "taught", familiarity=True, num_workers=0)
    made = calibrate_model(asked, data_settings)
    taught = config_of(tmp_path / "taught")
    assert made["familiarity"]["fitted_to"] == by_training["calibration"]["familiarity"]["fitted_to"]
    assert taught["unfamiliarity_threshold"] == pytest.approx(by_training["unfamiliarity_threshold"], rel=0.02)
    assert remembered_by(tmp_path / "taught").keys() == remembered.keys()
    assert {tensor.dtype for tensor in remembered_by(tmp_path / "taught").values()} == {torch.float32}
    assert {tensor.dtype for tensor in weights_of(tmp_path / "taught").values()} == {torch.float16}
    code = (tmp_path / "taught" / "certainty_spider.py").read_text()
    assert code == (ROOT / "certainty_spider.py").read_text()


def test_what_cannot_be_calibrated_is_refused_and_left(settings, data_settings, tmp_path):
    folder = train(replace(settings, epochs=1), replace(data_settings, validation_fraction=0.0))
    before = (folder / "config.json").read_bytes()
    asked = CalibrationSettings(model=str(folder), output_dir=folder, num_workers=0)
    for data, message in (
        (replace(data_settings, validation_fraction=0.0), "has no split 'validation'"),
        (replace(data_settings, max_regions_per_class=1), "too few to fit a temperature to"),
    ):
        fresh()
        with pytest.raises(ValueError, match=message):
            calibrate_model(asked, data)
    assert (folder / "config.json").read_bytes() == before
    with pytest.raises(SystemExit):
        command.parse_args(["org/model", "--dataset", "d"])
