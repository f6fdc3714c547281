"""Folders as earlier versions saved them load as before, and what is loaded and saved again stays as it was."""

import json
import logging
import os
import shutil
import warnings

import pytest
import torch
import transformers
from tiny_spider import CLASS_NAMES
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor, pipeline

OLD_PREPROCESSOR = {
    "allow_missing_context": False,
    "auto_map": {"AutoImageProcessor": "image_processor_spider.SpiderImageProcessor"},
    "context_size": 5,
    "do_normalize": True,
    "image_mean": [0.7068, 0.5755, 0.722],
    "image_processor_type": "SpiderImageProcessor",
    "image_std": [0.195, 0.2316, 0.1816],
    "patch_size": 28,
}
OLD_PROCESSOR = {
    "auto_map": {"AutoProcessor": "processing_spider.SpiderProcessor"},
    "processor_class": "SpiderProcessor",
}
# What tools of this project note in config.json.
OLD_RECORDS = {"spider_tools_version": "0.9.0", "training": {"epochs": 3, "classes": {"Fat": 7}}}


@pytest.fixture
def old_folder(model_folder, tmp_path):
    """A saved model whose JSON files are those of an earlier version."""
    folder = tmp_path / "old-model"
    shutil.copytree(model_folder, folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(OLD_PREPROCESSOR))
    (folder / "processor_config.json").write_text(json.dumps(OLD_PROCESSOR))
    config = json.loads((folder / "config.json").read_text())
    config["backbone_config"] |= {"dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config | OLD_RECORDS))
    return folder


def edit(folder, **changes):
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def text_of(folder, name="config.json"):
    return (folder / name).read_text()


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"processor_class": "SpiderProcessor"},
        {"_processor_class": "SpiderProcessor", "do_resize": False},
        {"feature_extractor_type": "SpiderImageProcessor"},
    ],
    ids=lambda keys: "+".join(keys) or "as saved",
)
def test_an_old_folder_loads_through_every_door_without_a_warning(
    old_folder, keys, make_model, processor, pixel_values
):
    edit(old_folder, **keys)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        config = AutoConfig.from_pretrained(old_folder, trust_remote_code=True)
        model = AutoModel.from_pretrained(old_folder, trust_remote_code=True)
        whole = AutoProcessor.from_pretrained(old_folder, trust_remote_code=True)
        alone = AutoImageProcessor.from_pretrained(old_folder, trust_remote_code=True)
        classify = pipeline("image-classification", model=str(old_folder), trust_remote_code=True)
    assert (config.class_names, config.training) == (CLASS_NAMES, OLD_RECORDS["training"])
    with torch.no_grad():
        torch.testing.assert_close(model(pixel_values).logits, make_model()(pixel_values).logits)
    region = torch.arange(140 * 140 * 3).remainder(251).to(torch.uint8).view(140, 140, 3)
    expected = processor(region, return_tensors="pt")["pixel_values"]
    for each in (whole, whole.image_processor, alone, classify.image_processor):
        assert torch.equal(each(region, return_tensors="pt")["pixel_values"], expected)


def test_an_old_folder_is_saved_again_without_what_its_loading_added(old_folder, model_folder, tmp_path):
    AutoModel.from_pretrained(old_folder, trust_remote_code=True).save_pretrained(tmp_path / "again")
    AutoProcessor.from_pretrained(old_folder, trust_remote_code=True).save_pretrained(tmp_path / "again")
    again = json.loads(text_of(tmp_path / "again"))
    assert {key: again.pop(key) for key in OLD_RECORDS} == OLD_RECORDS
    assert again == json.loads(text_of(model_folder))
    for name in ("preprocessor_config.json", "processor_config.json"):
        assert text_of(tmp_path / "again", name) == text_of(model_folder, name)


