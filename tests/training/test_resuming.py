"""Resuming: what can be honoured is, all else is refused with both values, and nothing of a checkpoint runs."""

import json
import logging
import os
import pickle
import shutil
import stat
from dataclasses import replace

import pytest
import torch
from accelerate.state import AcceleratorState
from filelock import FileLock
from safetensors.torch import load_file, save_file
from training_runs import NO_DROPOUT, PATCH_SIZE, assert_equal_weights, history_of, run_settings, weights_of

from spider_tools import remote_code
from spider_tools.data.settings import DataSettings
from spider_tools.model_folder import save_model_folder
from spider_tools.training import loop
from spider_tools.training.checkpoints import Checkpoints
from spider_tools.training.run import train
from spider_tools.weights.loading import load_config, load_spider

pytestmark = [pytest.mark.usefixtures("fresh_accelerator"), pytest.mark.slow]


@pytest.fixture
def settings(settings):
    return replace(settings, epochs=1, **NO_DROPOUT)


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory, dataset, backbone_config):
    """The output folder of a run of one epoch, to be copied."""
    AcceleratorState._reset_state(reset_partial_state=True)
    folder = tmp_path_factory.mktemp("once") / "run"
    data_settings = DataSettings(
        str(dataset), cache_dir=folder.with_name("cache"), patch_size=PATCH_SIZE, validation_fraction=0.3
    )
    train(run_settings(folder, backbone_config, epochs=1, **NO_DROPOUT), data_settings)
    return folder


@pytest.fixture
def started(trained_once, settings):
    """Settings of a run that was trained for one epoch, in a folder of its own."""
    shutil.copytree(trained_once, settings.output_dir)
    return settings


def checkpoints_of(settings):
    return sorted(settings.checkpoints_folder.glob("step_*"))


def resumed(settings, **changes):
    return replace(settings, **{"resume_from_checkpoint": "latest", **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 8}, "--batch_size was 16, is 8"),
        ({"weight_decay": 0.5}, "--weight_decay was 0.01, is 0.5"),
        ({"label_smoothing": 0.0}, "--label_smoothing was 0.2, is 0.0"),
        ({"warmup_epochs": 0.5}, "--warmup_epochs was 1.0, is 0.5"),
        ({"class_weights": "balanced"}, "--class_weights was 'none', is 'balanced'"),
        ({"context_dropout": 0.1}, "--context_dropout was 0.0, is 0.1"),
        ({"batch_order": "slide"}, "--batch_order was 'random', is 'slide'"),
        ({"head_dropout_prob": 0.2}, "--head_dropout_prob was 0.0, is 0.2"),
        ({"head_hidden_size": 64}, "--head_hidden_size was 128, is 64"),
        ({"train_backbone": "full"}, "--train_backbone was 'frozen', is 'full'"),
        ({"embedding_dtype": "bfloat16"}, "--embedding_dtype was 'float32', is 'bfloat16'"),
        ({"views": 2}, "--views was 1, is 2"),
        ({"seed": 1}, "--seed was 0, is 1"),
        ({"seed": 1, "batch_size": 8}, "--batch_size was 16, is 8; .*--seed was 0, is 1|--seed.*--batch_size"),
    ],
)
def test_settings_that_decided_what_was_learnt_are_refused_with_both_values(started, data_settings, changes, words):
    noted = (started.run_folder / "settings.json").read_bytes()
    with pytest.raises(ValueError, match=rf"cannot be resumed with other settings .*({words})"):
        train(resumed(started, **changes), data_settings)
    assert (started.run_folder / "settings.json").read_bytes() == noted


def test_what_decides_nothing_of_what_was_learnt_may_change(settings, data_settings, tmp_path):
    first = replace(settings, epochs=2, warmup_epochs=0.0, early_stopping_patience=1, learning_rate=1e-3)
    train(replace(first, epochs=1), data_settings)
    again = resumed(
        first,
        num_workers=1,
        checkpoint_every=3,
        checkpoints_kept=5,
        embedding_batch_size=7,
        early_stopping_patience=4,
        embedding_store=tmp_path / "store",
    )
    rows = history_of(train(again, replace(data_settings, cache_dir=tmp_path / "elsewhere")))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[-1]["learning_rate"]) == pytest.approx(0, abs=1e-12)


