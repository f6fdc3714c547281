"""The model files as text: what they import, open and run, and that Transformers finds all of them."""

import ast
import sys

import pytest
from tiny_spider import ROOT

REMOTE_FILES = sorted(path.name for path in ROOT.glob("*_spider.py"))
EVERY_USER_HAS = {"numpy", "PIL", "torch", "transformers"}
# One file gives weights the mode of config.json, another reads the code beside it to tell folders apart, and the index
# of weights to see whether it leads out.
EXCEPTIONS = {"modeling_spider.py": {"shutil"}, "sources_spider.py": {"open"}}


@pytest.mark.parametrize("name", REMOTE_FILES)
def test_a_remote_file_imports_only_what_every_user_has(name):
    tree = ast.parse((ROOT / name).read_text())
    no_business = {"socket", "ssl", "http", "urllib", "subprocess", "ctypes", "pickle", "importlib", "shutil"}
    allowed = (EVERY_USER_HAS | sys.stdlib_module_names) - (no_business - EXCEPTIONS.get(name, set()))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= allowed
        elif isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1
            assert f"{node.module}.py" in REMOTE_FILES
        elif isinstance(node, ast.ImportFrom):
            assert node.module.split(".")[0] in allowed


@pytest.mark.parametrize("name", REMOTE_FILES)
def test_a_remote_file_opens_and_runs_nothing(name):
    calls = [node.func for node in ast.walk(ast.parse((ROOT / name).read_text())) if isinstance(node, ast.Call)]
    functions = {function.id for function in calls if isinstance(function, ast.Name)}
    methods = {function.attr for function in calls if isinstance(function, ast.Attribute)}
    forbidden = {"open", "exec", "eval", "compile", "__import__", "input", "print"}
    assert not functions & (forbidden - EXCEPTIONS.get(name, set()))
    assert not methods & {"open", "import_module", "system", "popen", "urlopen", "run", "read_text", "read_bytes"}


def siblings_of(name):
    nodes = ast.walk(ast.parse((ROOT / name).read_text()))
    return {f"{node.module}.py" for node in nodes if isinstance(node, ast.ImportFrom) and node.level}


@pytest.mark.parametrize("entry", ["configuration", "image_processor", "modeling", "processing"])
def test_a_file_that_is_loaded_by_name_imports_all_that_its_siblings_import(entry):
    """From a local folder, Transformers 4 copies what that file names, and nothing that those name in turn."""
    named = siblings_of(f"{entry}_spider.py")
    assert {deeper for sibling in named for deeper in siblings_of(sibling)} <= named
