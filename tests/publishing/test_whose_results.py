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