@pytest.mark.parametrize(
    "options",
    [{}, {"dtype": "auto"}, {"attn_implementation": "eager"}, {"device_map": "cpu"}, {"freeze_backbone": True}],
    ids=lambda options: "+".join(options) or "plain",
)
def test_a_model_that_is_loaded_and_saved_keeps_its_configuration_byte_for_byte(
    model_folder, load_model, tmp_path, options
):
    for step in ("first", "second"):
        source = model_folder if step == "first" else tmp_path / "first"
        load_model(source, **options).save_pretrained(tmp_path / step)
        assert text_of(tmp_path / step) == text_of(model_folder)


def test_a_model_of_another_precision_keeps_its_configuration_too(make_model, load_model, tmp_path):
    make_model().to(torch.bfloat16).save_pretrained(tmp_path / "half")
    load_model(tmp_path / "half", dtype="auto").save_pretrained(tmp_path / "again")
    assert text_of(tmp_path / "again") == text_of(tmp_path / "half")
    assert "dtype" not in json.loads(text_of(tmp_path / "half"))["backbone_config"]
    load_model(tmp_path / "half", dtype=torch.float32).save_pretrained(tmp_path / "whole")
    changed = json.loads(text_of(tmp_path / "half")) | {"dtype": "float32"}
    assert json.loads(text_of(tmp_path / "whole")) == changed


def test_a_configuration_that_is_loaded_and_saved_stays_byte_for_byte(model_folder, tmp_path):
    AutoConfig.from_pretrained(model_folder, trust_remote_code=True).save_pretrained(tmp_path)
    assert text_of(tmp_path) == text_of(model_folder)


# --- Transformers 4 and the "fast" processors


def loads(folder, **options):
    AutoProcessor.from_pretrained(folder, trust_remote_code=True, **options)
    return AutoImageProcessor.from_pretrained(folder, trust_remote_code=True, **options)


def test_nothing_alarming_is_said_when_a_folder_is_loaded(model_folder, old_folder, log):
    loads(model_folder)
    pipeline("image-classification", model=os.fspath(model_folder), trust_remote_code=True)
    said = {record.getMessage() for record in log.records if record.levelno >= logging.WARNING}
    assert said <= {"Device set to use cpu"}  # by the pipeline
    loads(old_folder)
    said = [record.getMessage() for record in log.records if "slow image processor" in record.getMessage()]
    assert bool(said) == transformers.__version__.startswith("4.")


@pytest.mark.parametrize("use_fast", [True, False])
def test_asking_for_a_fast_processor_needs_no_torchvision(model_folder, tmp_path, use_fast):
    alone = tmp_path / "image-processor-alone"
    loads(model_folder).save_pretrained(alone)
    for each in (loads(model_folder, use_fast=use_fast), loads_alone(alone, use_fast)):
        assert type(each).__name__ == "SpiderImageProcessor"
        assert each.patch_size == OLD_PREPROCESSOR["patch_size"]


def loads_alone(folder, use_fast):
    return AutoImageProcessor.from_pretrained(folder, trust_remote_code=True, use_fast=use_fast, context_size=3)


def test_a_switch_that_earlier_versions_ignored_is_told_and_ignored_as_before(old_folder, processor):
    edit(old_folder, do_rescale=False)
    with pytest.warns(UserWarning, match=r"Ignored in preprocessor_config\.json: `do_rescale`"):
        loaded = AutoImageProcessor.from_pretrained(old_folder, trust_remote_code=True)
    region = torch.arange(140 * 140 * 3).remainder(251).to(torch.uint8).view(140, 140, 3)
    for given in (loaded, AutoImageProcessor.from_pretrained(old_folder, trust_remote_code=True, do_rescale=True)):
        expected = processor(region, return_tensors="pt")["pixel_values"]
        assert torch.equal(given(region, return_tensors="pt")["pixel_values"], expected)
    with pytest.raises(ValueError, match="`do_normalize` needs `do_rescale`"):
        AutoImageProcessor.from_pretrained(old_folder, trust_remote_code=True, do_rescale=False)
