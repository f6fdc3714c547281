"""The index beside brute force: exact, in lists, in parts, with rows that may not be found; and what is damaged."""

import json
import sys

import numpy as np
import pytest
from made_up_patches import MadeUpSource, clustered, unit

from spider_tools.retrieval import index_building
from spider_tools.retrieval.index_building import build_index, describe
from spider_tools.retrieval.patch_index import PatchIndex
from spider_tools.retrieval.settings import IndexSettings

pytest.importorskip("faiss")


@pytest.fixture
def build(tmp_path, monkeypatch):
    """`build(vectors, ..., part=rows of a part, **settings)`: the index of sources of these vectors."""

    def make(*vectors, part=None, **settings):
        sources = [MadeUpSource(v, f"s{number}") for number, v in enumerate(vectors)]
        monkeypatch.setattr(index_building, "find_sources", lambda paths, flags: sources)
        if part is not None:
            monkeypatch.setattr(index_building, "SHARD_BYTES", part * 2 * vectors[0].shape[1])
        build_index(["made up"], IndexSettings(index=tmp_path / "I", **settings))
        return PatchIndex(tmp_path / "I")

    return make


def brute_force(vectors, queries, count, allowed=None):
    cosines = unit(queries) @ unit(vectors).T
    if allowed is not None:
        cosines[:, ~allowed] = -np.inf
    order = np.argsort(-cosines, axis=1)[:, :count]
    return np.take_along_axis(cosines, order, axis=1), order


def all_of(index):
    return np.ones(len(index), dtype=bool)


@pytest.mark.parametrize("part", [None, 700])
def test_the_exact_index_finds_what_brute_force_finds(build, part):
    vectors = clustered(2000)
    index = build(vectors[:900], vectors[900:], part=part)
    assert len(list(index.folder.glob("*.faiss"))) == (1 if part is None else 3)
    queries = unit(clustered(20, seed=5)).astype(np.float32)
    scores, rows = index.search(queries, 50, all_of(index))
    expected, order = brute_force(vectors, queries, 50)
    np.testing.assert_allclose(scores, expected, atol=1e-3)  # float16
    own = (unit(queries) @ unit(vectors).T)[np.arange(20)[:, None], rows]
    np.testing.assert_allclose(own, expected, atol=1e-3)
    assert np.mean([len(set(a) & set(b)) / 50 for a, b in zip(rows.tolist(), order.tolist())]) > 0.98


@pytest.mark.parametrize("part", [None, 700])
@pytest.mark.parametrize("ivf_from", [1, 10**6])
def test_rows_that_may_not_be_found_are_not_and_all_others_are(build, part, ivf_from):
    vectors = clustered(2000)
    index = build(vectors, part=part, ivf_from=ivf_from)
    allowed = np.random.default_rng(1).random(2000) < 0.02
    scores, rows = index.search(unit(vectors[:3]).astype(np.float32), 100, allowed, effort=10**6)
    for found, cosines, own in zip(rows, scores, brute_force(vectors, vectors[:3], 2000, allowed)[1]):
        assert set(found[found >= 0].tolist()) == set(np.flatnonzero(allowed).tolist())
        assert (found[: allowed.sum()] == own[: allowed.sum()]).mean() > 0.9
        assert np.isneginf(cosines[allowed.sum() :]).all()


@pytest.mark.parametrize("part", [None, 1500])
def test_lists_find_as_much_as_the_index_says_that_they_do(build, part, capsys):
    vectors = clustered(4000, hidden=32, clusters=60)
    index = build(vectors, part=part, ivf_from=4000, seed=3)
    assert index.facts["kind"] == "ivf"
    assert index.facts["lists"] == 63
    assert index.facts["probes"] < 63
    assert index.facts["recall"]["share"] >= 0.95
    queries = unit(vectors[np.random.default_rng(9).choice(4000, 100, replace=False)]).astype(np.float32)
    _, rows = index.search(queries, 101, all_of(index))
    _, exact = brute_force(vectors, queries, 101)
    recall = np.mean([len(set(a) & set(b)) / 101 for a, b in zip(rows.tolist(), exact.tolist())])
    assert recall == pytest.approx(index.facts["recall"]["share"], abs=0.03)
    assert f"Recall@100 against exact search: {index.facts['recall']['share']:.3f}" in describe(index.facts)


