"""Training: what it leaves, that it resumes bit for bit, and that processes change nothing."""

import csv
import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor

from spider_tools import remote_code
from spider_tools.data.settings import DataSettings
from spider_tools.demo.synthetic import CLASS_NAMES, SyntheticSettings, write_dataset
from spider_tools.training import run as training
from spider_tools.training.run import train
from spider_tools.training.settings import RECIPES, TrainingSettings

pytestmark = pytest.mark.usefixtures("fresh_accelerator")

ROOT = remote_code.REPOSITORY_ROOT
PATCH_SIZE = 28
BACKBONE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "mlp_ratio": 2,
    "image_size": PATCH_SIZE,
    "patch_size": 14,
    "num_register_tokens": 1,
    "use_swiglu_ffn": True,
}
NO_DROPOUT = {
    "head_hidden_dropout_prob": 0.0,
    "head_attention_probs_dropout_prob": 0.0,
    "head_dropout_prob": 0.0,
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "tissue"
    write_dataset(folder, SyntheticSettings(train_slides=6, test_slides=2, lattice=9, patch_size=PATCH_SIZE, seed=5))
    return folder


@pytest.fixture(scope="module")
def backbone_config(tmp_path_factory):
    path = tmp_path_factory.mktemp("backbone") / "backbone.json"
    path.write_text(json.dumps(BACKBONE))
    return path


@pytest.fixture
def data_settings(dataset, tmp_path):
    return DataSettings(str(dataset), cache_dir=tmp_path / "cache", patch_size=PATCH_SIZE, validation_fraction=0.3)


@pytest.fixture
def settings(tmp_path, backbone_config):
    return TrainingSettings(
        output_dir=tmp_path / "run",
        backbone="random",
        backbone_config=str(backbone_config),
        epochs=2,
        batch_size=16,
        num_workers=0,
        mixed_precision="no",
    )


def weights_of(folder):
    return load_file(Path(folder) / "model.safetensors")


def assert_equal_weights(a, b, **tolerance):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], **(tolerance or {"rtol": 0, "atol": 0}), msg=name)


def history_of(folder):
    with open(folder / "training" / "history.csv") as file:
        return list(csv.DictReader(file))


def test_the_defaults_are_those_of_the_paper():
    settings = TrainingSettings(Path("x"))
    expected = {
        "backbone": "histai/hibou-L",
        "train_backbone": "frozen",
        "epochs": 10,
        "batch_size": 256,
        "label_smoothing": 0.2,
        "learning_rate": 4e-4,
        "weight_decay": 0.01,
        "warmup_epochs": 1.0,
        "head_hidden_size": 128,
        "head_num_hidden_layers": 1,
        "head_num_attention_heads": 1,
        "head_intermediate_size": 128,
        "head_hidden_dropout_prob": 0.5,
        "head_attention_probs_dropout_prob": 0.3,
        "head_dropout_prob": 0.3,
        "context_dropout": 0.0,
        "class_weights": "none",
    }
    assert {name: getattr(settings, name) for name in expected} == expected
    assert RECIPES["published"] == {}


def test_a_run_leaves_a_complete_repository_and_its_record(settings, data_settings):
    folder = train(settings, data_settings)
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    assert model.config.class_names == CLASS_NAMES
    image = np.zeros((5 * PATCH_SIZE, 5 * PATCH_SIZE, 3), dtype=np.uint8)
    assert model(**processor(images=image, return_tensors="pt")).predicted_class_names[0] in CLASS_NAMES
    run = folder / "training"
    rows = history_of(folder)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    best = max(float(row["validation_macro_f1"]) for row in rows)
    assert model.config.training["best_validation_macro_f1"] == pytest.approx(best)
    assert json.loads((run / "settings.json").read_text())["batch_size"] == 16
    assert json.loads((run / "environment.json").read_text())["packages"]["torch"] == torch.__version__
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_frozen_backbone_stays_as_it_was_and_the_head_learns(settings, data_settings):
    data_settings = replace(data_settings, validation_fraction=0.0)  # the last epoch is exported, not the best
    first = weights_of(train(replace(settings, epochs=1), data_settings))
    second = weights_of(train(replace(settings, output_dir=settings.output_dir / "2"), data_settings))
    for name in first:
        same = torch.equal(first[name], second[name])
        assert same == name.startswith("backbone.") or "word_embeddings" in name, name


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(settings, data_settings):
    runs = [
        weights_of(train(replace(settings, output_dir=settings.output_dir / str(i), seed=seed), data_settings))
        for i, seed in enumerate((3, 3, 4))
    ]
    assert_equal_weights(runs[0], runs[1])
    assert not torch.equal(runs[0]["classifier.weight"], runs[2]["classifier.weight"])


