"""Models that training and `python -m spider_tools.calibration` calibrate: on validation alone, and as they say."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from training_runs import PATCH_SIZE, weights_of

from spider_tools.calibration import __main__ as command
from spider_tools.calibration.run import calibrate_model
from spider_tools.calibration.settings import CalibrationSettings
from spider_tools.demo.synthetic import SyntheticSettings, write_dataset
from spider_tools.evaluation.run import evaluate_model
from spider_tools.evaluation.settings import EvaluationSettings
from spider_tools.training.run import train

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


def test_without_a_validation_split_there_is_none_and_it_is_told(settings, data_settings, caplog):
    folder = train(replace(settings, epochs=1), replace(data_settings, validation_fraction=0.0))
    assert config_of(folder)["logit_temperature"] == 1
    assert config_of(folder)["calibration"]["reason"] == "not calibrated: there is no validation split"
    assert "The model's probabilities: not calibrated: there is no validation split." in caplog.text


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
    for name in ("model.safetensors", "modeling_spider.py", "preprocessor_config.json"):
        assert (tmp_path / "copy" / name).read_bytes() == (folder / name).read_bytes()
    assert calibration_of(tmp_path / "copy", data_settings)["temperature"] == made["temperature"]


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
