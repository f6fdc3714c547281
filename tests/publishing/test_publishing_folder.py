"""What of this machine publishing needs: a folder that takes the card, whatever the locale."""

import pytest
from publishing_folders import REPO, SETTINGS, save_model

from spider_tools.publishing import publish as publishing
from spider_tools.publishing.checks import check_loads, model_files

pytestmark = pytest.mark.slow


def test_a_model_folder_that_cannot_take_the_card_is_refused_before_the_hub_is_asked(tmp_path, monkeypatch, model):
    save_model(model, tmp_path / "model")

    def refuse(folder, setting):
        raise OSError(f"{setting} {folder} cannot be written")

    monkeypatch.setattr(publishing, "require_writable", refuse)
    monkeypatch.setattr(publishing, "check_target", lambda *_: pytest.fail("the Hub was asked"))
    with pytest.raises(OSError, match=f"MODEL_FOLDER {tmp_path / 'model'} cannot be written"):
        publishing.publish(tmp_path / "model", REPO, SETTINGS)
    assert not (tmp_path / "model" / "README.md").exists()


def test_what_the_load_check_says_is_read_in_any_locale(tmp_path, monkeypatch, model):
    save_model(model, tmp_path / "model")
    code = tmp_path / "model" / "modeling_spider.py"
    code.write_text("raise ValueError('Kaposi\\u2019s')\n" + code.read_text())
    # What a process in a C locale takes for its encoding is not what its child, in UTF-8 mode, writes.
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setattr("locale.getpreferredencoding", lambda *_: "ascii")
    with pytest.raises(ValueError, match="Kaposi\u2019s"):
        check_loads(model_files(tmp_path / "model"))