def test_pixels_and_embeddings_train_the_same_head(settings, data_settings, monkeypatch):
    """What differs is the float16 of the store."""
    frozen = weights_of(train(replace(settings, **NO_DROPOUT), data_settings))
    starting_model = training.starting_model

    def frozen_on_pixels(*arguments):
        model = starting_model(*arguments)
        model.freeze_backbone()
        return model

    monkeypatch.setattr(training, "starting_model", frozen_on_pixels)
    full = replace(settings, output_dir=settings.output_dir / "2", train_backbone="full", **NO_DROPOUT)
    assert_equal_weights(frozen, weights_of(train(full, data_settings)), rtol=2e-2, atol=5e-4)


def test_accumulation_changes_nothing(settings, data_settings):
    plain = weights_of(train(replace(settings, **NO_DROPOUT), data_settings))
    accumulated = replace(settings, output_dir=settings.output_dir / "2", gradient_accumulation_steps=3, **NO_DROPOUT)
    assert_equal_weights(plain, weights_of(train(accumulated, data_settings)), rtol=1e-3, atol=1e-5)


def test_lora_is_merged_into_a_plain_backbone(settings, data_settings):
    start = weights_of(train(replace(settings, epochs=1), data_settings))
    lora = replace(settings, output_dir=settings.output_dir / "2", train_backbone="lora", learning_rate=1e-2)
    folder = train(lora, data_settings)
    trained = weights_of(folder)
    assert trained.keys() == start.keys()
    changed = {name for name in start if name.startswith("backbone.") and not torch.equal(start[name], trained[name])}
    assert changed
    assert all(any(part in name for part in ("query", "key", "value", "_proj")) for name in changed), changed
    AutoModel.from_pretrained(folder, trust_remote_code=True)


def test_full_training_changes_the_backbone_but_not_what_it_never_uses(settings, data_settings):
    start = weights_of(train(replace(settings, epochs=1), data_settings))
    trained = weights_of(
        train(replace(settings, output_dir=settings.output_dir / "2", train_backbone="full", flip=True), data_settings)
    )
    unchanged = {name for name in start if name.startswith("backbone.") and torch.equal(start[name], trained[name])}
    assert unchanged == {"backbone.embeddings.mask_token"}


def test_starting_from_a_model_keeps_the_classes_that_it_knows(settings, data_settings):
    first = train(replace(settings, epochs=1), data_settings)
    mapping = first / "mapping.json"
    mapping.write_text(json.dumps({"Fat": "Adipose tissue"}))
    tuned = replace(
        settings, output_dir=first / "2", init_from=str(first), epochs=1, learning_rate=1e-12, weight_decay=0.0
    )
    second = train(tuned, replace(data_settings, class_mapping=mapping))
    known = AutoModel.from_pretrained(first, trust_remote_code=True).config.class_names
    names = AutoModel.from_pretrained(second, trust_remote_code=True).config.class_names
    assert names[0] == "Adipose tissue"
    before, after = weights_of(first)["classifier.weight"], weights_of(second)["classifier.weight"]
    for row, name in enumerate(names):
        if name in known:
            torch.testing.assert_close(after[row], before[known.index(name)], rtol=0, atol=1e-6)
    torch.testing.assert_close(
        weights_of(first)["projection.weight"], weights_of(second)["projection.weight"], rtol=0, atol=1e-6
    )


def test_starting_from_what_is_no_model_of_this_project_is_refused(settings, data_settings, tmp_path):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text(json.dumps({"model_type": "spider", "class_names": CLASS_NAMES}))
    with pytest.raises(ValueError, match=r"foreign is no SPIDER model of this project.*import-spider"):
        train(replace(settings, init_from=str(tmp_path / "foreign")), data_settings)


def test_a_filled_store_is_all_that_training_reads(settings, data_settings, monkeypatch):
    settings = replace(settings, embedding_store=settings.output_dir.with_name("store"))
    fresh = weights_of(train(settings, data_settings))

    def read(self, name):
        raise AssertionError(f"{name} was opened")

    monkeypatch.setattr("spider_tools.patches.FolderPatches.read", read)
    again = weights_of(train(replace(settings, output_dir=settings.output_dir.with_name("again")), data_settings))
    assert_equal_weights(fresh, again)


def test_bfloat16_mixed_precision_leaves_float32_weights(settings, data_settings):
    plain = weights_of(train(replace(settings, **NO_DROPOUT), data_settings))
    AcceleratorState._reset_state(reset_partial_state=True)
    mixed = replace(settings, output_dir=settings.output_dir / "2", mixed_precision="bf16", **NO_DROPOUT)
    trained = weights_of(train(mixed, data_settings))
    assert {tensor.dtype for tensor in trained.values()} == {torch.float32}
    assert not torch.equal(trained["classifier.weight"], plain["classifier.weight"])
    torch.testing.assert_close(trained["classifier.weight"], plain["classifier.weight"], rtol=0.1, atol=5e-3)


