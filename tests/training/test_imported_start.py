"""Training on from an imported model: its record does not travel, what is known of it does, and its head stays."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from imported_models import MALFORMED, REVISION, SOURCE, note_import, unverified, verified
from training_runs import PATCH_SIZE, weights_of

from spider_tools.demo.synthetic import CLASS_NAMES
from spider_tools.model_folder import weights_sha256
from spider_tools.publishing.model_card import make_model_card
from spider_tools.training.record import base_model_import
from spider_tools.training.run import train
from spider_tools.training.settings import TrainingSettings
from spider_tools.training.starting_model import starting_model
from spider_tools.weights.loading import load_spider

KNOWN = CLASS_NAMES[1:]
NOT_VERIFIED = {"source": SOURCE, "revision": REVISION, "verified": False}


@pytest.fixture(scope="module")
def saved(make_model, make_processor, tmp_path_factory):
    """A model with every unusual part of a head, that knows all classes of the data but one; only to be read."""
    folder = tmp_path_factory.mktemp("start") / "model"
    head = {"head_pooler": True, "head_readout": "mean", "head_residual": True, "head_beside": "backbone"}
    make_model(class_names=KNOWN, **head).save_pretrained(folder)
    make_processor().save_pretrained(folder)
    return folder


@pytest.fixture
def imported(saved, tmp_path):
    """`imported(record)`: its folder, with this record."""
    folder = shutil.copytree(saved, tmp_path / "imported")
    return lambda record: note_import(folder, record)


def started_from(folder, **changes):
    """The settings that a start looks at."""
    return SimpleNamespace(init_from=str(folder), train_backbone="frozen", **changes)


# --- Where training starts


@pytest.mark.parametrize("class_names", [KNOWN, CLASS_NAMES])
@pytest.mark.parametrize("record", [unverified(), verified(), MALFORMED["a word"]])
def test_the_record_of_an_import_is_taken_off_before_anything_learns(imported, record, class_names, tmp_path):
    model = starting_model(started_from(imported(record)), class_names, 5, PATCH_SIZE)
    model.save_pretrained(tmp_path / "exported")
    assert "import" not in json.loads((tmp_path / "exported" / "config.json").read_text())


@pytest.mark.parametrize(
    "head",
    [
        {"head_pooler": True, "head_readout": "mean"},
        {"head_pooler": True, "head_readout": "first", "head_beside": "projection"},
        {"head_beside": "backbone", "head_residual": True},
        {},
    ],
)
def test_new_classes_keep_the_head_and_what_it_knows_of_the_old_ones(make_model, tmp_path, head, patch_embeddings):
    trained = make_model(class_names=KNOWN, **head)
    trained.save_pretrained(tmp_path)
    names = ["Zebra", *reversed(KNOWN)]
    model = starting_model(started_from(tmp_path), names, 5, PATCH_SIZE).eval()
    fields = ("head_readout", "head_pooler", "head_residual", "head_beside", "head_num_attention_heads")
    assert [getattr(model.config, name) for name in fields] == [getattr(trained.config, name) for name in fields]
    assert model.config.class_names == names
    with torch.no_grad():
        before, after = trained.classify_grid(patch_embeddings), model.classify_grid(patch_embeddings)
    assert after.shape == (3, len(names))
    columns = [KNOWN.index(name) for name in names[1:]]
    torch.testing.assert_close(after[:, 1:], before[:, columns])


# --- What is known of its import


def test_nothing_is_said_of_a_start_that_was_not_imported(saved):
    assert base_model_import(started_from(saved)) is None
    assert base_model_import(SimpleNamespace(init_from=None)) is None


def test_a_start_is_verified_only_with_the_weights_of_its_proof(imported, saved):
    assert base_model_import(started_from(imported(unverified()))) == NOT_VERIFIED
    assert base_model_import(started_from(imported(verified()))) == NOT_VERIFIED
    record = verified(weights_sha256=weights_sha256(saved))
    assert base_model_import(started_from(imported(record))) == NOT_VERIFIED | {"verified": True}


@pytest.mark.parametrize("name", ["a word", "nothing", "no difference", "a number for the source"])
def test_a_start_with_a_record_that_is_none_is_not_verified(imported, name):
    known = base_model_import(started_from(imported(MALFORMED[name])))
    assert (known["verified"], known["source"] in (SOURCE, None)) == (False, True)


def test_no_path_of_this_machine_is_told(imported):
    known = base_model_import(started_from(imported(unverified(source="/home/alice/skin", revision=None))))
    assert known == {"source": "skin", "revision": None, "verified": False}


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        ({"base_model_import": NOT_VERIFIED}, NOT_VERIFIED),
        ({"base_model_import": "a word"}, None),
        ({"dataset": "tissue"}, None),
        ("a word", None),
    ],
)
def test_a_model_trained_from_a_trained_one_remembers_the_first_import(imported, training, expected):
    folder = imported(None)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"training": training}))
    assert base_model_import(started_from(folder)) == expected


# --- A whole run


@pytest.mark.slow
def test_a_run_from_an_imported_model_exports_its_head_without_its_record(
    fresh_accelerator, settings, data_settings, imported
):
    start = imported(unverified())
    folder = train(replace(settings, init_from=str(start), epochs=1), data_settings)
    config = load_spider(str(folder)).config
    assert "import" not in json.loads((folder / "config.json").read_text())
    assert config.training["base_model_import"] == NOT_VERIFIED
    assert config.class_names == CLASS_NAMES
    assert (config.head_pooler, config.head_readout, config.head_beside) == (True, "mean", "backbone")
    before, after = weights_of(start), weights_of(folder)
    assert before.keys() == after.keys()
    pooler = "context_encoder.pooler.dense.weight"
    assert not torch.equal(before[pooler], after[pooler])
    card = make_model_card(folder)
    assert f"| starting weights | imported from {SOURCE} at {REVISION}, not verified |" in card.text
    assert (card.data.license, card.data.base_model) == ("cc-by-nc-4.0", SOURCE)


@pytest.mark.slow
def test_a_resumed_run_remembers_the_import_that_it_was_started_from(
    fresh_accelerator, settings, data_settings, imported
):
    start = imported(unverified())
    first = replace(settings, init_from=str(start), epochs=1)
    train(first, data_settings)
    note_import(start, None)  # the same weights, of which nothing is known any more
    folder = train(replace(first, epochs=2, resume_from_checkpoint="latest"), data_settings)
    config = json.loads((folder / "config.json").read_text())
    assert config["training"]["base_model_import"] == NOT_VERIFIED
    assert config["training"]["epochs"] == 2
    assert "import" not in config


@pytest.mark.slow
def test_a_run_from_a_model_that_was_not_imported_says_nothing_of_imports(
    fresh_accelerator, settings, data_settings, saved
):
    folder = train(replace(settings, init_from=str(saved), epochs=1), data_settings)
    assert "import" not in (folder / "config.json").read_text()


# --- Colours

COLOURS = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}


@pytest.mark.parametrize("class_names", [KNOWN, CLASS_NAMES])
@pytest.mark.parametrize("says", ["image processor", "configuration", "image processor of before", "nobody"])
def test_training_goes_on_with_the_colours_of_its_start(
    make_model, make_processor, tmp_path, caplog, says, class_names
):
    in_config = {"configuration": COLOURS}.get(says, {"image_mean": None, "image_std": None})
    make_model(class_names=KNOWN, **in_config).save_pretrained(tmp_path)
    if says.startswith("image processor"):
        make_processor(**COLOURS).save_pretrained(tmp_path)
    if says == "image processor":  # whose figures win, and are those of inference
        config = json.loads((tmp_path / "config.json").read_text()) | {"image_mean": [0.5] * 3, "image_std": [1.0] * 3}
        (tmp_path / "config.json").write_text(json.dumps(config))
    config = starting_model(started_from(tmp_path), class_names, 5, PATCH_SIZE).config
    expected = {"image_mean": HIBOU[0], "image_std": HIBOU[1]} if says == "nobody" else COLOURS
    assert {name: getattr(config, name) for name in COLOURS} == expected
    assert ("is taken to be as Hibou does" in caplog.text) == (says == "nobody")


HIBOU = [0.7068, 0.5755, 0.722], [0.195, 0.2316, 0.1816]


def start_with_backbone(make_model, tmp_path, stated, file=""):
    make_model().backbone.save_pretrained(tmp_path)
    if stated is not None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(stated))
    settings = TrainingSettings(output_dir=tmp_path / "run", backbone=str(tmp_path / file), backbone_heads=2)
    config = starting_model(settings, CLASS_NAMES, 5, PATCH_SIZE).config
    return config.image_mean, config.image_std


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        (COLOURS, tuple(COLOURS.values())),
        (COLOURS | {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}, tuple(COLOURS.values())),
        ({"image_mean": 0.5, "image_std": [0.25]}, ([0.5] * 3, [0.25] * 3)),
        (COLOURS | {"do_normalize": False}, ([0.0] * 3, [1.0] * 3)),
        ({"image_mean": COLOURS["image_mean"]}, HIBOU),
        ({}, HIBOU),
        (None, HIBOU),
    ],
)
def test_a_backbone_keeps_the_colours_that_it_states(make_model, tmp_path, caplog, stated, expected):
    assert start_with_backbone(make_model, tmp_path, stated) == expected
    assert ("is taken to be as Hibou does" in caplog.text) == (expected is HIBOU)


def test_a_file_of_a_backbone_has_the_colours_of_its_folder(make_model, tmp_path):
    assert start_with_backbone(make_model, tmp_path, COLOURS, "model.safetensors") == tuple(COLOURS.values())


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        (COLOURS | {"rescale_factor": 1 / 127.5}, r"does not bring pixels to \[0, 1\]"),
        (COLOURS | {"rescale_factor": "x"}, r"does not bring pixels to \[0, 1\]"),
        (COLOURS | {"do_rescale": False}, r"does not bring pixels to \[0, 1\]"),
        (COLOURS | {"image_std": [0, 1, 1]}, "three finite values"),
        (COLOURS | {"image_mean": [123.7, 116.3, 103.5]}, "three finite values"),
        (COLOURS | {"image_mean": "grey"}, "three finite values"),
    ],
)
def test_colours_that_cannot_be_honoured_are_refused_by_their_file(make_model, tmp_path, stated, message):
    with pytest.raises(ValueError, match=rf"preprocessor_config\.json .*{message}"):
        start_with_backbone(make_model, tmp_path, stated)
