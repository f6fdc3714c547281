"""Flags made from a dataclass."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import pytest

from spider_tools.flags import add_flags, as_json, setting, take


@dataclass(frozen=True)
class Settings:
    folder: Path = setting(help="a place")
    rate: float = setting(0.5, help="100% of it")
    limit: Optional[int] = setting(None, help="at most")
    names: Optional[tuple[str, ...]] = setting(None, help="some")
    kind: str = setting("a", choices=("a", "b"), help="which")
    fast: bool = setting(False, help="hurry")
    hidden: int = 3


@pytest.fixture
def parser():
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_flags(parser, Settings, required=["folder"], without=["kind"])
    return parser


def test_only_what_is_given_is_parsed_and_the_rest_keeps_its_default(parser):
    values = vars(parser.parse_args(["--folder", "x"]))
    assert values == {"folder": Path("x")}
    assert take(Settings, values) == Settings(Path("x"))


def test_values_have_the_type_of_their_field(parser):
    words = ["--folder=x", "--rate=2", "--limit=7", "--names=Fat, Nerves,", "--fast"]
    settings = take(Settings, vars(parser.parse_args(words)) | {"of_another": 1})
    assert settings == Settings(Path("x"), 2.0, 7, ("Fat", "Nerves"), "a", True)
    assert not take(Settings, vars(parser.parse_args(["--folder=x", "--no-fast"]))).fast


@pytest.mark.parametrize("words", [[], ["--folder=x", "--limit=many"]])
def test_missing_and_wrong_values_are_refused(parser, words):
    with pytest.raises((SystemExit, argparse.ArgumentError)):
        parser.parse_args(words)


@pytest.mark.parametrize("flag", ["--kind", "--hidden"])
def test_fields_without_a_flag_have_none(parser, flag):
    assert flag not in parser.format_help()


def test_help_shows_defaults_and_percent_signs(parser):
    assert "100% of it (default: 0.5)" in " ".join(parser.format_help().split())


def test_settings_become_json_with_paths_as_strings():
    assert as_json(Settings(Path("a/b")))["folder"] == "a/b"