def test_balanced_weights_and_context_dropout_change_what_is_learnt(settings, data_settings):
    runs = [
        weights_of(train(replace(settings, output_dir=settings.output_dir / str(i), **change), data_settings))
        for i, change in enumerate(({}, {"class_weights": "balanced"}, {"context_dropout": 0.5}))
    ]
    for other in runs[1:]:
        assert not torch.equal(runs[0]["classifier.weight"], other["classifier.weight"])


def test_early_stopping_ends_a_run_that_gets_no_better(settings, data_settings):
    stuck = replace(settings, epochs=6, learning_rate=1e-12, early_stopping_patience=2)
    assert len(history_of(train(stuck, data_settings))) == 3


def test_the_best_epoch_is_exported_not_the_last(settings, data_settings, monkeypatch):
    validations = iter([(0.9, 0.7), (0.9, 0.5), (0.9, 0.6), (0.5, 0.1)])  # of equal scores the lowest loss

    def validate(self):
        score, loss = next(validations)
        return {"validation_macro_f1": score, "validation_loss": loss}

    monkeypatch.setattr(training.TrainingRun, "_validate", validate)
    folder = train(replace(settings, epochs=4, checkpoints_kept=1), data_settings)
    kept = sorted((folder / "training" / "checkpoints").iterdir())
    steps = [int(row["step"]) for row in history_of(folder)]
    assert [path.name for path in kept] == [f"step_{steps[1]:08d}", f"step_{steps[3]:08d}"]
    best = load_file(kept[0] / "trained.safetensors")
    torch.testing.assert_close(weights_of(folder)["classifier.weight"], best["model.classifier.weight"])


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(settings, data_settings, monkeypatch):
    train(replace(settings, epochs=1), data_settings)
    checkpoints = settings.run_folder / "checkpoints"
    before = sorted(path.name for path in checkpoints.iterdir())
    broken = replace(settings, epochs=2, resume_from_checkpoint="latest")
    monkeypatch.setattr(
        torch.nn.functional, "cross_entropy", lambda logits, labels, **_: logits.sum(dim=1) * float("nan")
    )
    with pytest.raises(FloatingPointError, match=rf"The loss is nan in step \d+. The last good .*{before[-1]}"):
        train(broken, data_settings)
    assert sorted(path.name for path in checkpoints.iterdir()) == before


def test_an_output_folder_with_another_runs_checkpoints_is_refused(settings, data_settings):
    train(replace(settings, epochs=1), data_settings)
    with pytest.raises(ValueError, match="holds the checkpoints of an earlier run"):
        train(settings, data_settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "--epochs must be positive, got 0"),
        ({"label_smoothing": 1.0}, r"--label_smoothing must be in \[0, 1\), got 1.0"),
        ({"warmup_epochs": 3.0}, "--warmup_epochs must be 0 to 2, got 3.0"),
        ({"max_grad_norm": -1.0}, "--max_grad_norm must be positive"),
        ({"flip": True}, "--flip needs --train_backbone full or lora"),
    ],
)
def test_settings_out_of_range_are_refused(settings, change, message):
    with pytest.raises(ValueError, match=message):
        replace(settings, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone_config": "huge"}, "'hibou-L', 'small' or a JSON file, got 'huge'"),
        ({"report_to": "dvclive"}, "--report_to dvclive needs that package, which is not installed"),
        ({"resume_from_checkpoint": "latest"}, "no checkpoint to resume from"),
        ({"resume_from_checkpoint": "elsewhere"}, "no checkpoint to resume from in elsewhere"),
    ],
)
def test_what_cannot_be_found_is_said(settings, data_settings, change, message):
    with pytest.raises(ValueError, match=message):
        train(replace(settings, **change), data_settings)


def test_a_checkpoint_of_another_transformers_version_is_refused(settings, data_settings):
    train(replace(settings, epochs=1), data_settings)
    (path,) = (settings.run_folder / "checkpoints").glob("*/progress.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"transformers_version": "3.5.1"}))
    with pytest.raises(ValueError, match=r"under Transformers 3\.5\.1 and cannot be resumed under"):
        train(replace(settings, resume_from_checkpoint="latest"), data_settings)


# What follows runs the script as users do.


def command(settings, data_settings, *words, processes=None):
    launcher = [sys.executable]
    if processes is not None:
        launcher += ["-m", "accelerate.commands.launch", "--multi_gpu", f"--num_processes={processes}"]
        launcher += ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
        launcher += ["--main_process_port=0"] if processes > 1 else []
    flags = {
        "dataset": data_settings.dataset,
        "cache_dir": data_settings.cache_dir,
        "patch_size": PATCH_SIZE,
        "validation_fraction": data_settings.validation_fraction,
        "output_dir": settings.output_dir,
        "backbone": "random",
        "backbone_config": settings.backbone_config,
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "num_workers": 0,
        "train_backbone": settings.train_backbone,
    }
    return [*launcher, str(ROOT / "train.py"), *(f"--{k}={v}" for k, v in flags.items()), *words]


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}


