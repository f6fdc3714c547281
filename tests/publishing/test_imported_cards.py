"""The card of an imported model says where its weights come from, and publishing an unverified one warns."""

import hashlib
import json
import re

import pytest
from huggingface_hub import ModelCard
from imported_models import HELD, MALFORMED, NEVER_HELD, REVISION, SOURCE, note_import, unverified, verified
from publishing_folders import REPO, SETTINGS, evaluate_at_random, save_model

from spider_tools import paper_results
from spider_tools.publishing.model_card import make_model_card, write_model_card
from spider_tools.publishing.publish import publish

HEADING = "## Where the weights come from"
SIZES = {"context_size": 3, "patch_size": 28, "mpp": 0.25}


@pytest.fixture
def make_folder(tmp_path):
    """`make_folder(**fields)`: a folder with a config.json alone."""

    def make(**fields):
        (tmp_path / "config.json").write_text(json.dumps({"class_names": ["A", "B"]} | SIZES | fields))
        return tmp_path

    return make


def own_sha256(folder):
    """Over the name and the digest of the one file of weights, as weights are told apart."""
    file = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    return hashlib.sha256(f"model.safetensors {file}\n".encode()).hexdigest()


def section_of(card):
    return card.text.split(f"\n{HEADING}\n\n")[1].split("\n\n")[0]


@pytest.mark.parametrize(("record", "sentence"), [(unverified(), NEVER_HELD), (verified(), HELD)])
def test_the_card_says_where_the_weights_come_from(make_folder, record, sentence):
    card = make_model_card(make_folder(**{"import": record}))
    assert section_of(card) == sentence
    headings = re.findall(r"^## (.+)$", card.text, re.MULTILINE)
    assert headings[:3] == ["Intended use and limits", HEADING.removeprefix("## "), "Classes"]
    assert "\n\n\n" not in card.text


def test_the_card_of_other_models_has_no_such_section(make_folder):
    text = make_model_card(make_folder()).text
    assert HEADING not in text
    assert "import" not in text.split("## How to load it")[0]


def test_the_section_is_of_the_weights_in_the_folder(make_model, tmp_path):
    save_model(make_model(), tmp_path)
    assert "have changed since" in section_of(make_model_card(note_import(tmp_path, verified())))
    record = verified(weights_sha256=own_sha256(tmp_path))
    assert section_of(make_model_card(note_import(tmp_path, record))) == HELD


@pytest.mark.parametrize("organ", ["skin", "colorectal", "thorax", "breast"])
@pytest.mark.parametrize("whole", [True, False])
def test_a_published_source_gives_licence_and_base_model_without_any_training(make_folder, organ, whole):
    source = paper_results.published_organ(organ).model
    record = unverified(source=source) if whole else {"source": source}
    card = ModelCard.load(write_model_card(make_folder(**{"import": record})))
    assert (card.data.license, card.data.base_model) == ("cc-by-nc-4.0", source)
    assert "CC BY-NC 4.0" in card.text


def test_a_licence_that_is_given_is_taken(make_folder):
    assert make_model_card(make_folder(**{"import": unverified()}), license="mit").data.license == "mit"


@pytest.mark.parametrize("source", ["somebody/else", "/home/alice/spider", 7, [SOURCE], None])
def test_another_source_gives_neither_licence_nor_base_model(make_folder, source):
    card = make_model_card(make_folder(**{"import": unverified(source=source)}))
    assert (card.data.license, card.data.base_model) == (None, None)
    assert "alice" not in str(card)


@pytest.mark.parametrize(
    ("source", "class_names", "expected"),
    [
        ("SPIDER-skin-model", paper_results.class_names("skin"), SOURCE),
        ("SPIDER-skin-model", ["A", "B"], None),
        ("SPIDER-skin-model", paper_results.class_names("thorax"), None),
        ("somebody/SPIDER-skin-model", paper_results.class_names("skin"), None),
    ],
)
def test_a_folder_with_name_and_classes_of_a_published_model_is_taken_for_it(
    make_folder, source, class_names, expected
):
    data = make_model_card(make_folder(class_names=class_names, **{"import": unverified(source=source)})).data
    assert (data.base_model, data.license) == (expected, expected and "cc-by-nc-4.0")


