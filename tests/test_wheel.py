"""A wheel works without a checkout, in an environment that has nothing else of this project."""

import json
import os
import subprocess
import sys
import sysconfig
import zipfile

import pytest
from tiny_spider import ROOT

import spider_tools

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), "."]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The interpreter of a new environment with the wheel, which finds only third parties' packages in this one."""
    folder = tmp_path_factory.mktemp("empty") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = sysconfig.get_path("purelib", "venv", {"base": str(folder)})
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    others = [entry for entry in sys.path if entry.endswith("site-packages") and os.path.isdir(entry)]
    with open(os.path.join(site, "others.pth"), "w") as file:
        file.write("\n".join(others) + "\n")
    return str(folder / "bin" / "python")


def run(python, tmp_path, *words):
    environment = {"PATH": os.defpath, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [python, *map(str, words)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_carries_the_model_files_templates_and_types(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.name.startswith(f"spider_pathology-{spider_tools.__version__}-")
    code = {path.name for path in ROOT.glob("*_spider.py")}
    for name in (*code, "config.json", "preprocessor_config.json", "processor_config.json", "train.py", "handler.py"):
        assert f"spider_tools/repository/{name}" in names
    beside = {
        path
        for path in (ROOT / "spider_tools").rglob("*.*")
        if path.suffix in (".css", ".j2", ".js", ".json", ".md", ".txt")
    }
    assert len(beside) >= 8
    for path in (ROOT / "spider_tools" / "py.typed", *beside):
        assert path.relative_to(ROOT).as_posix() in names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "demo/"))]


def test_new_writes_a_repository_from_the_wheel_alone(python, tmp_path):
    where = run(python, tmp_path, "-c", "import spider_tools; print(spider_tools.__file__)")
    assert str(ROOT) not in where
    printed = run(python, tmp_path, "-m", "spider_tools.weights", "new", "--organ", "skin", tmp_path / "skin")
    assert "Configurations of the skin model" in printed
    config = json.loads((tmp_path / "skin" / "config.json").read_text())
    assert len(config["class_names"]) == 24
    assert config["spider_tools_version"] == spider_tools.__version__
    for name in (path.name for path in ROOT.glob("*_spider.py")):
        assert (tmp_path / "skin" / name).read_bytes() == (ROOT / name).read_bytes()


def test_the_front_door_opens_from_the_wheel(python, tmp_path, model_folder):
    program = (
        "import spider_tools as s, sys, json;"
        f"print(type(s.load_spider({str(model_folder)!r})).__name__, s.train.__name__, s.segment_slide.__name__)"
    )
    assert run(python, tmp_path, "-c", program).split() == ["SpiderForImageClassification", "train", "segment_slide"]
    settings = tmp_path / "environment"
    note = "import sys; from pathlib import Path; from spider_tools import environment as e"
    note += "; e.write_settings(Path(sys.argv[1]), {})"
    run(python, tmp_path, "-c", note, settings)
    noted = json.loads((settings / "environment.json").read_text())
    assert noted["spider_tools"] == spider_tools.__version__
    assert noted["git"] == {"commit": None, "changed_files": None}  # whatever repository the environment lies in
