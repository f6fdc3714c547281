"""Results belong to weights: a card shows no other model's figures, and no file tells where somebody keeps things."""

import json
import struct
from dataclasses import replace

import pytest
from publishing_folders import REPO, SETTINGS, save_model

from spider_tools.model_folder import weights_sha256
from spider_tools.publishing.checks import model_files
from spider_tools.publishing.model_card import make_model_card
from spider_tools.publishing.publish import publish


def note_weights(folder, sha256):
    path = folder / "evaluation" / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"weights_sha256": sha256}))


def test_a_card_takes_results_of_its_own_weights_and_refuses_others(folder, make_model):
    own = weights_sha256(folder)
    note_weights(folder, own)
    assert "Results" in make_model_card(folder, folder / "evaluation").text
    save_model(make_model(seed=1), folder)
    assert weights_sha256(folder) != own
    with pytest.raises(ValueError, match=rf"results.json is of other weights, {own}; these are .*Evaluate this model"):
        make_model_card(folder, folder / "evaluation")


def test_figures_of_another_temperature_are_refused(folder):
    results, config = (folder / "evaluation" / "results.json"), folder / "config.json"
    assert json.loads(results.read_text())["calibration"]["temperature"] == 1
    make_model_card(folder, folder / "evaluation")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"logit_temperature": 0.5}))
    with pytest.raises(
        ValueError, match=r"results\.json is of the logit_temperature 1, config\.json has 0\.5: .*again"
    ):
        make_model_card(folder, folder / "evaluation")
    older = json.loads(results.read_text())
    del older["calibration"]
    results.write_text(json.dumps(older))
    make_model_card(folder, folder / "evaluation")


def test_means_over_views_are_refused_for_who_loads_the_model_gets_one(folder):
    results = folder / "evaluation" / "results.json"
    written = json.loads(results.read_text())
    assert written["test_time_views"] == 1
    results.write_text(json.dumps(written | {"test_time_views": 8}))
    with pytest.raises(ValueError, match=r"results\.json has means over 8 views .* without --test_time_views"):
        make_model_card(folder, folder / "evaluation")
    del written["test_time_views"]  # of an earlier version
    results.write_text(json.dumps(written))
    assert "Results" in make_model_card(folder, folder / "evaluation").text


@pytest.mark.parametrize(
    ("temperature", "record", "sentence"),
    [
        (1.0, None, None),
        (2.0, None, "The logits are divided by 2; nothing says why"),
        (0.5, {"regions": 1200, "slides": 9}, "divided by 0.5, fitted on 1,200 regions of 9 patients or slides"),
        (0.5, {"regions": 40, "slides": 2, "reason": "it rests on 2"}, "kept out of training. But it rests on 2."),
        (
            1.0,
            {"regions": 0, "slides": 0, "reason": "not calibrated: why"},
            "what the training left: not calibrated: why",
        ),
    ],
)
def test_a_card_says_how_far_probabilities_can_be_believed(folder, temperature, record, sentence):
    path = folder / "config.json"
    said = {"logit_temperature": temperature, **({} if record is None else {"calibration": record})}
    path.write_text(json.dumps(json.loads(path.read_text()) | said))
    text = make_model_card(folder).text
    assert ("## How sure it is" in text) == (sentence is not None)
    assert sentence is None or sentence in text


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ({"familiarity": {"threshold": None, "false_alarm_rate": None, "reason": "why"}}, "what is unfamiliar: why."),
        (
            {"familiarity": {"threshold": 1.23456, "false_alarm_rate": 0.05, "regions": 1234, "slides": 7}},
            "above 1.23 is unlike what it has learnt from, `is_familiar` is False, and its class is a guess: 5% of "
            "1,234 regions of 7 patients or slides",
        ),
        (
            {
                "sets": {
                    "a": {"regions": 90, "slides": 4, "by": "slide"},
                    "b": {"regions": 9, "slides": 2, "by": "region"},
                }
            },
            "from an `alpha` of 0.2 on",
        ),
    ],
)
def test_a_card_says_what_a_model_knows_of_its_limits(folder, record, sentence):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"calibration": record}))
    assert sentence in make_model_card(folder).text.replace("\n", " ")


def test_results_of_older_versions_do_not_say_whose_they_are_and_are_taken(folder):
    note_weights(folder, None)
    assert "Results" in make_model_card(folder, folder / "evaluation").text


def test_a_token_in_the_metadata_of_weights_is_found(folder):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = {"format": "pt", "note": "hf_" + "aB3" * 12}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    with pytest.raises(ValueError, match=r"model\.safetensors holds what looks like an access token"):
        model_files(folder)


def test_the_digest_is_that_of_the_files_whatever_their_folder(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    assert weights_sha256(tmp_path / "elsewhere") == weights_sha256(folder)


def test_a_card_that_somebody_wrote_is_published_as_it_is_and_ours_is_written_anew(hub, folder, monkeypatch, caplog):
    monkeypatch.setattr("spider_tools.publishing.publish.check_loads", lambda files: None)
    (folder / "README.md").write_text("# Mine\n\nDo not touch.\n")
    publish(folder, REPO, SETTINGS)
    assert hub.files(REPO)["README.md"] == b"# Mine\n\nDo not touch.\n"
    assert "was not written by this package and is published as it is" in caplog.text
    (folder / "README.md").unlink()
    for _ in range(2):
        publish(folder, REPO, replace(SETTINGS, exist_ok=True))
        assert b"## Intended use and limits" in hub.files(REPO)["README.md"]