def test_another_number_of_epochs_is_honoured_and_the_schedule_ends_with_the_last(started, data_settings):
    folder = train(resumed(started, epochs=3), data_settings)
    rows = history_of(folder)
    assert len(rows) == 3
    assert float(rows[-1]["learning_rate"]) == pytest.approx(0, abs=1e-12)
    assert 0 < float(rows[1]["learning_rate"]) < started.learning_rate
    (change,) = load_config(str(folder)).training["changes"]
    assert (change["setting"], change["before"], change["now"]) == ("epochs", 1, 3)


def test_a_lower_learning_rate_is_used_from_there_on_and_written_down(settings, data_settings, monkeypatch):
    started = replace(settings, epochs=3)
    steps = []
    monkeypatch.setattr(loop, "is_out_of_patience", lambda setup, progress: progress.epoch == 1)
    train(started, data_settings)
    monkeypatch.undo()
    step = loop.optimizer_step

    def watch(setup, *arguments):
        steps.append(setup.optimizer.param_groups[0]["lr"])
        return step(setup, *arguments)

    monkeypatch.setattr(loop, "optimizer_step", watch)
    folder = train(resumed(started, learning_rate=4e-5, max_grad_norm=0.5), data_settings)
    assert steps[0] == pytest.approx(4e-5)  # the peak, right after the warm-up
    assert steps == sorted(steps, reverse=True)
    facts = load_config(str(folder)).training
    assert facts["settings"]["learning_rate"] == 4e-5
    noted = {change["setting"]: (change["before"], change["now"]) for change in facts["changes"]}
    assert noted == {"learning_rate": (4e-4, 4e-5), "max_grad_norm": (None, 0.5)}
    assert json.loads((settings.run_folder / "settings.json").read_text())["learning_rate"] == 4e-5


def test_the_way_out_of_a_loss_that_is_no_number_works(started, data_settings, monkeypatch):
    cross_entropy = torch.nn.functional.cross_entropy
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", lambda logits, *a, **k: logits.sum(dim=1) * float("nan"))
    with pytest.raises(FloatingPointError, match=r"--resume_from_checkpoint latest goes on .* lower --learning_rate"):
        train(resumed(started, epochs=2), data_settings)
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", cross_entropy)
    assert len(history_of(train(resumed(started, epochs=2, learning_rate=1e-5), data_settings))) == 2


@pytest.mark.parametrize("mapping", [{"Fat": "Zebra"}, {"Fat": "Adipose tissue"}, {"Stroma": "Muscle"}])
def test_renamed_mapped_or_merged_classes_are_refused_with_both_lists(started, data_settings, tmp_path, mapping):
    (tmp_path / "map.json").write_text(json.dumps(mapping))
    with pytest.raises(ValueError, match=r"resumed with other classes: they were \[.*\], now they are \[.*\]"):
        train(resumed(started, epochs=2), replace(data_settings, class_mapping=tmp_path / "map.json"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_regions_per_class": 5}, "--max_regions_per_class was None, is 5"),
        ({"validation_fraction": 0.5}, "--validation_fraction was 0.3, is 0.5"),
    ],
)
def test_other_regions_are_refused_before_anything_is_embedded(started, data_settings, changes, words, monkeypatch):
    monkeypatch.setattr("spider_tools.evaluation.embedded_splits.embed_patches_once", None)
    with pytest.raises(ValueError, match=rf"cannot be resumed with other data: there were .*{words}"):
        train(resumed(started, epochs=2), replace(data_settings, **changes))


def test_another_frozen_backbone_is_refused(settings, data_settings, tmp_path):
    folder = train(replace(settings, output_dir=tmp_path / "first"), data_settings)
    tuned = replace(settings, init_from=str(folder))
    train(tuned, data_settings)
    model = load_spider(str(folder))
    with torch.no_grad():
        model.backbone.layernorm.weight.mul_(1.01)
    image_processor = remote_code.image_processor_class().from_pretrained(folder)
    save_model_folder(model, image_processor, tmp_path / "other")
    with pytest.raises(ValueError, match=r"cannot be resumed with another backbone: it was \{.*backbone_sha256"):
        train(resumed(tuned, epochs=2, init_from=str(tmp_path / "other")), data_settings)


def damage(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


FILES = ["trained.safetensors", "optimizer.safetensors", "random_states_0.safetensors", "state.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["flipped", "truncated", "missing"])
def test_a_damaged_checkpoint_is_passed_over_and_the_one_before_it_taken(settings, data_settings, caplog, name, how):
    first = replace(settings, epochs=2)
    expected = weights_of(train(first, data_settings))
    older, newest = checkpoints_of(settings)
    path = newest / name
    if how == "flipped":
        damage(path)
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:40])
    else:
        path.unlink()
    with caplog.at_level(logging.INFO):
        folder = train(resumed(first), data_settings)
    assert f"{newest} is damaged and passed over: its file {name}" in caplog.text
    assert f"resumed from {older}" in caplog.text
    assert_equal_weights(weights_of(folder), expected)
    damage(newest / "trained.safetensors")
    with pytest.raises(ValueError, match=rf"{newest} is damaged: .*trained.* Resume from {older} instead"):
        train(resumed(first, resume_from_checkpoint=str(newest)), data_settings)


