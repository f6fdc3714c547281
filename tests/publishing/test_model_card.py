"""The model card says what the files say, and nothing else."""

import json
import re
import shutil

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support, precision_score

from spider_tools import paper_results
from spider_tools.evaluation.predictions import Predictions
from spider_tools.evaluation.report import write_report
from spider_tools.evaluation.results import ReportContext
from spider_tools.publishing.model_card import make_model_card, write_model_card

CLASS_NAMES = ["Stroma", "Kaposi\u2019s sarcoma", "Fat | tumour <3 mm", "Vessels"]
SIZES = {"context_size": 3, "patch_size": 28, "mpp": 0.25}
TRAINING = {
    "dataset": "histai/SPIDER-skin",
    "regions": 13164,
    "slides": 378,
    "epochs": 9,
    "best_validation_macro_f1": 0.87654,
    "base_model": "histai/hibou-L",
    "settings": {"train_backbone": "frozen", "learning_rate": 4e-4, "max_grad_norm": None, "flip": False},
}
LABELS = np.array([0, 0, 0, 0, 0, 1, 1, 1, 3, 3] * 3)  # no region of class 2
GUESSES = np.array([0, 0, 0, 1, 2, 1, 1, 0, 3, 3] * 3)


def write_config(folder, **changes):
    folder.mkdir(exist_ok=True)
    config = {"class_names": CLASS_NAMES, **SIZES, "training": TRAINING, "spider_tools_version": "1.2.3", **changes}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture
def folder(tmp_path):
    write_config(tmp_path / "first")
    return tmp_path / "first"


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    probabilities = np.full((len(LABELS), 4), 0.1)
    probabilities[np.arange(len(LABELS)), GUESSES] = 0.7
    slides = [f"slide {i % 11}" for i in range(len(LABELS))]
    context = ReportContext("histai/SPIDER-skin", split="holdout", model="runs/first", resamples=50)
    write_report(folder, Predictions(probabilities, LABELS, slides, CLASS_NAMES), context)
    return folder


@pytest.fixture
def results(evaluation, tmp_path):
    """An evaluation of one's own."""
    return shutil.copytree(evaluation, tmp_path / "report")


def change_results(folder, change):
    results = json.loads((folder / "results.json").read_text())
    change(results)
    (folder / "results.json").write_text(json.dumps(results))


def rows_under(card, heading):
    """The cells of the table under a heading, by the first cell that is not a number."""
    section = card.text.split(f"# {heading}\n")[1].split("\n#")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


# --- Results


def test_the_figures_are_those_that_scikit_learn_finds(folder, evaluation):
    card = ModelCard.load(write_model_card(folder, evaluation, "lab/spider"))
    labels, guesses = LABELS.tolist(), GUESSES.tolist()
    macro = {"average": "macro", "zero_division": 0}
    expected = {
        "accuracy": accuracy_score(labels, guesses),
        "precision": precision_score(labels, guesses, **macro),
        "f1": f1_score(labels, guesses, **macro),
    }
    assert len(set(expected.values())) == 3
    found = {result.metric_type: result for result in card.data.eval_results}
    assert {name: result.metric_value for name, result in found.items()} == pytest.approx(expected, abs=1e-12)
    for result in found.values():
        assert (result.task_type, result.dataset_split) == ("image-classification", "holdout")
        assert (result.dataset_type, result.dataset_name) == ("histai/SPIDER-skin", "SPIDER-skin")
    assert found["f1"].metric_args == {"average": "macro"}

    measured = json.loads((evaluation / "results.json").read_text())["metrics"]
    headline = {row[0]: row[1:] for row in rows_under(card, "Results")}
    low, high = measured["macro_f1"]["ci95"]
    assert headline["F1 (macro)"] == [f"{expected['f1']:.3f}", f"{low:.3f} to {high:.3f}"]
    assert "30 regions\nof 11 slides" in card.text


def test_the_table_per_class_is_that_of_scikit_learn_with_its_counts(folder, evaluation):
    card = make_model_card(folder, evaluation)
    precision, recall, f1, support = precision_recall_fscore_support(LABELS, GUESSES, labels=range(4), zero_division=0)
    table = rows_under(card, "Per class")
    assert [row[0] for row in table] == ["Stroma", "Kaposi\u2019s sarcoma", "Fat \\| tumour &lt;3 mm", "Vessels"]
    for row, *scores in zip(table, recall, precision, f1, support):
        assert row[1:] == [*(f"{score:.3f}" for score in scores[:3]), str(scores[3])]
    assert [row[2] for row in rows_under(card, "Classes")] == ["15", "9", "0", "6"]


