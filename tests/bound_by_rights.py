"""Processes that the rights of files bind, also where the tests run as root."""

import os
import shutil
import subprocess
import sys

import pytest
from tiny_spider import ROOT


def run_bound_by_rights(*words, **environment):
    """Run Python with these words, in the root of the repository; a variable that is None is unset."""
    prefix = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root needs setpriv to be bound by rights")
        # What is left is the rights of the owner.
        prefix = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    variables = {name: str(value) for name, value in (os.environ | environment).items() if value is not None}
    command = [*prefix, sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=120)


def read_only(folder):
    """Take the right to write from a folder and all that it holds; returns it."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222)
    return folder