def test_below_the_threshold_there_are_no_lists(build):
    facts = build(clustered(50), ivf_from=51).facts
    assert (facts["kind"], facts["lists"], facts["probes"], facts["recall"]) == ("exact", None, None, None)


@pytest.mark.parametrize("ivf_from", [1, 10**6])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_an_index_of_few_patches_works(build, count, ivf_from):
    vectors = clustered(count)
    index = build(vectors, ivf_from=ivf_from)
    _, rows = index.search(unit(vectors[:1]).astype(np.float32), 10, all_of(index), effort=10**6)
    assert sorted(row for row in rows[0].tolist() if row >= 0) == list(range(count))


@pytest.mark.parametrize("ivf_from", [1, 10**6])
def test_the_vectors_of_rows_come_back(build, ivf_from):
    vectors = clustered(1000)
    index = build(vectors, part=300, ivf_from=ivf_from)
    rows = np.array([999, 0, 300, 299, 0])
    np.testing.assert_allclose(index.vectors(rows), unit(vectors)[rows], atol=1e-3)
    assert index.vectors(rows[:0]).shape == (0, 24)


def test_the_same_vectors_give_the_same_lists(build):
    vectors = clustered(1500)
    first = build(vectors, ivf_from=1, seed=4).facts
    assert build(vectors, ivf_from=1, seed=4).facts == first
    assert build(vectors, ivf_from=1, seed=5).facts["parts"] != first["parts"]


def test_an_index_with_fewer_parts_leaves_none_of_the_earlier_one(build):
    build(clustered(1000), part=200)
    index = build(clustered(1000), part=600)
    assert {path.name for path in index.folder.iterdir()} == {
        *("index.faiss", "index-1.faiss", "patches.parquet", "index.json", ".lock")
    }


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_embeddings_that_are_no_numbers_are_refused_and_the_earlier_index_stays(build, value):
    before = build(clustered(50)).facts
    vectors = clustered(50)
    vectors[7] = value
    with pytest.raises(ValueError, match="s0 holds embeddings that are NaN, infinite or 0"):
        build(vectors)
    folder = PatchIndex(before and build(clustered(50)).folder, verify=True).folder
    assert not list(folder.glob(".*.unfinished"))


@pytest.mark.parametrize("name", ["index.faiss", "patches.parquet"])
@pytest.mark.parametrize("damage", ["cut", "absent", "changed"])
def test_a_damaged_index_is_refused(build, name, damage):
    folder = build(clustered(200)).folder
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    {
        "cut": lambda: (folder / name).write_bytes(content[:-5]),
        "absent": (folder / name).unlink,
        "changed": lambda: (folder / name).write_bytes(content),
    }[damage]()
    problem = "does not fit its checksum" if damage == "changed" else "is missing or of another size"
    with pytest.raises(ValueError, match=rf"{name} {problem}.*Build it again"):
        PatchIndex(folder, verify=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 7}, "its version is 7"),
        ({"parts": [{"file": "../index.faiss", "rows": 200, "size": 1, "sha256": ""}]}, r"../index.faiss is missing"),
        ({"slides": {"s": {}}}, "lacks KeyError"),
        ({"slides": 3}, "cannot be used"),
        ({"content": None}, "cannot be used"),
    ],
)
def test_an_index_that_says_something_else_is_refused(build, change, message):
    folder = build(clustered(200)).folder
    facts = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**facts, **change}))
    with pytest.raises(ValueError, match=message):
        PatchIndex(folder)


def test_a_folder_without_an_index_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"The index .*index\.json cannot be read: No such file"):
        PatchIndex(tmp_path)


def test_without_faiss_the_extra_is_named(build, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ValueError, match=r'pip install "spider-pathology\[retrieval\]"'):
        build(clustered(20))


def test_a_faiss_that_cannot_map_an_index_is_refused(build, monkeypatch):
    monkeypatch.delattr("faiss.IO_FLAG_MMAP_IFC")
    with pytest.raises(ValueError, match=r"needs faiss-cpu 1\.11 or newer, got"):
        build(clustered(20))
