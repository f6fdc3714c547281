"""Training: what it leaves, and what each setting changes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from training_runs import NO_DROPOUT, PATCH_SIZE, assert_equal_weights, history_of, remembered_by, weights_of
from transformers import AutoModel, AutoProcessor

from spider_tools.demo.synthetic import CLASS_NAMES
from spider_tools.embeddings import identity
from spider_tools.training import loop, run, setup
from spider_tools.training.run import train
from spider_tools.training.settings import RECIPES, TrainingSettings

pytestmark = [pytest.mark.usefixtures("fresh_accelerator"), pytest.mark.slow]


def test_the_defaults_are_those_of_the_paper():
    settings = TrainingSettings(output_dir=Path("x"))
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


def test_a_frozen_backbone_stays_as_it_was_and_the_head_learns(settings, data_settings, monkeypatch):
    data_settings = replace(data_settings, validation_fraction=0.0)  # the last epoch is exported, not the best
    hashed, identities = [], []
    fingerprint, start = identity.backbone_fingerprint, run.start
    monkeypatch.setattr(identity, "backbone_fingerprint", lambda backbone: hashed.append(1) or fingerprint(backbone))
    monkeypatch.setattr(run, "start", lambda *given: identities.append(given) or start(*given))
    first = weights_of(train(replace(settings, epochs=1), data_settings))
    assert len(hashed) == 1
    of_run, noted, _ = identities[0]
    assert noted["backbone"] == identity.store_content(None, of_run.model, of_run.image_processor, "")
    second = weights_of(train(replace(settings, output_dir=settings.output_dir / "2"), data_settings))
    for name in first:
        same = torch.equal(first[name], second[name])
        assert same == name.startswith("backbone.") or "word_embeddings" in name, name


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(settings, data_settings):
    folders = [
        train(replace(settings, output_dir=settings.output_dir / str(i), seed=seed), data_settings)
        for i, seed in enumerate((3, 3, 4))
    ]
    runs = [weights_of(folder) for folder in folders]
    assert_equal_weights(runs[0], runs[1])
    assert len(remembered_by(folders[0])) == 3
    assert_equal_weights(remembered_by(folders[0]), remembered_by(folders[1]))
    assert not torch.equal(runs[0]["classifier.weight"], runs[2]["classifier.weight"])


def test_pixels_and_embeddings_train_the_same_head(settings, data_settings, monkeypatch):
    """What differs is the float16 of the store."""
    frozen = weights_of(train(replace(settings, **NO_DROPOUT), data_settings))
    starting_model = setup.starting_model

    def frozen_on_pixels(*arguments):
        model = starting_model(*arguments)
        model.freeze_backbone()
        return model

    monkeypatch.setattr(setup, "starting_model", frozen_on_pixels)
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

    monkeypatch.setattr("spider_tools.data.patches.FolderPatches.read", read)
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

    def validate(setup):
        score, loss = next(validations)
        return {"validation_macro_f1": score, "validation_loss": loss}

    monkeypatch.setattr(loop, "validate", validate)
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
        ({"epochs": 0}, "--epochs must be at least 1, got 0"),
        ({"label_smoothing": 1.0}, "--label_smoothing must be at least 0 and below 1, got 1.0"),
        ({"warmup_epochs": 3.0}, "--warmup_epochs must be at most --epochs, 2, got 3"),
        ({"max_grad_norm": -1.0}, "--max_grad_norm must be above 0, got -1.0"),
        ({"train_backbone": "LoRA"}, "--train_backbone must be one of frozen, full, lora, got 'LoRA'"),
        ({"learning_rate": float("nan")}, "--learning_rate must be a finite number, got nan"),
        ({"epochs": 1.5}, "--epochs must be a whole number, got 1.5"),
        ({"flip": True}, "--flip needs --train_backbone full or lora"),
        ({"views": 0}, "--views must be at least 1 and at most 40, got 0"),
        ({"views": 41}, "--views must be at least 1 and at most 40, got 41"),
        ({"views": 8, "train_backbone": "full"}, "--views 8 needs --train_backbone frozen"),
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
