import json
from statistics import mean

import pytest
from tiny_spider import ROOT

from spider_tools import paper_results

WITH_CLASS_RESULTS = ("skin", "colorectal", "thorax")


def test_there_are_four_organs():
    assert paper_results.organ_names() == ("skin", "colorectal", "thorax", "breast")


@pytest.mark.parametrize(("organ", "count"), [("skin", 24), ("colorectal", 13), ("thorax", 14), ("breast", 18)])
def test_class_names_are_distinct_and_alphabetical(organ, count):
    names = paper_results.class_names(organ)
    assert len(set(names)) == len(names) == count
    assert names == sorted(names)


def test_class_names_keep_the_published_spelling():
    skin = paper_results.class_names("skin")
    assert "Kaposi\N{RIGHT SINGLE QUOTATION MARK}s sarcoma" in skin
    assert "Mercel cell carcinoma" in skin
    assert "Chronic inflammation + fibrosis" in paper_results.class_names("thorax")
    assert "Ductal carcinoma in situ (high-grade)" in paper_results.class_names("breast")


@pytest.mark.parametrize(
    ("organ", "accuracy", "precision", "f1"),
    [
        ("skin", 0.940, 0.935, 0.937),
        ("colorectal", 0.914, 0.917, 0.915),
        ("thorax", 0.962, 0.958, 0.960),
        ("breast", 0.902, 0.896, 0.897),
    ],
)
def test_headline_figures_are_those_of_the_paper(organ, accuracy, precision, f1):
    metrics = paper_results.published_organ(organ).metrics
    assert metrics == {"accuracy": accuracy, "macro_precision": precision, "macro_f1": f1}


@pytest.mark.parametrize("organ", WITH_CLASS_RESULTS)
def test_results_per_class_average_to_the_headline_figures(organ):
    """A typing error in one of the three columns of some class would show here or in the next test."""
    facts = paper_results.published_organ(organ)
    assert list(facts.per_class) == list(facts.class_names)
    rows = facts.per_class.values()
    assert mean(row["precision"] for row in rows) == pytest.approx(facts.metrics["macro_precision"], abs=0.0006)
    assert mean(row["f1"] for row in rows) == pytest.approx(facts.metrics["macro_f1"], abs=0.0006)
    # comparison.md tells its reader so.
    assert mean(row["recall"] for row in rows) == pytest.approx(facts.metrics["accuracy"], abs=0.0006)


@pytest.mark.parametrize("organ", WITH_CLASS_RESULTS)
def test_f1_of_a_class_is_the_harmonic_mean_of_its_precision_and_recall(organ):
    for name, row in paper_results.published_organ(organ).per_class.items():
        expected = 2 * row["precision"] * row["recall"] / (row["precision"] + row["recall"])
        assert row["f1"] == pytest.approx(expected, abs=0.0011), name


@pytest.mark.parametrize("organ", WITH_CLASS_RESULTS)
def test_the_ablation_starts_at_the_headline_accuracy_and_falls_with_the_context(organ):
    facts = paper_results.published_organ(organ)
    assert list(facts.context_ablation) == [5, 3, 1]
    assert facts.context_ablation[5] == facts.metrics["accuracy"]
    assert facts.context_ablation[5] > facts.context_ablation[3] > facts.context_ablation[1]


@pytest.mark.parametrize("organ", WITH_CLASS_RESULTS)
def test_regions_are_those_of_train_and_test(organ):
    facts = paper_results.published_organ(organ)
    assert facts.counts["regions"] == facts.counts["train_regions"] + facts.counts["test_regions"]
    assert not facts.counts_are_approximate


def test_what_is_not_published_about_breast_is_none():
    breast = paper_results.published_organ("breast")
    assert breast.per_class is None
    assert breast.context_ablation is None
    assert breast.counts["slides"] is None
    assert breast.counts["regions"] == 92_900
    assert breast.counts_are_approximate


def test_a_caller_cannot_change_the_facts():
    paper_results.published_organ("skin").per_class["Fat"]["recall"] = 0.0
    paper_results.class_names("skin").clear()
    assert paper_results.published_organ("skin").per_class["Fat"]["recall"] == 0.997
    assert len(paper_results.class_names("skin")) == 24


def test_an_unknown_organ_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'liver'.*skin, colorectal, thorax, breast"):
        paper_results.published_organ("liver")


def test_the_published_architecture_has_the_colorectal_classes():
    config = ROOT / "config.json"
    if not config.is_file():
        pytest.skip("config.json is not in this checkout")
    assert json.loads(config.read_text(encoding="utf-8"))["class_names"] == paper_results.class_names("colorectal")
