"""What is said of an import: the truth, whatever a stranger's config.json holds."""

import hashlib
import json

import pytest
from imported_models import HELD, MALFORMED, NEVER_HELD, PROOF, SHA256, SOURCE, note_import, unverified, verified

from spider_tools.import_record import import_facts, import_record, import_sentence, is_verified
from spider_tools.imported_folder import import_of_folder
from spider_tools.weights.loading import load_config

OTHER_SHA256 = "0" * 64


def test_a_model_that_was_not_imported_has_nothing_said_of_it(make_config):
    for config in ({}, {"import": None}, make_config()):
        assert import_record(config) is None
        assert import_facts(config, SHA256) is None
    assert import_sentence(None) is None


def test_a_record_is_the_same_in_a_file_and_in_a_configuration(make_config):
    record = verified()
    config = make_config(**{"import": record})
    assert import_record(config) == import_record({"import": record}) == record


@pytest.mark.parametrize("sha256", [None, SHA256, OTHER_SHA256])
def test_an_import_that_was_never_held_against_its_source_says_so_with_its_assumptions(sha256):
    assert not is_verified(unverified(), sha256)
    assert import_sentence(unverified(), sha256) == NEVER_HELD


@pytest.mark.parametrize("sha256", [None, SHA256])
def test_a_proof_is_told_with_its_figures(sha256):
    assert is_verified(verified(), sha256)
    assert import_sentence(verified(), sha256) == HELD


def test_a_proof_of_other_weights_is_none_of_these():
    assert not is_verified(verified(), OTHER_SHA256)
    sentence = import_sentence(verified(), OTHER_SHA256)
    assert sentence.startswith(f"Not verified: imported from {SOURCE} at ")
    assert "verified then, but the files of its weights have changed since" in sentence


def test_a_source_without_a_revision_is_named_alone():
    assert f"imported from {SOURCE} and never held" in import_sentence(unverified(revision=None))
    assert import_sentence(verified(revision=None)).startswith(f"Verified: imported from {SOURCE} and held")


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_whole_record_is_not_verified_and_breaks_nothing(name):
    record = MALFORMED[name]
    for content in (import_record({"import": record}), record):
        assert not is_verified(content)
        assert not is_verified(content, SHA256)
        for sentence in (import_sentence(content), import_sentence(content, SHA256)):
            assert sentence.startswith("Not verified: imported from ")
            assert "against the source" not in sentence  # nobody knows whether it was
            assert "is not whole" in sentence


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_said_of_any_record_fits_into_every_file(name):
    facts = import_facts({"import": MALFORMED[name]}, SHA256)
    text = json.dumps(facts, ensure_ascii=False, allow_nan=False)
    assert json.loads(text.encode()) == facts
    assert facts["verified"] is False
    assert facts["source"] in (SOURCE, None)
    assert facts["revision"] is None or isinstance(facts["revision"], str)


def test_facts_are_the_record_and_its_sentence():
    assert import_facts({"import": verified()}, SHA256) == verified() | {"sentence": HELD}
    assert import_facts({"import": unverified()}, SHA256) == unverified() | {"sentence": NEVER_HELD}


def test_facts_tell_of_these_weights_and_not_of_those_of_the_proof():
    facts = import_facts({"import": verified()}, OTHER_SHA256)
    assert (facts["verified"], facts["proof"]) == (False, PROOF)


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("/home/alice/spider skin/", "spider skin"),
        ("C:\\models\\skin", "skin"),
        ("../skin", "skin"),
        ("a/b/c", "c"),
        ("/", None),
        ("", None),
        (SOURCE, SOURCE),
    ],
)
def test_where_somebody_keeps_a_checkpoint_is_not_told(source, shown):
    facts = import_facts({"import": unverified(source=source, revision=None)})
    assert facts["source"] == shown
    assert f"imported from {shown or 'elsewhere'} and never" in facts["sentence"]


def test_controls_and_lone_surrogates_of_a_record_are_written_out():
    hostile = unverified(source="a\x1b[2J/b", revision="r\n", assumptions=["x\u202ey", "\udcff", 7])
    facts = import_facts({"import": hostile | {"z\x00": {"deep": ["\x9b"]}}})
    json.dumps(facts, ensure_ascii=False).encode()
    assert facts["sentence"].isprintable()
    assert r"Assumed: x\u202ey \udcff 7" in facts["sentence"]
    assert facts[r"z\x00"] == {"deep": [r"\x9b"]}


@pytest.mark.parametrize("assumptions", [[], None, "one", {"a": 1}])
def test_assumptions_that_are_no_list_are_said_to_be_missing(assumptions):
    assert import_sentence(unverified(assumptions=assumptions)).endswith("What was assumed is not written down.")


def test_weights_are_read_only_where_an_import_makes_them_matter(model_folder, tmp_path):
    assert import_of_folder(load_config(str(model_folder)), tmp_path / "no folder") is None
    with pytest.raises(FileNotFoundError):
        import_of_folder({"import": unverified()}, tmp_path / "no folder")


def test_the_weights_of_a_folder_are_held_against_the_record(make_model, tmp_path):
    make_model().save_pretrained(tmp_path)
    weights = hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    sha256 = hashlib.sha256(f"model.safetensors {weights}\n".encode()).hexdigest()
    for record, expected in ((verified(weights_sha256=sha256), True), (verified(), False)):
        config = load_config(str(note_import(tmp_path, record)))
        assert import_of_folder(config, tmp_path)["verified"] is expected
