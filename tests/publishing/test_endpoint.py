"""A model with its handler of Inference Endpoints: written on request, tried, and published in the same commit."""

import re
import sys
from dataclasses import replace

import endpoint_toolkit
import pytest
from endpoint_toolkit import file_of, post, region
from publishing_folders import MODEL_FILES, REPO, ROOT, SETTINGS, commits, names

from spider_tools.publishing import __main__ as command
from spider_tools.publishing import endpoint, load_check
from spider_tools.publishing import publish as publishing
from spider_tools.publishing.checks import check_loads, model_files
from spider_tools.publishing.model_card import make_model_card
from spider_tools.scripts import run_script

FILES = ["handler.py", "requirements.txt"]


@pytest.fixture(autouse=True)
def same_modules(monkeypatch):
    """What is imported by its path is forgotten again."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("handler.EndpointHandler", None)


def run(*words):
    with pytest.raises(SystemExit) as stopped:
        run_script(lambda argv: endpoint.main(endpoint.parse_args(argv)), [str(word) for word in words])
    return stopped.value.code


def test_the_files_are_written_on_request_and_serve(folder, make_model, capsys):
    assert not any((folder / name).exists() for name in FILES)
    assert run(folder) == 0
    assert capsys.readouterr().out.split() == [str(folder / name) for name in FILES]
    assert (folder / "handler.py").read_bytes() == (ROOT / "handler.py").read_bytes()
    status, answer = post(endpoint_toolkit.start(folder), file_of(region()), "image/png")
    assert status == 200
    assert {entry["label"] for entry in answer} == set(make_model().config.class_names)
    assert run(folder.parent) == 2
    assert "config.json" in capsys.readouterr().err


def test_the_requirements_are_those_of_the_package(folder):
    project = (ROOT / "pyproject.toml").read_text()
    wanted = re.findall(r'"(.+?)"', re.search(r"^dependencies = \[(.*?)^\]", project, re.DOTALL | re.MULTILINE)[1])
    lines = endpoint.write_handler(folder)["requirements.txt"].read_text().splitlines()
    listed = [line for line in lines if not line.startswith("#")]
    assert set(listed) < set(wanted)
    assert {line.split(">")[0] for line in listed} == {"transformers", "pillow", "safetensors", "numpy"}


def test_what_somebody_has_put_there_stays_and_is_told(folder, caplog):
    own = {"handler.py": "# mine", "requirements.txt": "transformers==5.0.0\n"}
    endpoint.write_handler(folder)
    endpoint.write_handler(folder)
    assert caplog.text == ""
    for name, text in own.items():
        (folder / name).write_text(text)
    endpoint.write_handler(folder)
    assert {name: (folder / name).read_text() for name in own} == own
    for name in own:
        assert f"{folder / name} is not this version's and stays as it is" in caplog.text


@pytest.fixture
def tried(monkeypatch):
    """The load check of this process, which is cheaper; the files that it was asked about."""
    asked = []
    monkeypatch.setattr(publishing, "check_loads", lambda files: asked.append(sorted(files)))
    return asked


def test_the_handler_goes_with_the_model_in_one_commit(hub, folder, tried):
    settings = replace(SETTINGS, handler=True)
    url = publishing.publish(folder, REPO, settings)
    expected = sorted([*MODEL_FILES, "README.md", "confusion_matrix.png", "results.json", *FILES])
    assert names(hub) == expected
    assert tried == [expected]
    assert len(commits(hub)) == 2  # that of the new repository, and that of the model
    card = hub.files(REPO)["README.md"].decode()
    assert "## How to serve it" in card
    assert '"is_familiar": false' in card
    assert hub.files(REPO)["handler.py"] == (ROOT / "handler.py").read_bytes()
    assert publishing.publish(folder, REPO, settings) == url, "nothing to upload"


def test_without_the_request_nothing_of_it_is_published(hub, folder, tried):
    endpoint.write_handler(folder)
    publishing.publish(folder, REPO, SETTINGS)
    assert not set(FILES) & set(names(hub))
    assert "serve" not in hub.files(REPO)["README.md"].decode()
    assert str(make_model_card(folder, served=True)).count("handler.py") == 1


def test_files_that_must_not_leave_the_machine_are_refused(hub, folder, tmp_path, tried):
    secret = tmp_path / "secret.py"
    secret.write_text("key = 1")
    (folder / "handler.py").symlink_to(secret)
    with pytest.raises(ValueError, match=r"handler\.py leads out of the folder"):
        publishing.publish(folder, REPO, replace(SETTINGS, handler=True))
    (folder / "handler.py").unlink()
    (folder / "requirements.txt").write_text("--token hf_abcdefghijklmnopqrstuvwxyzabcdefgh")
    with pytest.raises(ValueError, match=r"requirements\.txt holds what looks like an access token"):
        publishing.publish(folder, REPO, replace(SETTINGS, handler=True))
    assert not hub.repositories
    assert tried == []


def test_the_command_takes_the_flag(folder):
    values = command.parse_args([str(folder), REPO, "--handler"])
    assert values["handler"] is True


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("class Handler: pass", "no attribute 'EndpointHandler'"),
        ("class EndpointHandler:\n def __init__(self, path): raise ValueError('no GPU')", "no GPU"),
        *(
            (
                f"class EndpointHandler:\n def __init__(self, path): pass\n def __call__(self, data): return {answer}",
                told,
            )
            for answer, told in (
                ("object()", "not JSON serializable"),
                ("[{'label': 'Fat', 'score': float('nan')}]", "Out of range float"),
                ("[]", "Expected handler.py to answer a list of"),
                ("None", "Expected handler.py to answer a list of"),
                ("{'label': 'Fat', 'score': 0.5}", "Expected handler.py to answer a list of"),
                ("[{'label': 'Bone', 'score': 0.5}]", "got .*Bone"),
                ("[{'label': 'Fat', 'score': 0.5}, 'Stroma']", "got .*Stroma"),
                ("[{'label': 'Fat', 'score': 'high'}]", "got .*high"),
            )
        ),
    ],
)
def test_a_handler_that_does_not_serve_is_found_out(folder, code, message):
    (folder / "handler.py").write_text(code)
    with pytest.raises(Exception, match=message):
        load_check.check_handler(folder)


def test_the_own_handler_passes(folder):
    endpoint.write_handler(folder)
    load_check.check_handler(folder)


ASKED_AND_THEN_CURIOUS = """

class EndpointHandler(EndpointHandler):
    def __call__(self, data):
        assert len(super().__call__(data)) == 4
        import spider_tools
"""


@pytest.mark.slow
def test_the_load_check_tries_the_handler_where_there_is_no_project(folder):
    endpoint.write_handler(folder)
    with open(folder / "handler.py", "a") as file:
        file.write(ASKED_AND_THEN_CURIOUS)
    with pytest.raises(ValueError, match=r"(?s)Nothing was uploaded.*import of spider_tools halted"):
        check_loads(model_files(folder) | {name: folder / name for name in FILES})
