"""The folder of a Space alone, in a process that cannot see the checkout."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import warm_python

from spider_tools.publishing.space_files import SETTINGS_NAME, code_of_space, texts_of_space

pytestmark = pytest.mark.slow

# As `python app.py` in that folder, where this package is nowhere else.
PROGRAM = """
import os, runpy, sys, tempfile
here, tempfile.tempdir, *flags = sys.argv[1:]
others = [path for path in sys.path if path and not os.path.isfile(os.path.join(path, "spider_tools", "__init__.py"))]
sys.path[:] = [here, *others]
sys.argv = ["app.py", *flags]
import spider_tools
print(spider_tools.__file__, flush=True)
runpy.run_path(os.path.join(here, "app.py"), run_name="__main__")
"""


def free_port():
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return asked.getsockname()[1]


@pytest.fixture
def space(tmp_path):
    """What the Hub gets, as it lies in the Space."""
    folder = tmp_path / "space"
    for name, path in code_of_space().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
    for name, text in texts_of_space("lab/spider", "c" * 40).items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_it_serves_a_model_and_leaves_nothing_when_it_is_ended(space, model_folder, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with warm_python.start(
        [sys.executable, "-c", PROGRAM, space, temporary, "--host", "127.0.0.1", "--port", str(free_port())],
        cwd=space,
        env={**environment, "SPIDER_MODEL": str(model_folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            assert Path(process.stdout.readline().strip()) == space / "spider_tools" / "__init__.py"
            line = process.stdout.readline()
            assert line.startswith("The page is at http://127.0.0.1:"), process.stderr.read()
            url = line.split()[4]
            with urllib.request.urlopen(f"{url}gradio_api/info", timeout=20) as answer:
                assert set(json.load(answer)["named_endpoints"]) == {"/classify", "/map"}
            assert [path.name[:11] for path in temporary.iterdir() if path.name.startswith("spider-app")]
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(30)
    assert code == 128 + signal.SIGTERM
    assert not [path for path in temporary.iterdir() if path.name.startswith("spider-app")]
    assert (space / SETTINGS_NAME).is_file()