def run(*arguments, **options):
    done = subprocess.run(
        command(*arguments, **options), env=environment(), capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("train_backbone", ["frozen", "full"])
def test_two_processes_give_the_weights_of_one(settings, data_settings, train_backbone):
    words = [f"--{name}=0" for name in NO_DROPOUT]
    settings = replace(settings, train_backbone=train_backbone, batch_size=13)
    run(settings, data_settings, *words)
    other = replace(settings, output_dir=settings.output_dir / "2")
    run(other, data_settings, *words, processes=2)
    assert_equal_weights(weights_of(settings.output_dir), weights_of(other.output_dir), rtol=1e-3, atol=2e-5)
    for one, two in zip(history_of(settings.output_dir), history_of(other.output_dir)):
        for name in ("train_loss", "validation_loss", "validation_accuracy", "validation_macro_f1"):
            assert float(one[name]) == pytest.approx(float(two[name]), abs=1e-4)


def start_and_signal(settings, data_settings, number, signal_number, words):
    """Start a run, wait for checkpoint `number`, send a signal; returns the exit code and the error output."""
    process = subprocess.Popen(
        command(settings, data_settings, *words), env=environment(), stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    checkpoints = settings.run_folder / "checkpoints"
    deadline = time.monotonic() + 120
    while len(list(checkpoints.glob("step_*"))) < number and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal_number)
    _, error = process.communicate(timeout=120)
    return process.returncode, error


@pytest.mark.slow
def test_killed_and_resumed_gives_the_weights_of_an_uninterrupted_run(settings, data_settings):
    """With dropout, context dropout and a backbone that learns: every random state has to come back."""
    words = ["--checkpoint_every=1", "--context_dropout=0.3", "--checkpoints_kept=3", "--flip"]
    settings = replace(settings, train_backbone="full", epochs=3)
    run(settings, data_settings, *words)
    killed = replace(settings, output_dir=settings.output_dir / "2")
    code, error = start_and_signal(killed, data_settings, 3, signal.SIGKILL, words)
    assert code == -signal.SIGKILL, error
    assert not (killed.output_dir / "config.json").exists()
    run(killed, data_settings, *words, "--resume_from_checkpoint=latest")
    assert_equal_weights(weights_of(settings.output_dir), weights_of(killed.output_dir))


@pytest.mark.slow
def test_sigterm_ends_a_run_on_a_checkpoint(settings, data_settings):
    settings = replace(settings, epochs=200)
    code, error = start_and_signal(settings, data_settings, 1, signal.SIGTERM, [])
    assert code == 1
    assert "Stopped by SIGTERM; --resume_from_checkpoint latest goes on from" in error
    newest = sorted((settings.run_folder / "checkpoints").glob("step_*"))[-1]
    assert json.loads((newest / "progress.json").read_text())["global_step"] == int(newest.name[5:])


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_good_checkpoint(settings, data_settings):
    run(replace(settings, epochs=1), data_settings)
    checkpoints = settings.run_folder / "checkpoints"
    (good,) = checkpoints.iterdir()
    before = {path.name: path.read_bytes() for path in good.iterdir() if path.is_file()}

    def small_files_only():
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    done = subprocess.run(
        command(settings, data_settings, "--resume_from_checkpoint=latest"),
        env=environment(),
        capture_output=True,
        text=True,
        cwd=ROOT,
        preexec_fn=small_files_only,
    )
    assert done.returncode != 0
    assert f"The last good one is {good}" in done.stderr
    assert [path.name for path in checkpoints.iterdir()] == [good.name]
    assert {path.name: path.read_bytes() for path in good.iterdir() if path.is_file()} == before


@pytest.mark.slow
def test_processes_that_do_not_see_each_other_are_refused(settings, data_settings):
    if torch.cuda.is_available():
        pytest.skip("on a machine with a GPU they do see each other")
    done = subprocess.run(
        command(settings, data_settings, processes=2),
        env=environment() | {"ACCELERATE_USE_CPU": "false"},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode != 0
    assert "2 processes were launched, but they do not see each other" in done.stderr
    assert not settings.run_folder.exists()