def test_where_no_checkpoint_is_whole_this_is_said(started, data_settings):
    for folder in checkpoints_of(started):
        (folder / "progress.json").write_text("{")
    with pytest.raises(ValueError, match=r"no checkpoint to resume from in .*, none that is whole"):
        train(resumed(started), data_settings)


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["custom_checkpoint_0.pkl", "random_states_0.pkl", "optimizer.bin", "scaler.pt"])
def test_nothing_of_a_checkpoint_is_executed(started, data_settings, tmp_path, name):
    (newest,) = checkpoints_of(started)
    (newest / name).write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    train(resumed(started, epochs=2), data_settings)
    assert not (tmp_path / "ran").exists()
    assert {path.name for path in newest.iterdir()} - {name} == {*FILES, "progress.json"}


def test_checkpoints_of_older_versions_are_refused_with_a_way_on(started, data_settings):
    path = checkpoints_of(started)[-1] / "progress.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "format"}))
    with pytest.raises(ValueError, match=r"older version of this package.*--init_from"):
        train(resumed(started), data_settings)


def test_weights_that_are_no_numbers_never_become_a_checkpoint(settings, data_settings, monkeypatch):
    save = Checkpoints.save

    def spoil(self, progress):
        for name, parameter in self._trained_parameters():
            if name.endswith("classifier.bias"):
                parameter.data[1] = float("inf")
        return save(self, progress)

    monkeypatch.setattr(Checkpoints, "save", spoil)
    with pytest.raises(
        FloatingPointError, match=r"1 weights became NaN or infinite, the first is model.classifier.bias"
    ):
        train(settings, data_settings)
    assert checkpoints_of(settings) == []


def test_a_damaged_best_checkpoint_is_not_exported(settings, data_settings, monkeypatch):
    export = loop.finish_epoch

    def finish(setup, progress, row):
        export(setup, progress, row)
        damage(setup.settings.checkpoints_folder / progress.best_checkpoint / "trained.safetensors")

    monkeypatch.setattr(loop, "finish_epoch", finish)
    with pytest.raises(OSError, match=r"best checkpoint, .*, is damaged: its file trained.safetensors"):
        train(settings, data_settings)
    assert not (settings.output_dir / "config.json").exists()


def test_a_folder_that_another_run_writes_is_refused(settings, data_settings):
    settings.run_folder.mkdir(parents=True)
    with FileLock(settings.run_folder / ".lock"), pytest.raises(OSError, match="is being written by another run"):
        train(settings, data_settings)
    train(settings, data_settings)


def test_whom_the_umask_allows_can_read_all_that_training_leaves(settings, data_settings):
    before = os.umask(0o027)
    try:
        folder = train(settings, data_settings)
    finally:
        os.umask(before)
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    assert {"model.safetensors", *FILES} <= {path.name for path in files}
    modes = {stat.S_IMODE(path.stat().st_mode) & 0o040 for path in files}
    assert modes == {0o040}, [str(path) for path in files if not path.stat().st_mode & 0o040]


def test_a_full_disk_while_exporting_says_how_to_go_on(settings, data_settings, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("spider_tools.training.run.save_model_folder", full)
    with pytest.raises(
        OSError, match=r"What was learnt is in .*step_.*: make room, then --resume_from_checkpoint latest"
    ):
        train(settings, data_settings)
    monkeypatch.undo()
    folder = train(resumed(settings), data_settings)
    best = load_file(checkpoints_of(settings)[-1] / "trained.safetensors")
    torch.testing.assert_close(weights_of(folder)["classifier.bias"], best["model.classifier.bias"])


def test_other_weights_than_those_that_learn_are_refused(started, data_settings, monkeypatch):
    monkeypatch.setattr("spider_tools.training.checkpoints.damage_of", lambda path: None)
    (newest,) = checkpoints_of(started)
    save_file({"other": torch.zeros(2)}, newest / "trained.safetensors")
    with pytest.raises(ValueError, match="holds other weights than the model that is trained"):
        train(resumed(started, epochs=2), data_settings)
