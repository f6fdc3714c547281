"""Where a run took place and what it was told, as files beside its results."""

import json
import platform
import subprocess
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

from . import __version__
from .files import write_text
from .remote_code import REPOSITORY_ROOT

_PACKAGES = ("accelerate", "datasets", "numpy", "peft", "safetensors", "torch", "transformers")


def write_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write `settings.json`, everything the run was told, and `environment.json`, where it ran."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "settings.json", json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
    write_text(folder / "environment.json", json.dumps(environment(), indent=2) + "\n")


def environment() -> dict[str, Any]:
    """Versions, hardware and the state of the code."""
    installed = {d.metadata["Name"]: d.version for d in distributions() if d.metadata["Name"] in _PACKAGES}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "spider_tools": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": dict(sorted(installed.items())),
        "gpu": device,
        "threads": torch.get_num_threads(),
        "git": {"commit": _git("rev-parse", "HEAD"), "changed_files": _git("status", "--porcelain")},
    }


def _git(*arguments: str) -> Any:
    """The output of a git command in the checkout, or None without git or where the code is no checkout of its own."""
    if not (REPOSITORY_ROOT / ".git").exists():
        return None
    command = ["git", "-C", str(REPOSITORY_ROOT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=30)
    except FileNotFoundError:
        return None
    return done.stdout.strip().splitlines() if done.returncode == 0 else None
