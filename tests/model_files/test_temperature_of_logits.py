"""The temperature in the configuration: it divides the logits, whoever loads the folder, and changes no name."""

import json

import pytest
import torch
from transformers import AutoModel


def test_logits_are_divided_and_names_are_the_same(make_model, pixel_values):
    plain, tempered = make_model(), make_model(logit_temperature=0.25)
    labels = torch.tensor([3, 0, 1])
    with torch.no_grad():
        before, after = (model(pixel_values, labels=labels, output_attentions=True) for model in (plain, tempered))
        grid = tempered.embed_patches(pixel_values.flatten(0, 1)).unflatten(0, (3, 25))
        torch.testing.assert_close(tempered.classify_grid(grid), after.logits)
    torch.testing.assert_close(after.logits, before.logits / 0.25)
    torch.testing.assert_close(after.loss, torch.nn.functional.cross_entropy(before.logits * 4, labels))
    assert after.predicted_class_names == before.predicted_class_names
    assert torch.equal(after.context_attention, before.context_attention)


def test_it_travels_with_the_folder_and_old_folders_have_none(make_model, processor, tmp_path, pixel_values):
    make_model(logit_temperature=2.5).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["logit_temperature"] == 2.5
    loaded = AutoModel.from_pretrained(tmp_path, trust_remote_code=True)
    del written["logit_temperature"]
    (tmp_path / "config.json").write_text(json.dumps(written))
    old = AutoModel.from_pretrained(tmp_path, trust_remote_code=True)
    assert (loaded.config.logit_temperature, old.config.logit_temperature) == (2.5, 1.0)
    with torch.no_grad():
        torch.testing.assert_close(loaded(pixel_values).logits, old(pixel_values).logits / 2.5)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "1", None, True, 101])
def test_what_is_no_temperature_is_refused(make_config, value):
    with pytest.raises(ValueError, match="`logit_temperature` must be a positive number"):
        make_config(logit_temperature=value)


def test_a_misspelt_temperature_is_refused(make_config):
    with pytest.raises(TypeError, match="Did you mean `logit_temperature`"):
        make_config(logits_temperature=2)
