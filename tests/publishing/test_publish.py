"""Publishing from training and from the command line, and the card that goes with it."""

import os
from dataclasses import replace

import huggingface_hub
import pytest
from hub_client import WRITER
from huggingface_hub import ModelCard
from publishing_folders import MODEL_FILES, REPO, SETTINGS, commits, names

from spider_tools.publishing import __main__ as command
from spider_tools.publishing.checks import model_files
from spider_tools.publishing.model_card import write_model_card
from spider_tools.publishing.publish import publish
from spider_tools.publishing.upload import upload
from spider_tools.scripts import run_script
from spider_tools.training.run import train


def test_the_card_passes_the_hubs_validation_and_a_damaged_one_does_not(hub, folder):
    path = write_model_card(folder, folder / "evaluation", REPO)
    files = model_files(folder) | {"README.md": path}
    upload(files, REPO, SETTINGS)
    assert hub.count("POST", "/api/validate-yaml") == 1
    sound = path.read_text()
    assert "model-index" in sound
    for old, new, message in (
        ("license: cc-by-nc-4.0", "license: spider", "license: 'spider' is unknown"),
        ("      type: histai/SPIDER-skin", "      type: 7", r"model-index: dataset\.type must be a string"),
    ):
        assert sound.count(old) == 1
        path.write_text(sound.replace(old, new))
        with pytest.raises(ValueError, match=message):
            upload(files, REPO, replace(SETTINGS, exist_ok=True))
    assert len(commits(hub)) == 2
    if not huggingface_hub.__version__.startswith("0."):  # that client asks huggingface.co, whatever the endpoint
        ModelCard(sound).validate()
        with pytest.raises(ValueError, match=message):
            ModelCard(path.read_text()).validate()


@pytest.mark.slow
def test_training_publishes_its_model_and_no_path_of_this_machine(hub, training, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", WRITER)
    train(*training)
    assert names(hub) == sorted(["README.md", *MODEL_FILES])
    assert hub.repositories[REPO].private
    for name in ("README.md", "config.json"):
        assert str(training[0].output_dir.parent) not in hub.files(REPO, "main")[name].decode()


def test_training_that_could_not_publish_is_refused_before_it_starts(hub, training, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(PermissionError, match="There is no access token"):
        train(*training)
    assert not training[0].output_dir.exists()
    with pytest.raises(ValueError, match="--push_to_hub needs --hub_model_id"):
        replace(training[0], hub_model_id=None)


def test_results_older_than_the_weights_stay_out_of_the_card(hub, folder, caplog, monkeypatch):
    monkeypatch.setattr("spider_tools.publishing.publish.check_loads", lambda files: None)
    os.utime(folder / "evaluation" / "results.json", (1, 1))
    publish(folder, REPO, SETTINGS)
    assert names(hub) == sorted([*MODEL_FILES, "README.md"])
    assert "is older than the weights" in caplog.text
    publish(folder, REPO, replace(SETTINGS, exist_ok=True, results=folder / "evaluation"))
    assert names(hub) == sorted([*MODEL_FILES, "README.md", "confusion_matrix.png", "results.json"])
    assert hub.files(REPO)["results.json"] == (folder / "evaluation" / "results.json").read_bytes()


def test_the_command_ends_with_the_error_alone(hub, folder, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_script(lambda argv: command.main(command.parse_args(argv)), [str(folder), REPO])
    assert stopped.value.code == 2
    assert "error: There is no access token." in capsys.readouterr().err.splitlines()[-1]


def test_settings_do_not_show_their_token():
    assert WRITER not in repr(SETTINGS)
    assert huggingface_hub.get_token() is None