@pytest.mark.parametrize("name", MALFORMED)
def test_a_record_that_is_none_makes_a_card_that_verifies_nothing(make_folder, name):
    sentence = section_of(make_model_card(make_folder(**{"import": MALFORMED[name]})))
    assert sentence.startswith("Not verified: imported from ")


def test_what_a_record_says_starts_neither_html_nor_a_section(make_folder):
    hostile = unverified(source="<b>", assumptions=["<img src=x>\n\n## Results\n"])
    text = make_model_card(make_folder(**{"import": hostile})).text
    assert "<img" not in text
    assert "\n## Results" not in text


# --- Trained on from an imported model


def rows_of(card):
    section = card.text.split("## Training\n")[1].split("\n##")[0]
    return dict(re.findall(r"^\| (.+?) \| (.+?) \|$", section, re.MULTILINE))


@pytest.mark.parametrize(
    ("facts", "row"),
    [
        ({"revision": REVISION, "verified": True}, f"imported from {SOURCE} at {REVISION}, verified"),
        ({"revision": None, "verified": False}, f"imported from {SOURCE}, not verified"),
        ({"revision": 7, "verified": "true"}, f"imported from {SOURCE}, not verified"),
        ({}, f"imported from {SOURCE}, not verified"),
    ],
)
def test_a_model_trained_from_an_import_says_so_and_keeps_its_licence(make_folder, facts, row):
    training = {"dataset": "tissue", "base_model": None, "base_model_import": {"source": SOURCE, **facts}}
    card = make_model_card(make_folder(training=training))
    assert rows_of(card)["starting weights"] == row
    assert (card.data.license, card.data.base_model) == ("cc-by-nc-4.0", SOURCE)
    assert HEADING not in card.text


def test_the_model_that_training_started_from_is_the_base_model_where_it_is_on_the_hub(make_folder):
    training = {"base_model": "lab/imported", "base_model_import": {"source": SOURCE, "verified": True}}
    assert make_model_card(make_folder(training=training)).data.base_model == "lab/imported"


@pytest.mark.parametrize("facts", ["a word", [], 7, {"source": None}, {"source": [SOURCE]}])
def test_what_is_no_record_of_a_start_is_not_verified(make_folder, facts):
    card = make_model_card(make_folder(training={"dataset": "tissue", "base_model_import": facts}))
    assert rows_of(card)["starting weights"] == "imported from elsewhere, not verified"
    assert (card.data.license, card.data.base_model) == (None, None)


# --- Publishing


@pytest.fixture
def published(hub, folder, monkeypatch, caplog):
    """`published(record)`: what is logged while a model with this record is published, and its card on the Hub."""
    monkeypatch.setattr("spider_tools.publishing.publish.check_loads", lambda files: None)

    def run(record):
        note_import(folder, record)
        publish(folder, REPO, SETTINGS)
        messages = [entry.getMessage() for entry in caplog.records if entry.name.startswith("spider_tools.publishing")]
        return folder, messages, hub.files(REPO)["README.md"].decode()

    return run


def test_publishing_an_unverified_import_warns_and_publishes(published):
    _, messages, card = published(unverified())
    assert [message for message in messages if NEVER_HELD in message]
    assert NEVER_HELD in card


def test_publishing_warns_before_anything_is_uploaded(published, monkeypatch, caplog):
    def refuse(files, repo_id, settings):
        raise ConnectionError("broken off")

    monkeypatch.setattr("spider_tools.publishing.publish.upload", refuse)
    with pytest.raises(ConnectionError, match="broken off"):
        published(unverified())
    assert NEVER_HELD in caplog.text


def test_publishing_warns_of_a_proof_of_other_weights(published):
    _, messages, _ = published(verified())
    assert any("have changed since" in message for message in messages)


def test_publishing_a_verified_import_warns_of_nothing(published, folder):
    _, messages, card = published(verified(weights_sha256=own_sha256(folder)))
    assert not any("erified" in message for message in messages)
    assert HELD in card


def test_an_evaluation_from_before_there_were_records_still_goes_into_a_card(make_model, tmp_path):
    save_model(make_model(), tmp_path / "model")
    evaluate_at_random(tmp_path / "report", make_model().config.class_names)
    path = tmp_path / "report" / "results.json"
    older = json.loads(path.read_text())
    assert older.pop("import") is None
    path.write_text(json.dumps(older))
    assert "## Results" in make_model_card(tmp_path / "model", tmp_path / "report").text
