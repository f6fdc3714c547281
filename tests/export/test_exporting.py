"""Exports: two graphs that give what the model gives, and all that their user must know."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from imported_models import note_import, unverified
from PIL import Image

from spider_tools.drawn_tissue import draw_mosaics
from spider_tools.export import onnx_files, run, torch_files
from spider_tools.export.about import Exported, about
from spider_tools.export.readme import readme
from spider_tools.export.settings import ExportSettings
from spider_tools.model_folder import weights_sha256
from spider_tools.weights.loading import load_spider

FILES = {"onnx": onnx_files, "torch": torch_files}
FORMATS = ["onnx", "torch"]


@pytest.fixture(autouse=True, scope="module")
def needed():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def graphs(exported):
    """`graphs(format)`: what runs the encoder, and the head."""

    def open_both(file_format):
        files, (out, _) = FILES[file_format], exported(file_format)
        return [files.open_graph(out / f"{name}{files.SUFFIX}") for name in ("patch_encoder", "head")]

    return open_both


@pytest.fixture(scope="module")
def drawn():
    """25 images of 140 px, and of smaller sizes, which lack patches at their edges."""
    whole = draw_mosaics(25, 5, 28, seed=7)
    sizes = np.random.default_rng(8).integers(28, 141, (25, 2))
    return [image if i % 3 == 0 else image[: sizes[i, 0], : sizes[i, 1]] for i, image in enumerate(whole)]


def patches_of(image):
    """Patches by slices: uint8 `(25, 3, 28, 28)`, zero where an image in the middle of the region does not reach."""
    region, mask = np.zeros((140, 140, 3), np.uint8), np.zeros((140, 140), bool)
    top, left = ((140 - side) // 2 for side in image.shape[:2])
    region[top : top + image.shape[0], left : left + image.shape[1]] = image
    mask[top : top + image.shape[0], left : left + image.shape[1]] = True
    squares = [(slice(r, r + 28), slice(c, c + 28)) for r in range(0, 140, 28) for c in range(0, 140, 28)]
    return np.stack([region[s].transpose(2, 0, 1) for s in squares]), np.array([mask[s].all() for s in squares])


@pytest.mark.parametrize("file_format", FORMATS)
def test_graphs_give_what_the_model_gives_for_any_number_of_regions(
    graphs, drawn, exportable, exportable_processor, file_format
):
    encoder, head = graphs(file_format)
    patches, mask = (np.stack(part) for part in zip(*map(patches_of, drawn)))
    assert not mask.all()
    for batch in (1, 2, 3, 7, 25):
        embeddings = encoder(patches=patches[:batch].reshape(-1, 3, 28, 28))["patch_embeddings"]
        given = head(patch_embeddings=embeddings.reshape(batch, 25, -1), context_mask=mask[:batch])
        with torch.no_grad():
            expected = exportable(
                **exportable_processor(images=drawn[:batch], return_tensors="pt"), output_attentions=True
            )
        assert list(given) == ["logits", "context_attention", "unfamiliarity", "class_p_values"]
        for name, array in given.items():
            assert array.dtype == np.float32
            np.testing.assert_allclose(array, expected[name].numpy(), atol=1e-4, err_msg=name)


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_mask_of_all_patches_is_no_mask(graphs, patch_embeddings, exportable, file_format):
    head = graphs(file_format)[1]
    given = head(patch_embeddings=patch_embeddings.numpy(), context_mask=np.ones((3, 25), bool))
    with torch.no_grad():
        expected = exportable(patch_embeddings=patch_embeddings)
    np.testing.assert_allclose(given["logits"], expected.logits.numpy(), atol=1e-5)


@pytest.mark.parametrize("file_format", FORMATS)
def test_an_export_says_what_its_user_must_know(exported, exportable_folder, exportable, file_format):
    out, made = exported(file_format)
    suffix = FILES[file_format].SUFFIX
    assert {path.name for path in out.iterdir()} == {
        f"patch_encoder{suffix}",
        f"head{suffix}",
        "export.json",
        "README.md",
    }
    facts = json.loads((out / "export.json").read_text(encoding="utf-8"))
    assert {**facts, "table": made["table"]} == made
    assert facts["labels"] == exportable.config.class_names
    assert (facts["context_size"], facts["patch_size"], facts["mpp"]) == (5, 28, 0.25)
    assert facts["normalization"]["image_mean"] == [0.6, 0.5, 0.7]
    assert facts["normalization"]["image_std"] == [0.2, 0.3, 0.25]
    assert (facts["logit_temperature"], facts["unfamiliarity_threshold"]) == (1.7, 1.25)
    assert facts["weights_sha256"] == weights_sha256(exportable_folder)
    assert (facts["model"], facts["import"]) == ("tiny model", None)
    assert str(exportable_folder.parent) not in (out / "export.json").read_text() + (out / "README.md").read_text()
    assert [(row["batch"], row["masked"]) for row in facts["drift"]] == [
        (batch, masked) for batch in (1, 2, 3, 7, 25) for masked in (False, True)
    ]
    assert max(row["logits"] for row in facts["drift"]) < 1e-4
    assert len(made["table"].splitlines()) == 12


def test_the_graphs_carry_labels_and_normalisation_themselves(exported):
    onnxruntime = pytest.importorskip("onnxruntime")
    facts = exported("onnx")[1]
    for name in ("patch_encoder", "head"):
        session = onnxruntime.InferenceSession(exported("onnx")[0] / f"{name}.onnx")
        properties = json.loads(session.get_modelmeta().custom_metadata_map["spider"])
        extra = {"export.json": ""}
        torch.export.load(exported("torch")[0] / f"{name}.pt2", extra_files=extra)
        for carried in (properties, json.loads(extra["export.json"])):
            for field in ("labels", "mpp", "normalization", "logit_temperature", "import"):
                assert carried[field] == facts[field]
        assert session.get_inputs()[0].shape[0] == "batch"


@pytest.mark.parametrize("file_format", FORMATS)
def test_the_readme_runs_where_there_is_neither_this_project_nor_transformers(
    exported, exportable, exportable_processor, drawn, tmp_path, file_format
):
    out = shutil.copytree(exported(file_format)[0], tmp_path / "somewhere")
    Image.fromarray(drawn[0]).save(out / "region.png")
    program = re.search(r"```python\n(.*?)```", (out / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    absent = "import sys\nfor name in ('spider_tools', 'transformers'): sys.modules[name] = None\n"
    done = subprocess.run(
        [sys.executable, "-I", "-X", "utf8", "-c", absent + program],
        cwd=out,
        env={"PATH": os.defpath},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        expected = exportable(**exportable_processor(images=drawn[0], return_tensors="pt"))
    assert done.stdout == expected.predicted_class_names[0] + "\n"


def test_an_unverified_import_carries_its_mark(exportable_folder, exportable_processor, tmp_path):
    folder = shutil.copytree(exportable_folder, tmp_path / "imported")
    note_import(folder, unverified(source="/home/somebody/<b>model</b>"))
    settings = ExportSettings(str(folder), tmp_path / "out")
    facts = about(Exported(load_spider(str(folder)), exportable_processor.image_processor, folder), settings)
    assert facts["import"]["verified"] is False
    assert "somebody" not in json.dumps(facts)
    text = readme({**facts, "drift": [{"logits": 1e-6}]}, ".onnx")
    assert "**Not verified: imported from" in text
    assert "<b>" not in text


def test_int8_gives_nearly_the_same_embeddings(exported, tmp_path):
    shutil.copy(exported("onnx")[0] / "patch_encoder.onnx", tmp_path)
    patches = np.stack(draw_mosaics(7, 1, 28, seed=3)).transpose(0, 3, 1, 2).copy()
    before = onnx_files.open_graph(tmp_path / "patch_encoder.onnx")(patches=patches)["patch_embeddings"]
    with run.quiet():
        onnx_files.quantize(tmp_path / "patch_encoder.onnx")
    session = onnx_files.open_graph(tmp_path / "patch_encoder.onnx")
    after = session(patches=patches)["patch_embeddings"]
    assert 0 < np.abs(after - before).max() < 0.5 * before.std()
    assert [p.name for p in tmp_path.iterdir()] == ["patch_encoder.onnx"]
    content = (tmp_path / "patch_encoder.onnx").read_bytes()
    assert b"MatMulInteger" in content or b"DynamicQuantizeMatMul" in content
    assert b"logit_temperature" in content


@pytest.mark.parametrize(("file_format", "dtype"), [("torch", "bfloat16"), ("onnx", "float16")])
@pytest.mark.slow
def test_lower_precisions_hold_and_still_take_bytes_and_give_float32(exportable_folder, tmp_path, file_format, dtype):
    settings = ExportSettings(str(exportable_folder), tmp_path / "out", file_format, dtype)
    made = run.export_model(settings)
    assert made["dtype"] == {"patch_encoder": dtype, "head": "float32"}
    assert 0 < max(row["logits"] for row in made["drift"]) < 0.25
    encoder = FILES[file_format].open_graph(tmp_path / "out" / f"patch_encoder{FILES[file_format].SUFFIX}")
    assert encoder(patches=np.zeros((3, 3, 28, 28), np.uint8))["patch_embeddings"].dtype == np.float32
