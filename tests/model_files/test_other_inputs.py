"""What other tools do: lists of labels, exchanged classifiers, pipelines, raw state dicts, read-only sources."""

import logging
import os
import shutil
import stat

import pytest
import torch
from transformers import AutoProcessor, pipeline

from spider_tools.weights.dinov2_names import TRANSFORMERS_4, TRANSFORMERS_5, in_pieces


@pytest.mark.parametrize("labels", [[1, 0, 2], (1, 0, 2), torch.tensor([1, 0, 2], dtype=torch.int32)])
def test_labels_may_be_a_list(model, pixel_values, labels):
    loss = model(pixel_values, labels=labels).loss
    assert loss == model(pixel_values, labels=torch.tensor([1, 0, 2])).loss


@pytest.mark.parametrize("labels", [[0.5, 1.0, 2.0], [True, False, True], [1, 2], [[1], [2], [3]]])
def test_other_lists_of_labels_are_refused(model, pixel_values, labels):
    with pytest.raises(ValueError, match=r"Expected integer `labels` of shape \(3,\)"):
        model(pixel_values, labels=labels)


def test_a_classifier_exchanged_by_hand_works_once_its_classes_are_named(model, pixel_values):
    model.classifier = torch.nn.Linear(model.config.head_hidden_size, 6)
    with pytest.raises(
        ValueError, match=r"gives 6 logits, the configuration names 4 classes: set `config.class_names`"
    ):
        model(pixel_values)
    model.config.class_names = list("ABCDEF")
    outputs = model(pixel_values, labels=[5, 0, 1])
    assert outputs.logits.shape == (3, 6)
    assert outputs.loss.isfinite()
    assert set(outputs.predicted_class_names) <= set("ABCDEF")


def test_hidden_states_are_refused_in_words(model, pixel_values):
    with pytest.raises(ValueError, match=r"`output_hidden_states` is for patches: call `model.backbone"):
        model(pixel_values, output_hidden_states=True)
    model.config.output_hidden_states = True
    with pytest.raises(ValueError, match="output_hidden_states"):
        model(pixel_values)
    assert model(pixel_values, output_hidden_states=False).logits.shape == (3, 4)


def test_a_pipeline_for_features_is_refused(model_folder):
    with pytest.raises(ValueError, match=r"logits for features: call `model.embed_patches`"):
        pipeline("image-feature-extraction", model=str(model_folder), trust_remote_code=True)


@pytest.mark.parametrize("spelling", [TRANSFORMERS_4, TRANSFORMERS_5], ids=["4", "5"])
@pytest.mark.parametrize("swiglu", [True, False])
def test_a_raw_state_dict_of_either_version_fills_the_model(make_model, make_config, spelling, swiglu):
    backbone = {**make_config().backbone_config.to_dict(), "use_swiglu_ffn": swiglu}
    source, target = (make_model(seed=seed, backbone_config=backbone) for seed in (0, 1))
    pieces = in_pieces(source.backbone.state_dict())
    names = dict.fromkeys(spelling.name_of(piece) for piece in pieces)
    raw = {f"backbone.{n}": torch.cat([pieces[p] for p in spelling.pieces(n)]) for n in names}
    raw |= {name: t for name, t in source.state_dict().items() if not name.startswith("backbone.")}
    report = target.load_state_dict(raw, strict=False)
    assert (report.missing_keys, report.unexpected_keys) == ([], [])
    expected = source.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in target.state_dict().items())


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o002])
def test_weights_can_be_read_by_whom_the_umask_allows(model, tmp_path, mask):
    before = os.umask(mask)
    try:
        model.save_pretrained(tmp_path / "whole")
        model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    finally:
        os.umask(before)
    files = [*(tmp_path / "whole").glob("*.safetensors"), *(tmp_path / "shards").glob("*.safetensors")]
    assert len(files) > 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o666 & ~mask}


@pytest.mark.parametrize("kind", ["model", "processor"])
def test_what_has_read_only_sources_can_be_saved(model_folder, load_model, tmp_path, monkeypatch, kind):
    """Transformers 4 copies files with their rights, and copies some of them twice. Root may overwrite any of them."""
    source = shutil.copytree(model_folder, tmp_path / f"read_only_{kind}")
    for path in source.glob("*.py"):
        path.chmod(0o444)
    loaded = load_model(source) if kind == "model" else AutoProcessor.from_pretrained(source, trust_remote_code=True)
    copy_content = shutil.copyfile

    def copy_as_others_do(origin, target, **options):
        if os.path.exists(target) and not os.stat(target).st_mode & stat.S_IWUSR:
            raise PermissionError(f"Permission denied: {target}")
        return copy_content(origin, target, **options)

    monkeypatch.setattr(shutil, "copyfile", copy_as_others_do)
    for _ in range(2):
        loaded.save_pretrained(tmp_path / "saved")
    names = {path.name for path in (tmp_path / "saved").glob("*.py")}
    own = "modeling_spider.py" if kind == "model" else "processing_spider.py"
    assert names >= {own, "checks_spider.py", "sources_spider.py"}


def test_folders_of_one_name_and_different_code_are_told_apart(model_folder, load_model, tmp_path, caplog):
    folders = [shutil.copytree(model_folder, tmp_path / part / "same_name") for part in "ab"]
    with caplog.at_level(logging.WARNING):
        for folder in folders:
            load_model(folder)
    assert "have one name" not in caplog.text
    code = folders[1] / "modeling_spider.py"
    code.write_text(code.read_text() + "\n# another line\n")
    own_modules = load_model(folders[0]).__module__ != load_model(folders[1]).__module__  # Transformers 5
    logging.getLogger("transformers_modules").propagate = True
    with caplog.at_level(logging.WARNING):
        load_model(folders[1])
    assert ("have one name and different code" in caplog.text) != own_modules
