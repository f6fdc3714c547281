"""`from spider_tools import ...`: cheap, complete and documented."""

import importlib
import inspect
import re
import subprocess
import sys
import typing

import pytest
from tiny_spider import ROOT

import spider_tools


def test_importing_the_package_loads_no_other_package():
    program = "import sys, spider_tools; print(*{name.split('.')[0] for name in sys.modules} - sys.stdlib_module_names)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    # What .pth files of the environment load is there before.
    before = subprocess.run(
        [sys.executable, "-c", program.replace(", spider_tools", "")], capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) - set(before.stdout.split()) == {"spider_tools"}


@pytest.mark.parametrize("name", sorted(set(spider_tools.__all__) - {"__version__"}))
def test_every_public_name_is_there_documented_and_typed(name):
    value = getattr(spider_tools, name)
    assert value.__module__.startswith("spider_tools.")
    assert inspect.getdoc(value)
    if inspect.isfunction(value):
        parameters = inspect.signature(value).parameters.values()
        assert all(p.annotation is not p.empty for p in parameters)
        assert inspect.signature(value).return_annotation not in (inspect.Signature.empty, typing.Any)


def test_what_type_checkers_see_is_what_there_is():
    source = (ROOT / "spider_tools" / "__init__.py").read_text(encoding="utf-8")
    shown = {name: module for module, name in re.findall(r"from \.([\w.]+) import (\w+) as \2", source)}
    assert set(shown) == set(spider_tools.__all__) - {"__version__"}
    for name, module in shown.items():
        assert getattr(importlib.import_module(f"spider_tools.{module}"), name) is getattr(spider_tools, name)


def test_an_unknown_name_is_an_attribute_error_and_dir_lists_the_known():
    with pytest.raises(AttributeError, match="'spider_tools' has no attribute 'trian'"):
        _ = spider_tools.trian
    assert {"train", "load_regions", "__version__"} <= set(dir(spider_tools))


def test_the_version_is_that_of_the_changelog():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\d+\.\d+\.\d+)", changelog, re.MULTILINE)[1] == spider_tools.__version__
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {spider_tools.__version__}\n" in citation