def test_the_metadata_survives_a_round_trip_through_the_clients_own_types(folder, evaluation):
    text = write_model_card(folder, evaluation, "lab/spider").read_text()
    raw = yaml.safe_load(text.split("---\n")[1])
    card = ModelCard(text)
    assert eval_results_to_model_index(card.data.model_name, card.data.eval_results) == raw["model-index"]
    assert raw["model-index"][0]["name"] == "spider"
    assert card.data.to_dict() == raw
    assert str(card) == text


def test_the_picture_and_the_figures_lie_beside_the_card(folder, evaluation):
    text = write_model_card(folder, evaluation).read_text()
    assert "](confusion_matrix.png)" in text
    for name in ("results.json", "confusion_matrix.png"):
        assert (folder / name).read_bytes() == (evaluation / name).read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "confusion_matrix.png",
        "results.json",
    ]


def test_an_evaluation_in_the_model_folder_itself_stays_as_it_is(folder, evaluation):
    shutil.copytree(evaluation, folder, dirs_exist_ok=True)
    before = (folder / "results.json").stat()
    write_model_card(folder, folder)
    assert (folder / "results.json").stat().st_ino == before.st_ino


def test_without_a_picture_there_is_no_link_to_one(folder, results):
    (results / "confusion_matrix.png").unlink()
    assert "confusion_matrix" not in write_model_card(folder, results).read_text()


def test_too_few_slides_for_an_interval_are_said_to_be_too_few(folder, tmp_path):
    probabilities = np.eye(4)[GUESSES] * 0.96 + 0.01
    context = ReportContext("tissue", split="test", model="x", resamples=50)
    report = Predictions(probabilities, LABELS, ["one", "two", "three"] * 10, CLASS_NAMES)
    write_report(tmp_path / "small", report, context)
    card = make_model_card(folder, tmp_path / "small")
    assert {row[2] for row in rows_under(card, "Results")} == {"n/a"}
    assert "3 slides" in card.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("split"), "lacks split"),
        (lambda r: r["metrics"].pop("macro_f1"), "lacks macro_f1"),
        (lambda r: r.update(metrics=[0.9]), "not what an evaluation writes"),
        (lambda r: r.pop("per_class"), "not what an evaluation writes: KeyError"),
        (lambda r: r["metrics"]["accuracy"].update(value=float("nan")), "expected a number for accuracy, got nan"),
        (lambda r: r["metrics"]["accuracy"].update(value="0.9"), "expected a number for accuracy, got '0.9'"),
        (lambda r: r["per_class"].pop("Vessels"), "is of another model: it has the classes"),
    ],
)
def test_results_that_are_none_are_refused_and_the_earlier_card_stays(folder, results, change, message):
    (folder / "README.md").write_text("earlier")
    change_results(results, change)
    with pytest.raises(ValueError, match=message):
        write_model_card(folder, results)
    assert (folder / "README.md").read_text() == "earlier"
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json"]


@pytest.mark.parametrize(
    ("content", "message"), [(None, "results.json cannot be read"), ("{", "is not valid JSON"), ("[]", "object")]
)
def test_results_that_cannot_be_read_are_refused(folder, tmp_path, content, message):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        write_model_card(folder, tmp_path)


def test_a_folder_of_another_kind_of_model_is_refused(folder):
    (folder / "config.json").write_text('{"class_names": ["A", "B"], "mpp": 0.5}')
    with pytest.raises(ValueError, match="is not of a SPIDER model: it lacks context_size, patch_size"):
        write_model_card(folder)


# --- Facts


def test_the_metadata_names_what_the_model_was_made_of(folder):
    data = make_model_card(folder).data
    assert (data.license, data.library_name, data.pipeline_tag) == (
        "cc-by-nc-4.0",
        "transformers",
        "image-classification",
    )
    assert (data.base_model, data.datasets) == ("histai/hibou-L", ["histai/SPIDER-skin"])
    assert {"pathology", "custom_code", "arxiv:2503.02876"} <= set(data.tags)


def test_what_is_not_known_is_left_out(folder):
    write_config(folder, training=None)
    text = write_model_card(folder).read_text()
    assert set(ModelCard(text).data.to_dict()) == {"library_name", "pipeline_tag", "tags"}
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings == ["Intended use and limits", "Classes", "How to load it", "Licence", "Citation"]
    assert "None" not in text


