"""What goes into an index: whole results of one kind of embedding, and nothing that its own files contradict."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from made_up_patches import CONTENT, MadeUpSource, clustered, unit
from safetensors.torch import load_file, save_file

from spider_tools.retrieval.result_folder import ResultFolder
from spider_tools.retrieval.settings import DatasetFlags
from spider_tools.retrieval.sources import Vectors, check_alike, find_results, find_sources

NO_DATASET = DatasetFlags()


def rewrite(folder, **changes):
    marker = json.loads((folder / "slide.json").read_text())
    marker["request"] |= changes
    (folder / "slide.json").write_text(json.dumps(marker))


def test_every_prediction_comes_with_its_place_its_class_and_its_own_embedding(classified_once):
    for name, factor in (("a", 1), ("c", 2)):
        folder = classified_once.results / name
        result = ResultFolder(folder)
        table = pq.read_table(folder / "predictions.parquet").to_pylist()
        saved = load_file(folder / "embeddings.safetensors")
        places = {tuple(xy): row for row, xy in enumerate(saved["xy_level0"].tolist())}
        rows = result.patches().table.to_pylist()
        assert len(rows) == len(table) == len(result)
        for row, wanted in zip(rows, table):
            probabilities = {key[13:]: value for key, value in wanted.items() if key.startswith("probability: ")}
            assert (row["x_level0"], row["y_level0"]) == (wanted["x_level0"], wanted["y_level0"])
            assert (row["width_level0"], row["height_level0"]) == (28.0 * factor, 28.0 * factor)
            assert row["class"] == wanted["class"] == max(probabilities, key=probabilities.get)
            assert row["probability"] == max(probabilities.values())
            assert row["slide"] == name
        own = [places[row["x_level0"], row["y_level0"]] for row in table]
        np.testing.assert_array_equal(result.embeddings(np.arange(len(table))), saved["embeddings"][own].numpy())


def test_a_folder_of_results_is_all_of_them_without_what_is_not_finished(classified, caplog):
    (classified.results / "b" / "slide.json").unlink()
    (classified.results / ".run-1").mkdir()
    assert [source.name for source in find_sources([str(classified.results)], NO_DATASET)] == ["a", "c"]
    assert "results/b is left out: it has no slide.json" in caplog.text
    assert [source.name for source in find_results([str(classified.results / "c")])] == ["c"]


def test_slides_of_one_name_are_refused(classified, tmp_path):
    shutil.copytree(classified.results / "a", tmp_path / "more" / "A")
    with pytest.raises(ValueError, match=r"results/a and .*more/A are of slides of one name, 'A'"):
        find_sources([str(classified.results), str(tmp_path / "more")], NO_DATASET)


@pytest.mark.parametrize("what", ["embeddings.safetensors", "predictions.parquet"])
@pytest.mark.parametrize("damage", ["cut", "absent"])
def test_a_file_that_is_not_as_long_as_the_marker_says_is_refused(classified, what, damage):
    path = classified.results / "a" / what
    path.write_bytes(path.read_bytes()[:-9]) if damage == "cut" else path.unlink()
    with pytest.raises(ValueError, match=rf"{what} is missing or not as long as slide\.json says"):
        find_sources([str(classified.results)], NO_DATASET)


def test_embeddings_that_do_not_fit_their_checksum_are_refused(classified):
    path = classified.results / "b" / "embeddings.safetensors"
    content = bytearray(path.read_bytes())
    content[-3000] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"b/embeddings\.safetensors is damaged.*does not fit its checksum"):
        find_sources([str(classified.results)], NO_DATASET)


def test_embeddings_of_an_earlier_version_without_a_checksum_are_used(classified, caplog):
    folder = classified.results / "a"
    metadata = {"content": ResultFolderContent.of(folder)}
    save_file(load_file(folder / "embeddings.safetensors"), folder / "embeddings.safetensors", metadata)
    marker = json.loads((folder / "slide.json").read_text())
    marker["outputs"]["embeddings.safetensors"] = (folder / "embeddings.safetensors").stat().st_size
    (folder / "slide.json").write_text(json.dumps(marker))
    with caplog.at_level("INFO"):
        assert len(ResultFolder(folder)) > 10
    assert "holds no checksum: it is used as it is" in caplog.text


class ResultFolderContent:
    @staticmethod
    def of(folder):
        request = json.loads((folder / "slide.json").read_text())["request"]
        return json.dumps({**request["model"], "source": {"slide": request["slide"], "scale": request["scale"]}})


@pytest.mark.parametrize("field", ["model", "slide"])
def test_embeddings_of_another_model_or_slide_than_the_marker_names_are_refused(classified, field):
    folder = classified.results / "a"
    request = json.loads((folder / "slide.json").read_text())["request"]
    changed = {"dtype": "float16"} if field == "model" else {"content": "another", "quickhash": None}
    rewrite(folder, **{field: {**request[field], **changed}})
    with pytest.raises(ValueError, match=r"it is of another slide or model than slide\.json"):
        ResultFolder(folder)


@pytest.mark.parametrize(
    "changes", [{"mpp": [0.5]}, {"scale": [0, 1]}, {"class_names": None}, {"slide": {"size": "ab"}}, {"model": {}}]
)
def test_a_marker_that_is_none_is_refused(classified, changes):
    rewrite(classified.results / "a", **changes)
    with pytest.raises(ValueError, match=r"slide\.json is no marker of a slide"):
        ResultFolder(classified.results / "a")


def test_predictions_without_an_embedding_are_refused(classified):
    folder = classified.results / "a"
    path = folder / "predictions.parquet"
    table = pq.read_table(path)
    moved = table.set_column(0, "row", pa.array(np.full(len(table), 99, dtype=np.int32)))
    pq.write_table(moved, path)
    marker = json.loads((folder / "slide.json").read_text())
    marker["outputs"]["predictions.parquet"] = path.stat().st_size
    (folder / "slide.json").write_text(json.dumps(marker))
    with pytest.raises(ValueError, match="lacks patches of the predictions"):
        ResultFolder(folder)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("backbone_sha256", "f" * 64, "backbone_sha256: b and ffffffffffffffffffffffff..."),
        ("dtype", "bfloat16", "dtype: float32 and bfloat16"),
        ("preprocessing", {"patch_size": 224}, "preprocessing:"),
    ],
)
def test_different_embeddings_are_not_mixed_and_both_are_named(field, value, message):
    sources = [MadeUpSource(clustered(3), "one"), MadeUpSource(clustered(3), "two", {**CONTENT, field: value})]
    with pytest.raises(ValueError, match=rf"^one and two were not embedded alike.*{message}"):
        check_alike(sources)
    check_alike([sources[0], MadeUpSource(clustered(3), "three")])


def test_mixed_results_are_refused(classified):
    folder = classified.results / "b"
    request = json.loads((folder / "slide.json").read_text())["request"]
    tensors = load_file(folder / "embeddings.safetensors")
    request["model"]["backbone_sha256"] = "0" * 64
    rewrite(folder, model=request["model"])
    save_file(tensors, folder / "embeddings.safetensors", {"content": ResultFolderContent.of(folder)})
    marker = json.loads((folder / "slide.json").read_text())
    marker["outputs"]["embeddings.safetensors"] = (folder / "embeddings.safetensors").stat().st_size
    (folder / "slide.json").write_text(json.dumps(marker))
    with pytest.raises(ValueError, match=r"results/a and .*results/b were not embedded alike.*backbone_sha256: "):
        find_sources([str(classified.results)], NO_DATASET)


def test_slides_of_different_magnifications_are_warned_of(classified, caplog):
    results = find_results([str(classified.results)])
    assert "um/px" not in caplog.text  # the finer slide was embedded at the um/px of the others
    object.__setattr__(results[2].facts, "scale", (1.0, 1.0))
    check_alike(results)
    assert "embedded at 0.25 to 0.5 um/px" in caplog.text


@pytest.mark.parametrize(("path", "message"), [("nowhere", "There is no folder"), ("", "holds neither results of")])
def test_folders_without_results_are_refused(tmp_path, path, message):
    with pytest.raises(ValueError, match=message):
        find_sources([str(tmp_path / path)], NO_DATASET)


def test_sources_are_read_as_one_table_of_unit_vectors():
    parts = [clustered(7, seed=0), clustered(1, seed=1), clustered(12, seed=2)]
    vectors = Vectors([MadeUpSource(part, str(number)) for number, part in enumerate(parts)])
    whole = unit(np.concatenate(parts))
    assert (len(vectors), vectors.hidden_size) == (20, 24)
    rows = np.random.default_rng(0).permutation(20)
    np.testing.assert_allclose(vectors[rows], whole[rows], atol=1e-6)
    blocks = list(vectors.blocks(6, start=2, stop=19))
    assert [first for first, _ in blocks] == [2, 8, 14]
    np.testing.assert_allclose(np.concatenate([block for _, block in blocks]), whole[2:19], atol=1e-6)


def test_embeddings_of_any_float_become_float32(classified):
    folder = classified.results / "a"
    tensors = load_file(folder / "embeddings.safetensors")
    half = {**tensors, "embeddings": tensors["embeddings"].to(torch.bfloat16)}
    save_file(half, folder / "embeddings.safetensors", {"content": ResultFolderContent.of(folder)})
    marker = json.loads((folder / "slide.json").read_text())
    marker["outputs"]["embeddings.safetensors"] = (folder / "embeddings.safetensors").stat().st_size
    (folder / "slide.json").write_text(json.dumps(marker))
    assert ResultFolder(folder).embeddings(np.arange(3)).dtype == np.float32
