"""Synthetic tissue: the layout, the classes, and that the look-alikes do look alike."""

import itertools
import json
from collections import defaultdict

import numpy as np
import pytest
from PIL import Image

from spider_tools.demo.synthetic import CLASS_NAMES, LOOK_ALIKES, SyntheticSettings, write_dataset

SETTINGS = SyntheticSettings(train_slides=6, test_slides=3, lattice=9, patch_size=56, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic")
    write_dataset(folder, SETTINGS)
    return folder


@pytest.fixture(scope="module")
def records(folder):
    return json.loads((folder / "metadata.json").read_text())


def test_there_are_at_least_six_classes_and_two_pairs_of_look_alikes():
    assert len(CLASS_NAMES) >= 6
    assert len(LOOK_ALIKES) >= 2
    assert {name for pair in LOOK_ALIKES for name in pair} <= set(CLASS_NAMES)


def test_records_have_the_published_layout(folder, records):
    expected_keys = {f"{row}_{column}" for row in range(5) for column in range(5)} - {"2_2"}
    for record in records:
        assert set(record) == {"slide_id", "image_name", "context_info", "class", "split"}
        assert set(record["context_info"]) == expected_keys
        for name in [record["image_name"], *record["context_info"].values()]:
            assert (folder / "images" / name).is_file()
    assert {record["class"] for record in records} == set(CLASS_NAMES)


def test_no_slide_is_in_both_splits(records):
    slides = defaultdict(set)
    for record in records:
        slides[record["split"]].add(record["slide_id"])
    assert len(slides["train"]) == SETTINGS.train_slides
    assert len(slides["test"]) == SETTINGS.test_slides
    assert not slides["train"] & slides["test"]


def test_context_names_are_the_neighbours_row_by_row(records):
    record = records[0]
    slide, row, column = record["image_name"].removesuffix(".jpg").rsplit("_", 2)
    for key, name in record["context_info"].items():
        i, j = map(int, key.split("_"))
        assert name == f"{slide}_{int(row) + i - 2:02d}_{int(column) + j - 2:02d}.jpg"


def test_the_same_seed_draws_the_same_files_whatever_the_number_of_workers(folder, tmp_path):
    write_dataset(tmp_path, SETTINGS, workers=2)
    assert (tmp_path / "metadata.json").read_bytes() == (folder / "metadata.json").read_bytes()
    for path in (folder / "images").iterdir():
        assert (tmp_path / "images" / path.name).read_bytes() == path.read_bytes()


def test_another_seed_draws_other_tissue(folder, tmp_path):
    write_dataset(tmp_path, SyntheticSettings(1, 0, 9, 56, seed=4))
    name = "slide_000_04_04.jpg"
    assert (tmp_path / "images" / name).read_bytes() != (folder / "images" / name).read_bytes()


def _features_by_class(folder, records):
    """Mean and spread of each colour: what a classifier of the central patch alone could go by."""
    features = defaultdict(list)
    for record in records:
        with Image.open(folder / "images" / record["image_name"]) as image:
            pixels = np.asarray(image, dtype=float)
        features[record["class"]].append([*pixels.mean(axis=(0, 1)), *pixels.std(axis=(0, 1))])
    return {name: np.array(rows) for name, rows in features.items()}


def _separation(a, b):
    """Largest distance between the means of two groups in units of their spread (Cohen's d)."""
    return np.max(np.abs(a.mean(0) - b.mean(0)) / np.sqrt((a.var(0) + b.var(0)) / 2 + 1e-9))


def test_look_alikes_share_their_central_patch_and_other_classes_do_not(folder, records):
    features = _features_by_class(folder, records)
    alike = [_separation(features[a], features[b]) for a, b in LOOK_ALIKES]  # not 0: each slide has its own stain
    different = [
        _separation(features[a], features[b])
        for a, b in itertools.combinations(CLASS_NAMES, 2)
        if (a, b) not in LOOK_ALIKES
    ]
    assert max(alike) < 2
    assert min(different) > 2 * max(alike)


def test_a_lattice_without_room_for_records_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`lattice` must be at least 7, got 6"):
        write_dataset(tmp_path, SyntheticSettings(lattice=6))
    assert not (tmp_path / "metadata.json").exists()
