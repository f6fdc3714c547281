"""Which patches become regions, and in which split."""

import logging
from pathlib import Path

import numpy as np
import pytest

from spider_tools.building.cases import Case
from spider_tools.building.choosing import choose, choose_splits, even_shares, spread
from spider_tools.building.labelling import LabelledSlide
from spider_tools.building.settings import BuildSettings
from spider_tools.slide_files.lattice import Lattice
from spider_tools.slide_sources.task import SlideTask


def settings(**fields):
    return BuildSettings(output_dir=Path("out"), **fields)


def slide(name, classes, objects=None, positions=None):
    count = len(classes)
    places = np.array(positions if positions is not None else [(0, i) for i in range(count)]).reshape(-1, 2)
    numbers = np.array(objects if objects is not None else [0] * count)
    lattice = Lattice(32, 32, 5, (320, 256), (1.0, 1.0))
    return LabelledSlide(name, {}, (0.5, 0.5), lattice, places, list(classes), numbers, np.ones(count), places * 32.0)


def case(name, patient=None, split=None):
    return Case(SlideTask(Path(f"{name}.svs"), name), (Path(f"{name}.xml"),), patient, split, False)


def every_row(slides):
    return [np.arange(len(one.classes)) for one in slides]


# --- Even spread


def spread_by_loop(points, count):
    points = [tuple(point) for point in points.tolist()]
    middle = tuple(np.mean(points, axis=0))

    def apart(a, b):
        return (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2

    chosen = [min(range(len(points)), key=lambda i: apart(points[i], middle))]
    while len(chosen) < count:
        chosen.append(max(range(len(points)), key=lambda i: min(apart(points[i], points[j]) for j in chosen)))
    return sorted(chosen)


@pytest.mark.parametrize("count", [1, 2, 7, 30])
def test_points_are_spread_as_a_loop_spreads_them(count):
    points = np.random.default_rng(4).integers(0, 50, (40, 2))
    assert spread(points, count).tolist() == spread_by_loop(points, count)


def test_all_points_are_taken_if_there_are_no_more():
    assert spread(np.array([[3, 1], [0, 0]]), 2).tolist() == [0, 1]
    assert spread(np.empty((0, 2)), 5).tolist() == []


@pytest.mark.parametrize(
    ("counts", "total", "shares"),
    [([5, 5], 4, [2, 2]), ([1, 9, 9], 9, [1, 4, 4]), ([3, 2], 50, [3, 2]), ([0, 4], 3, [0, 3]), ([9, 9, 9], 1, None)],
)
def test_shares_are_even_and_none_is_lost(counts, total, shares):
    given = even_shares(counts, total)
    assert sum(given) == min(total, sum(counts))
    assert all(share <= count for share, count in zip(given, counts))
    assert shares is None or given == shares


def test_a_limit_per_class_is_shared_by_slides():
    slides = [slide("a", ["Fat"] * 10 + ["Wart"]), slide("b", ["Fat"] * 2), slide("c", ["Fat"] * 10)]
    rows = choose(slides, settings(max_regions_per_class=8))
    assert [sum(slides[i].classes[row] == "Fat" for row in own.tolist()) for i, own in enumerate(rows)] == [3, 2, 3]
    assert 10 in rows[0].tolist()  # the only wart


def test_a_limit_per_object_leaves_the_unannotated_alone():
    one = slide("a", ["Fat"] * 9, objects=[0, 0, 0, 0, 1, -1, -1, -1, -1])
    (rows,) = choose([one], settings(max_per_annotation=2))
    assert np.bincount(one.objects[rows] + 1).tolist() == [4, 2, 1]


# --- Splits


def test_a_patient_never_stands_on_both_sides():
    rng = np.random.default_rng(1)
    cases = [case(f"s{i}", patient=f"p{i % 7}") for i in range(21)]
    slides = [slide(one.task.name, rng.choice(["Fat", "Wart", "Nevus"], 12).tolist()) for one in cases]
    splits = choose_splits(cases, slides, every_row(slides), settings(test_fraction=0.3, validation_fraction=0.2))
    of_patient = {}
    for one, split in zip(cases, splits):
        of_patient.setdefault(one.patient, set()).add(split)
    assert all(len(found) == 1 for found in of_patient.values())
    assert set(splits) == {"train", "validation", "test"}
    assert 0.15 < splits.count("test") / 21 < 0.45
    again = choose_splits(cases, slides, every_row(slides), settings(test_fraction=0.3, validation_fraction=0.2))
    assert again == splits
    others = {tuple(choose_splits(cases, slides, every_row(slides), settings(seed=seed))) for seed in range(5)}
    assert len(others) > 1


def test_given_splits_stay():
    cases = [case("a", split="test"), case("b", split="train")]
    slides = [slide("a", ["Fat"]), slide("b", ["Fat", "Wart"])]
    assert choose_splits(cases, slides, every_row(slides), settings()) == ["test", "train"]


def test_a_class_of_test_that_nothing_can_learn_is_refused():
    cases = [case("a", split="test"), case("b", split="train")]
    slides = [slide("a", ["Fat", "Wart"]), slide("b", ["Fat"])]
    with pytest.raises(ValueError, match=r"The classes \['Wart'\] are in test and not in train"):
        choose_splits(cases, slides, every_row(slides), settings())


def test_no_class_loses_its_only_patient_to_test(caplog):
    cases = [case(name) for name in "abcd"]
    slides = [slide("a", ["Fat", "Wart"]), *(slide(name, ["Fat"] * 3) for name in "bcd")]
    with caplog.at_level(logging.WARNING):
        splits = choose_splits(cases, slides, every_row(slides), settings(test_fraction=0.4))
    assert splits[0] == "train"
    assert "The classes ['Wart'] are in train and not in test" in caplog.text


def test_patients_that_cannot_be_spared_are_told():
    cases = [case("a"), case("b")]
    slides = [slide("a", ["Fat"]), slide("b", ["Wart"])]
    with pytest.raises(ValueError, match="No patient or slide can be spared for test"):
        choose_splits(cases, slides, every_row(slides), settings())
    assert choose_splits(cases, slides, every_row(slides), settings(test_fraction=0)) == ["train", "train"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stride": 100}, "--stride must divide the patch size, 224 px, got 100"),
        ({"stride": 448}, "--stride must divide"),
        ({"min_coverage": 0}, "--min_coverage must be above 0"),
        ({"min_coverage": 0.3, "max_other": 0.8}, "a patch could have two classes"),
        ({"fully_annotated": True}, "says nothing without --unannotated"),
        ({"unannotated": " "}, "--unannotated must be a class name"),
        ({"push_to_hub": "name"}, "--push_to_hub must be org/name"),
        ({"image_format": "tiff"}, "--image_format must be one of jpeg, png"),
        ({"test_fraction": 1.0}, "--test_fraction must be"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        settings(**fields)
