"""What cannot be exported is refused in one sentence, before work where that is possible, and leaves nothing."""

import json
import logging
import shutil
import warnings

import numpy as np
import pytest
import torch

from spider_tools.drawn_tissue import draw_mosaics
from spider_tools.export import __main__ as command
from spider_tools.export import drift, onnx_files, run
from spider_tools.export.quiet import quiet
from spider_tools.export.settings import ExportSettings
from spider_tools.scripts import run_script


def refused(words, capsys, monkeypatch, table_lines=0):
    monkeypatch.setattr("sys.argv", ["export"])
    with pytest.raises(SystemExit) as stopped:
        run_script(lambda argv: command.main(command.parse_args(argv)), [str(word) for word in words])
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == table_lines
    return printed.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--format", "tflite"], "invalid choice: 'tflite'"),
        (["--dtype", "int4"], "invalid choice: 'int4'"),
        (
            ["--format", "torch", "--dtype", "int8"],
            "--format torch goes with --dtype float32, float16, bfloat16, got int8",
        ),
        (["--dtype", "bfloat16"], "--format onnx goes with --dtype float32, float16, int8, got bfloat16"),
        (["--opset", "9"], "unrecognized arguments: --opset 9"),
    ],
)
def test_formats_and_precisions_that_there_are_not(exportable_folder, tmp_path, capsys, monkeypatch, words, told):
    assert told in refused([exportable_folder, tmp_path / "out", *words], capsys, monkeypatch)
    assert not (tmp_path / "out").exists()


def without(folder, name):
    (folder / name).unlink()


def with_sizes(folder, **fields):
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


MODELS = {
    "no weights": (lambda f: without(f, "model.safetensors"), "has no weights to export: it lacks model.safetensors"),
    "no configuration": (lambda f: without(f, "config.json"), "is no SPIDER model of this project"),
    "another's configuration": (
        lambda f: (f / "config.json").write_text('{"model_type": "bert"}'),
        "is no SPIDER model",
    ),
    "damaged weights": (lambda f: (f / "model.safetensors").write_bytes(b"x" * 99), "model.safetensors"),
    "another patch size": (lambda f: with_sizes(f, patch_size=56), r"are \(5, 28\) in config.json, \(5, 56\)"),
}


