"""Where the settings of the page come from, and what its library must be."""

import os
import signal
import sys
from types import SimpleNamespace

import pytest

from spider_tools.flags import take
from spider_tools.web_app import gradio_library
from spider_tools.web_app.gradio_library import load_gradio, private_gradio
from spider_tools.web_app.serving import serve
from spider_tools.web_app.settings import SETTINGS_FILE, AppSettings, values_around


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("SPIDER_MODEL", "SPIDER_REVISION"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / SETTINGS_FILE).write_text("model: lab/skin\nrevision: abc\nhost: 0.0.0.0\nport: 7860\n")
    return tmp_path


def test_flags_win_over_the_environment_and_that_over_the_file(folder, monkeypatch):
    assert take(AppSettings, values_around(folder, {})) == AppSettings("lab/skin", "abc", "0.0.0.0", 7860)
    monkeypatch.setenv("SPIDER_MODEL", "/models/own")
    assert values_around(folder, {"port": 8000}) == {"model": "/models/own", "host": "0.0.0.0", "port": 8000}
    assert values_around(folder, {"model": "m", "host": "h"})["model"] == "m"


@pytest.mark.parametrize(
    ("environment", "given", "model", "revision"),
    [
        ({}, {}, "lab/skin", "abc"),
        ({}, {"revision": "def"}, "lab/skin", "def"),
        ({}, {"model": "lab/skin"}, "lab/skin", "abc"),
        ({}, {"model": "lab/other"}, "lab/other", None),
        ({"SPIDER_MODEL": "lab/other"}, {}, "lab/other", None),
        ({"SPIDER_MODEL": "lab/other", "SPIDER_REVISION": "def"}, {}, "lab/other", "def"),
        ({"SPIDER_MODEL": "lab/other", "SPIDER_REVISION": "def"}, {"model": "lab/third"}, "lab/third", None),
        ({"SPIDER_REVISION": "def"}, {}, "lab/skin", "def"),
        ({"SPIDER_MODEL": ""}, {}, "lab/skin", "abc"),
    ],
)
def test_a_revision_stays_with_the_model_that_it_is_of(folder, monkeypatch, environment, given, model, revision):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    values = values_around(folder, given)
    assert (values["model"], values.get("revision")) == (model, revision)


def test_without_a_file_there_are_flags_alone_and_a_wrong_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("SPIDER_MODEL", raising=False)
    assert values_around(tmp_path, {"port": 1}) == {"port": 1}
    (tmp_path / SETTINGS_FILE).write_text("modle: x\n")
    with pytest.raises(ValueError, match="names settings that this script does not have: modle"):
        values_around(tmp_path, {})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("port", 65536, "--port must be at least 1 and at most 65535, got 65536"),
        ("max_upload_mb", 0, "--max_upload_mb must be above 0, got 0"),
        ("max_patches", 0, "--max_patches must be at least 1, got 0"),
        ("max_waiting", 0, "--max_waiting must be at least 1, got 0"),
        ("keep_minutes", -1, "--keep_minutes must be above 0, got -1"),
    ],
)
def test_bounds_are_checked(field, value, message):
    with pytest.raises(ValueError, match=message):
        AppSettings("m", **{field: value})


def test_gradio_that_is_missing_or_another_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", SimpleNamespace(__version__="5.49.1", __spec__=True))
    with pytest.raises(ValueError, match=r"needs gradio 6, got 5.49.1: pip install"):
        load_gradio()
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr(gradio_library, "find_spec", lambda name: True)
    with pytest.raises(ValueError, match=r"cannot be used here: .* It needs Transformers 5"):
        load_gradio()
    for name in ("gradio", "openslide", "tifffile"):
        monkeypatch.setattr(gradio_library, "find_spec", lambda asked, absent=name: None if asked == absent else True)
        with pytest.raises(
            ValueError, match=rf"needs the package {name}.*pip install \"spider-pathology\[app,slides\]\""
        ):
            load_gradio()


def test_the_environment_of_others_does_not_open_doors_and_comes_back(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_ALLOWED_PATHS", "/")
    monkeypatch.setenv("GRADIO_SHARE", "True")
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    with private_gradio(tmp_path):
        assert os.environ["GRADIO_TEMP_DIR"] == str(tmp_path)
        assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
        assert "GRADIO_ALLOWED_PATHS" not in os.environ
        assert "GRADIO_SHARE" not in os.environ
    assert os.environ["GRADIO_ALLOWED_PATHS"] == "/"
    assert "GRADIO_TEMP_DIR" not in os.environ


def test_a_page_that_does_not_start_leaves_sigterm_as_it_was(tmp_path):
    """Its own answer to it, an exception, would keep processes that are forked later from being ended."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises((OSError, ValueError)):
        serve(AppSettings(str(tmp_path)))
    assert signal.getsignal(signal.SIGTERM) == before
