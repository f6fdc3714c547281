"""Settings: flags, types and bounds made from a dataclass, and files of them."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Optional

import pytest

from spider_tools.flags import Settings, add_flags, as_json, choices_of, setting, take
from spider_tools.paper_results import Organ, organ_names
from spider_tools.scripts import ScriptParser
from spider_tools.settings_file import settings_file


@dataclass(frozen=True)
class Own(Settings):
    folder: Path = setting(help="a place")
    rate: float = setting(0.5, above=0, at_most=2, help="100% of it")
    limit: Optional[int] = setting(None, at_least=1, help="at most")
    names: Optional[tuple[str, ...]] = setting(None, help="some")
    kind: Literal["a", "b"] = setting("a", help="which")
    precision: Optional[Literal["no", "half"]] = setting(None, help="how exact")
    fast: bool = setting(False, help="hurry")
    title: str = setting("x", help="name")
    forms: tuple[Literal["csv", "json", "txt"], ...] = setting(("csv", "txt"), help="several")
    more: Optional[tuple[Literal["c", "d"], ...]] = setting(None, help="perhaps several")
    hidden: int = 3


@pytest.fixture
def parser():
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_flags(parser, Own, without=["kind"])
    return parser


def test_only_what_is_given_is_parsed_and_the_rest_keeps_its_default(parser):
    values = vars(parser.parse_args(["--folder", "x"]))
    assert values == {"folder": Path("x")}
    assert take(Own, values) == Own(Path("x"))


def test_values_have_the_type_of_their_field(parser):
    words = ["--folder=x", "--rate=2", "--limit=7", "--names=Fat, Nerves,", "--fast"]
    settings = take(Own, vars(parser.parse_args(words)) | {"of_another": 1})
    assert settings == Own(Path("x"), 2.0, 7, ("Fat", "Nerves"), "a", fast=True)
    assert not take(Own, vars(parser.parse_args(["--folder=x", "--no-fast"]))).fast


@pytest.mark.parametrize("words", [["--limit=many"], ["--unknown=1"], ["--precision=double"]])
def test_wrong_values_and_flags_are_refused(parser, words):
    with pytest.raises((SystemExit, argparse.ArgumentError)):
        parser.parse_args(words)


@pytest.mark.parametrize("flag", ["--kind", "--hidden"])
def test_fields_without_a_flag_have_none(parser, flag):
    assert flag not in parser.format_help()


def test_help_shows_defaults_percent_signs_and_what_is_required(parser):
    text = " ".join(parser.format_help().split())
    assert "100% of it (default: 0.5)" in text
    assert "a place (required)" in text


def test_settings_become_json_with_paths_as_strings():
    assert as_json(Own(Path("a/b")))["folder"] == "a/b"


def test_whatever_makes_the_object_gets_the_types_of_the_fields():
    made = Own("a/b", rate="1e-3", limit="7", names=["Fat", "Nerves"], precision=False)
    assert made == Own(Path("a/b"), 0.001, 7, ("Fat", "Nerves"), precision="no")
    assert isinstance(made.rate, float)
    assert isinstance(Own("x", rate=1).rate, float)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("kind", "A", "--kind must be one of a, b, got 'A'"),
        ("kind", None, "--kind must be one of a, b, got None"),
        ("precision", True, "--precision must be one of no, half, got True"),
        ("limit", 0, "--limit must be at least 1, got 0"),
        ("limit", 1.5, "--limit must be a whole number, got 1.5"),
        ("limit", True, "--limit must be a whole number, got True"),
        ("limit", "many", "--limit must be a whole number, got 'many'"),
        ("limit", [1], "--limit must be a whole number"),
        ("rate", 0, "--rate must be above 0 and at most 2, got 0"),
        ("rate", 2.1, "--rate must be above 0 and at most 2, got 2.1"),
        ("rate", float("nan"), "--rate must be a finite number, got nan"),
        ("rate", "inf", "--rate must be a finite number, got 'inf'"),
        ("rate", None, "--rate must be a finite number, got None"),
        ("names", [1, 2], "--names must be a list of texts"),
        ("folder", 3, "--folder must be a path, got 3"),
        ("fast", "yes", "--fast must be true or false, got 'yes'"),
        ("title", 5, "--title must be a text, got 5"),
    ],
)
def test_values_of_another_type_or_range_are_refused_with_their_name(field, value, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Own(**{"folder": "x", field: value})


def test_the_choices_of_a_literal_are_those_of_its_flag():
    assert choices_of(Optional[Literal["a", "b"]]) == ("a", "b")
    assert choices_of(str) == ()
    assert choices_of(Organ) == organ_names()


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_a_settings_file_is_read_and_flags_win(tmp_path):
    path = write(tmp_path / "s.yaml", "folder: here\nrate: 4e-1\nprecision: no\nmore:\n  names: [Fat]\n")
    parser = ScriptParser(required=[Own], config_for=[Own])
    add_flags(parser, Own)
    values = parser.values(["--config", str(path), "--rate", "0.25"])
    assert take(Own, values) == Own("here", rate=0.25, names=("Fat",), precision="no")


def test_what_is_required_may_stand_in_the_file_but_must_stand_somewhere(tmp_path, capsys):
    parser = ScriptParser(required=[Own], config_for=[Own])
    add_flags(parser, Own)
    with pytest.raises(SystemExit) as stopped:
        parser.values(["--config", str(write(tmp_path / "s.yaml", "rate: 1\n"))])
    assert stopped.value.code == 2
    assert "required: --folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rat: 1\n", "names settings that this script does not have: rat"),
        ("rate: 1\nmore: {rate: 2}\n", "has two values of rate: 1 and 2"),
        ("[1, 2]", "must hold names and values, got list"),
        ("", "must hold names and values, got NoneType"),
        ("a: [", "is not YAML"),
        ("1: 2", "does not have: 1"),
        ("title: !!python/object/apply:os.getcwd []", "is not YAML"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        settings_file(write(tmp_path / "s.yaml", text), [Own])


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        settings_file(tmp_path / "none.yaml", [Own])
    (tmp_path / "s.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not YAML"):
        settings_file(tmp_path / "s.yaml", [Own])


def test_fields_that_a_script_decides_itself_may_not_stand_in_its_file(tmp_path):
    with pytest.raises(ValueError, match="does not have: rate"):
        settings_file(write(tmp_path / "s.yaml", "rate: 1\n"), [Own], without=["rate"])


@pytest.mark.parametrize(
    ("words", "forms"),
    [
        ([], ("csv", "txt")),
        (["--forms", "json"], ("json",)),
        (["--forms", "txt", "csv", "txt"], ("csv", "txt")),
        (["--forms=txt, json"], ("json", "txt")),
        (["--forms", "txt,csv", "json"], ("csv", "json", "txt")),
    ],
)
def test_several_choices_stand_in_their_order_each_once(parser, words, forms):
    settings = take(Own, vars(parser.parse_args(["--folder=x", *words])))
    assert (settings.forms, settings.more) == (forms, None)
    assert as_json(settings)["forms"] == forms


@pytest.mark.parametrize("value", ["pdf", ["csv", "pdf"], [], "", ",", 3, ["csv", 3], None, "CSV"])
def test_what_is_none_of_several_choices_is_refused(value):
    with pytest.raises(ValueError, match=r"--forms must be (one or more of csv, json, txt|a list of texts), got"):
        Own("x", forms=value)


def test_several_choices_may_be_a_text_or_a_list_in_files_and_in_python():
    assert Own("x", forms="txt,csv").forms == Own("x", forms=["txt", "csv"]).forms == ("csv", "txt")
    assert Own("x", more=("d",)).more == ("d",)


def test_help_shows_several_as_words(parser):
    assert "several (default: csv txt)" in " ".join(parser.format_help().split())