@pytest.mark.parametrize("kind", MODELS)
def test_models_that_are_none(exportable_folder, tmp_path, capsys, monkeypatch, kind):
    folder = shutil.copytree(exportable_folder, tmp_path / "model")
    change, told = MODELS[kind]
    change(folder)
    if kind == "damaged weights":
        with pytest.raises(Exception, match=r"(?i)header|safetensors"):
            run.export_model(ExportSettings(str(folder), tmp_path / "out", "torch"))
    else:
        with pytest.raises(ValueError, match=told):
            run.export_model(ExportSettings(str(folder), tmp_path / "out", "torch"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("model", ["no/such-model", "/no/such/folder"])
def test_models_that_are_not_there(tmp_path, capsys, monkeypatch, model):
    assert model in refused([model, tmp_path / "out", "--format", "torch"], capsys, monkeypatch)
    assert not (tmp_path / "out").exists()


def test_a_file_is_no_model(tmp_path, capsys, monkeypatch):
    (tmp_path / "model.onnx").write_bytes(b"")
    told = refused([tmp_path / "model.onnx", tmp_path / "out", "--format", "torch"], capsys, monkeypatch)
    assert "is no SPIDER model of this project" in told


@pytest.mark.parametrize("kind", ["a file", "a folder with a file", "in a file"])
def test_an_output_folder_that_is_none_or_not_empty(exportable_folder, tmp_path, capsys, monkeypatch, kind):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("kept")
    out = {"a file": "there/mine.txt", "a folder with a file": "there", "in a file": "there/mine.txt/out"}[kind]
    told = refused([exportable_folder, tmp_path / out], capsys, monkeypatch)
    assert "must be a new or empty folder" in told or "cannot be written" in told
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["mine.txt"]
    assert (tmp_path / "there" / "mine.txt").read_text() == "kept"


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_package_that_is_missing_is_named_with_what_installs_it(
    exportable_folder, tmp_path, capsys, monkeypatch, package
):
    monkeypatch.setattr(onnx_files, "find_spec", lambda name: None if name == package else object())
    told = refused([exportable_folder, tmp_path / "out"], capsys, monkeypatch)
    assert f"--format onnx needs the package {package}, which is not installed: pip install" in told
    assert "spider-pathology[export]" in told
    assert not (tmp_path / "out").exists()


def test_graphs_that_drift_too_far_are_shown_and_not_kept(exportable, exportable_folder, tmp_path, capsys, monkeypatch):
    runners = dict(zip(("patch_encoder", "head"), halves_by_hand(exportable, add=0.01)))
    monkeypatch.setattr(run.torch_files, "write_graph", lambda half, path, facts: path.write_bytes(b"graph"))
    monkeypatch.setattr(run.torch_files, "open_graph", lambda path: runners[path.stem])
    (tmp_path / "out").mkdir()
    words = [exportable_folder, tmp_path / "out", "--format", "torch"]
    assert "drift too far from the model" in refused(words, capsys, monkeypatch, table_lines=12)
    assert list((tmp_path / "out").iterdir()) == []


def test_what_no_graph_can_be_made_of_is_told_in_one_sentence(exportable_folder, tmp_path, monkeypatch):
    def fails(*_):
        raise RuntimeError("no operator\nand a page of advice")

    monkeypatch.setattr(run.torch_files, "write_graph", fails)
    with pytest.raises(
        ValueError, match=r"No torch graph can be made of the patch encoder. RuntimeError: no operator$"
    ):
        run.export_model(ExportSettings(str(exportable_folder), tmp_path / "out", "torch"))
    assert not (tmp_path / "out").exists()


# Drift


def halves_by_hand(model, shift=0.0, add=0.0):
    """Runners that are the model but for what is added to embeddings and to the logits of class 0."""

    @torch.no_grad()
    def encoder(patches):
        mean = torch.tensor([0.6, 0.5, 0.7]).view(3, 1, 1)
        std = torch.tensor([0.2, 0.3, 0.25]).view(3, 1, 1)
        normalised = (torch.from_numpy(patches) / 255 - mean) / std
        return {"patch_embeddings": model.embed_patches(normalised).numpy() + np.float32(shift)}

    @torch.no_grad()
    def head(patch_embeddings, context_mask):
        logits = model.classify_grid(torch.from_numpy(patch_embeddings), torch.from_numpy(context_mask)).numpy()
        logits[:, 0] += add
        return {"logits": logits}

    return encoder, head


def test_drift_is_what_was_added(exportable, exportable_processor):
    rows = drift.measure(*halves_by_hand(exportable, add=0.25), exportable, exportable_processor.image_processor)
    assert all(row.largest == pytest.approx(0.25, abs=1e-4) for row in rows)
    spread = rows[0].largest / rows[0].logits
    assert all(row.largest / row.logits == pytest.approx(spread) for row in rows)
    assert max(row.embeddings for row in rows) < 1e-4
    moved = drift.measure(*halves_by_hand(exportable, shift=0.5), exportable, exportable_processor.image_processor)
    patches = np.stack(draw_mosaics(38, 1, 28, 0))
    with torch.no_grad():
        own = exportable.embed_patches(drift.processed(patches, exportable_processor.image_processor)).numpy()
    # Each batch is compared twice, with and without mask: the spread counts both.
    assert moved[-1].embeddings == pytest.approx(0.5 / np.sqrt(own.var(axis=0).mean()), rel=1e-4)


def test_drift_that_is_no_number_is_refused_and_that_of_a_model_too(exportable, exportable_processor, make_model):
    rows = drift.measure(*halves_by_hand(exportable, add=np.nan), exportable, exportable_processor.image_processor)
    assert all(row.logits == float("inf") for row in rows)
    with pytest.raises(drift.DriftError, match="drift too far"):
        drift.check(rows, "float16")
    broken = make_model()
    broken.classifier.weight.data[:] = float("nan")
    with pytest.raises(ValueError, match="own logits on drawn tissue are not finite"):
        drift.measure(*halves_by_hand(exportable), broken, exportable_processor.image_processor)


def test_masks_of_the_comparison_are_ragged_and_have_their_centre():
    mask = drift._ragged(200, 25, np.random.default_rng(0))
    counts = mask.sum(axis=1)
    assert mask[:, 12].all()
    assert counts.min() <= 3
    assert counts.max() >= 23
    assert len(set(counts)) > 15


@pytest.mark.parametrize(
    ("precision", "logits", "same", "holds"),
    [
        ("float32", 9e-4, 1.0, True),
        ("float32", 1.1e-3, 1.0, False),
        ("int8", 0.2, 0.96, True),
        ("int8", 0.3, 1.0, False),
        ("float16", 1e-4, 0.9, False),
    ],
)
def test_what_holds(precision, logits, same, holds):
    rows = [drift.Row(7, True, 0.1, 0.1, logits, same, 3), drift.Row(3, False, 0.0, 0.0, 0.0, same, 3)]
    if holds:
        drift.check(rows, precision)
    else:
        with pytest.raises(drift.DriftError):
            drift.check(rows, precision)


def test_exporters_are_silenced_and_everybody_else_is_heard_again(capsys, caplog):
    def export():
        print("noise")
        warnings.warn("noise", stacklevel=1)
        logging.getLogger("torch.onnx").warning("noise")
        raise KeyError

    with pytest.raises(KeyError):
        quiet()(export)()
    logging.getLogger("torch.onnx").warning("heard")
    assert capsys.readouterr().out == ""
    assert caplog.messages == ["heard"]