def test_the_sections_come_in_order(folder, evaluation):
    headings = re.findall(r"^##+ (.+)$", make_model_card(folder, evaluation).text, re.MULTILINE)
    assert headings == [
        "Intended use and limits",
        "Classes",
        "Results",
        "Per class",
        "Confusion matrix",
        "Training",
        "How to load it",
        "Licence",
        "Citation",
    ]


def test_the_lines_that_load_the_model_pin_a_revision_and_name_the_region(folder):
    text = make_model_card(folder, repo_id="lab/spider-skin").text
    assert text.startswith("\n# spider-skin\n")
    assert 'repository, revision = "lab/spider-skin", "<commit>"' in text
    assert text.count("revision=revision, trust_remote_code=True") == 2
    assert "84x84 px at 0.25 um/px is a 3x3\ngrid of 28 px patches" in text


def test_the_training_table_has_facts_settings_and_software_but_not_how_fast_it_ran(folder):
    (folder / "training").mkdir()
    environment = {"python": "3.11.7", "packages": {"torch": "2.13.0"}, "gpu": None, "platform": "alice-laptop"}
    (folder / "training" / "environment.json").write_text(json.dumps(environment))
    table = dict(rows_under(make_model_card(folder), "Training"))
    assert table == {
        "data set": "SPIDER-skin",
        "training regions": "13,164",
        "training slides": "378",
        "epochs trained": "9",
        "best F1 (macro) on the validation split": "0.877",
        "train_backbone": "frozen",
        "learning_rate": "0.0004",
        "flip": "False",
        "software": "spider_tools 1.2.3, Python 3.11.7, torch 2.13.0",
    }


def test_training_regions_per_class_are_shown_where_they_are_known(folder, evaluation):
    counts = dict(zip(CLASS_NAMES[:3], [1200, 7, 35]))
    write_config(folder, training=TRAINING | {"regions_per_class": counts})
    assert [row[2:] for row in rows_under(make_model_card(folder, evaluation), "Classes")] == [
        ["1,200", "15"],
        ["7", "9"],
        ["35", "0"],
        ["0", "6"],
    ]


def test_where_somebody_keeps_their_files_is_not_in_the_card(folder, results):
    write_config(folder, training={"dataset": "/home/alice/my tissue/", "base_model": None, "settings": {}})
    change_results(results, lambda r: r.update(dataset="/home/alice/my tissue", model="/home/alice/runs/1"))
    text = write_model_card(folder, results).read_text()
    data = ModelCard(text).data
    assert "alice" not in text
    assert (data.base_model, data.datasets, data.license) == (None, None, None)
    assert (data.eval_results[0].dataset_name, data.eval_results[0].dataset_type) == ("my tissue", "my-tissue")


SKIN = paper_results.class_names("skin")


@pytest.mark.parametrize(
    ("training", "class_names", "given", "expected"),
    [
        ({"dataset": "histai/SPIDER-thorax"}, ["A", "B"], None, "cc-by-nc-4.0"),
        ({"dataset": "/data/spider-skin/"}, SKIN[3:7], None, "cc-by-nc-4.0"),
        ({"dataset": "/data/spider-skin"}, ["A", "B"], None, None),
        ({"dataset": "tissue"}, SKIN, None, None),
        ({"dataset": "x", "base_model": "histai/SPIDER-skin-model"}, ["A"], None, "cc-by-nc-4.0"),
        ({"dataset": "x", "base_model": None}, ["A"], None, None),
        ({"dataset": "tissue"}, ["A", "B"], "mit", "mit"),
        ({}, ["A", "B"], None, None),
    ],
)
def test_the_licence_is_that_of_the_data_where_these_are_spiders(folder, training, class_names, given, expected):
    write_config(folder, training=training, class_names=class_names)
    card = make_model_card(folder, license=given)
    assert card.data.license == expected
    stated = {"cc-by-nc-4.0": "CC BY-NC 4.0", "mit": "licence `mit`", None: "Nothing is said here about the licence"}
    assert stated[expected] in card.text
    assert "Apache-2.0" in card.text


def test_the_same_files_give_the_same_card(folder, evaluation):
    first = write_model_card(folder, evaluation, "lab/spider").read_bytes()
    assert write_model_card(folder, evaluation, "lab/spider").read_bytes() == first
