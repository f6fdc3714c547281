"""A store of embeddings beside its data set: slide and label of every patch, by a loop over its records."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from made_up_patches import unit
from PIL import Image
from small_datasets import PATCH, pixels_of, some_records, write_folder

from spider_tools.data.loading import load_regions
from spider_tools.embeddings.store_index import add_shard, prepare_store
from spider_tools.retrieval.index_building import build_index
from spider_tools.retrieval.query import query_index
from spider_tools.retrieval.result_folder import ResultFolder
from spider_tools.retrieval.settings import DatasetFlags, IndexSettings, QuerySettings
from spider_tools.retrieval.sources import find_results, find_sources
from spider_tools.retrieval.store_source import StoreSource

HIDDEN = 6


def embedding_of(name):
    return np.random.default_rng(list(name.encode())).normal(size=HIDDEN).astype(np.float16)


@pytest.fixture
def stored(tmp_path):
    """A data set of 22 regions, and a store of most of its patches and of two that it does not name."""
    write_folder(tmp_path / "data", some_records())
    flags = DatasetFlags(dataset=str(tmp_path / "data"), cache_dir=tmp_path / "cache")
    data = load_regions(flags.data_settings(PATCH))
    content = {"backbone_sha256": "b", "preprocessing": {"patch_size": PATCH}, "dtype": "float32"}
    records = json.loads((tmp_path / "data" / "metadata.json").read_text())
    names = sorted({name for r in records for name in (r["image_name"], *r["context_info"].values())})
    held = [name for name in names if name not in names[:3]]
    folder = tmp_path / "store"
    folder.mkdir()
    prepare_store(folder, {**content, "source": data.fingerprint}, HIDDEN)
    shuffled = np.random.default_rng(0).permutation([*held, "stray 1.png", "stray 2.png"]).tolist()
    for part in (shuffled[:200], shuffled[200:]):
        rows = torch.from_numpy(np.stack([embedding_of(name) for name in part]))
        add_shard(folder, pa.array(part, pa.large_string()), rows)
    return SimpleNamespace(folder=folder, flags=flags, records=records, names=names, held=held, content=content)


def test_the_patches_of_the_data_set_have_their_slide_label_and_embedding(stored):
    source = StoreSource(stored.folder, stored.flags)
    rows = source.patches().table.to_pylist()
    assert sorted(row["patch"] for row in rows) == sorted(stored.held)
    assert source.absent == 3
    assert source.content == stored.content
    label = {r["image_name"]: r["class"] for r in stored.records}
    slides = {}
    for r in stored.records:
        slides |= dict.fromkeys([r["image_name"], *r["context_info"].values()], r["slide_id"])
    for row, embedding in zip(rows, source.embeddings(np.arange(len(source)))):
        assert row["class"] == label.get(row["patch"])
        assert row["slide"] == slides[row["patch"]]
        assert (row["x_level0"], row["probability"]) == (None, None)
        np.testing.assert_array_equal(embedding, embedding_of(row["patch"]).astype(np.float32))
    assert sum(row["class"] is not None for row in rows) == len(label.keys() & set(stored.held))


def test_a_store_is_found_beside_its_data_set(stored):
    [source] = find_sources([str(stored.folder.parent / "store")], stored.flags)
    assert isinstance(source, StoreSource)


def test_a_store_without_its_data_set_is_refused(stored):
    with pytest.raises(ValueError, match="is a store of embeddings: name its data set with --dataset"):
        find_sources([str(stored.folder)], DatasetFlags())


def test_a_store_of_another_data_set_is_refused(stored):
    write_folder(stored.folder.parent / "other", some_records()[:9])
    flags = DatasetFlags(dataset=str(stored.folder.parent / "other"), cache_dir=stored.flags.cache_dir)
    with pytest.raises(ValueError, match=r"was not made from the data set other as it is now.*context_size of 5"):
        StoreSource(stored.folder, flags)


def test_a_damaged_store_is_refused(stored):
    shard = sorted(stored.folder.glob("shard-*"))[0]
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=r"1 of 2 shards in .* are damaged or missing"):
        StoreSource(stored.folder, stored.flags)


def test_a_store_and_slides_of_another_backbone_are_not_mixed(stored, classified_once):
    with pytest.raises(ValueError, match=r"store and .*results/a were not embedded alike"):
        find_sources([str(stored.folder), str(classified_once.results / "a")], stored.flags)


@pytest.mark.parametrize("named", [True, False])
def test_labelled_patches_find_others_which_a_table_and_a_sheet_show(stored, tmp_path, named):
    pytest.importorskip("faiss")
    words = {"dataset": stored.flags.dataset, "cache_dir": stored.flags.cache_dir}
    build_index([str(stored.folder)], IndexSettings(index=tmp_path / "I", **words))
    found = {"class_name": "Fat", "labels": True, "top": 5, "per_slide": 2, "output_dir": tmp_path / "O"}
    finding = query_index(QuerySettings(index=tmp_path / "I", **found, **(words if named else {})))
    names = finding.patches.table["patch"].to_pylist()
    fat = {record["image_name"] for record in stored.records if record["class"] == "Fat"} & set(stored.held)
    mean = np.mean([unit(embedding_of(name)[None])[0] for name in fat], axis=0)
    best = sorted(set(stored.held) - fat, key=lambda name: -float(unit(embedding_of(name)[None])[0] @ mean))
    assert names[0] == best[0]
    slides = finding.patches.table["slide"].to_pylist()
    assert max(map(slides.count, slides)) <= 2
    assert finding.asked["examples"] == len(fat)
    with (tmp_path / "O" / "results.csv").open() as file:
        assert [row["patch"] for row in csv.DictReader(file)] == names
    assert not list((tmp_path / "O").glob("*.geojson")), "they have no place on a slide"
    if named:
        sheet = np.asarray(Image.open(tmp_path / "O" / "contact_sheet.png").convert("RGB"))
        for number, name in enumerate(names):
            shown = sheet[8 : 8 + PATCH, 8 + 72 * number : 8 + 72 * number + PATCH]
            np.testing.assert_array_equal(shown, pixels_of(name))
    else:
        assert any("name it with --dataset" in remark for remark in finding.remarks)


def test_suggestions_take_results_alone(stored, classified_once):
    with pytest.raises(ValueError, match=r"store is no folder of results of segment_slide\.py"):
        find_results([str(classified_once.results), str(stored.folder)])
    assert all(isinstance(result, ResultFolder) for result in find_results([str(classified_once.results)]))
