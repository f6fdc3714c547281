"""A published repository's own code: what it is, and what it answers in a child process."""

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from safetensors.torch import load_file

from ..files import file_sha256
from ..processes import ending
from .reading import WeightSource, read_json

CHILD = Path(__file__).with_name("source_child.py")
_WITH_CODE = ("config.json", "preprocessor_config.json", "processor_config.json")
_SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")
_SAID = 3000  # of what a child said last, so many characters are repeated in an error


@dataclass(frozen=True)
class SourceCode:
    """The Python files of a repository.

    Attributes:
        source: Whose they are.
        files: sha256 by name.
    """

    source: WeightSource
    files: dict[str, str]

    def statement(self) -> str:
        """What running them means, for the user to consent to."""
        where = f"at commit {self.source.revision}" if self.source.revision else "as it lies on this machine"
        listed = ", ".join(f"{name} (sha256 {digest[:12]})" for name, digest in self.files.items())
        return (
            f"the Python code of {self.source.name}, {where}: {listed}. It can do whatever you can do on this machine, "
            "so read it first"
        )


@dataclass(frozen=True)
class SourceAnswer:
    """What a repository's own code makes of regions.

    Attributes:
        pixel_values: What its processor makes of each region, float32, of whatever shape.
        logits: Float32 `(regions, classes)`.
        names: Names of the predicted classes, a list for each region, None where it gives none.
        versions: Of the packages it ran with.
        unfilled: Parameters of its model that its files do not fill.
    """

    pixel_values: list[torch.Tensor]
    logits: torch.Tensor
    names: list[Optional[list[str]]]
    versions: dict[str, str]
    unfilled: list[str]


def code_of(source: WeightSource) -> SourceCode:
    """The code of a repository.

    Raises:
        ValueError: It has none, or takes some from another repository, of which nobody states the revision.
    """
    folder = source.folder
    files = {path.name: file_sha256(path) for path in sorted(folder.glob("*.py"))} if folder else {}
    named = [entry for name in _WITH_CODE for entry in _entries(read_json(folder / name) or {})] if folder else []
    if not files or not named:
        raise ValueError(f"{source.name} has no code of its own (Python files, and `auto_map` in its config.json).")
    for entry in named:
        repository, _, reference = entry.rpartition("--")
        file = f"{reference.split('.')[0]}.py"
        if file not in files:
            place = f"from {repository}, at a revision that nobody states" if repository else "that it does not have"
            raise ValueError(f"{source.name} takes {reference} {place}: put the file {file} beside its weights.")
    return SourceCode(source, files)


def run_source_code(code: SourceCode, regions: Sequence[np.ndarray], python: Optional[str] = None) -> SourceAnswer:
    """Run a repository's own code on regions. The caller has the user's consent.

    The child finds nothing but the files of `code`, the weights and the configurations in its repository, and does not
    reach the Hub through `huggingface_hub`; what it runs is else not confined.

    Args:
        code: What to run.
        regions: uint8 `(height, width, 3)` each.
        python: Interpreter of an environment that the code runs in; by default this one's.

    Raises:
        ValueError: The interpreter is none, or the code ends in an error or is killed; the message repeats it.
    """
    interpreter = shutil.which(python or sys.executable)
    if interpreter is None:
        raise ValueError(f"--source-python must be a Python interpreter, got {python!r}.")
    with tempfile.TemporaryDirectory(prefix="spider_source_") as made:
        folder = Path(made)
        write_request(code, regions, folder)
        said, status = _run([interpreter, str(folder / CHILD.name), str(folder)], folder)
        if status or not (folder / "answer.json").is_file():
            raise ValueError(
                f"The code of {code.source.name} gave no answer: its process, {interpreter}, {ending(status)}. If it "
                "wants another version of Transformers, give the Python of an environment with that as "
                f"--source-python; `make env-tf4` makes .venv-tf4/bin/python, with 4.57. What it said last:\n{said}"
            )
        return read_answer(folder)


def write_request(code: SourceCode, regions: Sequence[np.ndarray], folder: Path) -> None:
    """Write what a child needs, its script included, into an empty folder."""
    repository = folder / folder.name  # Transformers names modules by it
    _copy_repository(code, repository)
    shutil.copyfile(CHILD, folder / CHILD.name)  # away from this package, whose modules would shadow others
    names = [f"region-{number}.npy" for number in range(len(regions))]
    for name, region in zip(names, regions):
        np.save(folder / name, region, allow_pickle=False)
    request = {"repository": str(repository), "regions": names}
    (folder / "request.json").write_text(json.dumps(request), "utf-8")


def read_answer(folder: Path) -> SourceAnswer:
    """Read what a child has answered in a folder."""
    tensors = load_file(folder / "answer.safetensors")
    told = json.loads((folder / "answer.json").read_text("utf-8"))
    count = len(told["names"])
    logits = [tensors[f"logits.{number}"] for number in range(count)]
    return SourceAnswer(
        pixel_values=[tensors[f"pixel_values.{number}"] for number in range(count)],
        logits=torch.stack(logits),
        names=told["names"],
        versions=told["versions"],
        unfilled=told["unfilled"],
    )


def _copy_repository(code: SourceCode, folder: Path) -> None:
    """Link what the child may find, with `auto_map` made to name the files beside it and no other repository."""
    folder.mkdir()
    original = code.source.folder
    assert original is not None  # code_of found files in it
    for path in sorted(original.iterdir()):
        if path.name in code.files or path.suffix in (".json", ".safetensors"):
            (folder / path.name).symlink_to(path.resolve())
    for name in _WITH_CODE:
        content = read_json(original / name)
        if content is not None and "auto_map" in content:
            (folder / name).unlink()
            bare = {key: _without_repository(value) for key, value in content["auto_map"].items()}
            (folder / name).write_text(json.dumps({**content, "auto_map": bare}), "utf-8")


def _entries(content: dict[str, Any]) -> list[str]:
    """The references to classes in a configuration's `auto_map`."""
    mapping = content.get("auto_map")
    values = list(mapping.values()) if isinstance(mapping, dict) else []
    flat = [entry for value in values for entry in (value if isinstance(value, list) else [value])]
    return [entry for entry in flat if isinstance(entry, str)]


def _without_repository(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_repository(entry) for entry in value]
    return value.rpartition("--")[2] if isinstance(value, str) else value


def _run(command: list[str], folder: Path) -> tuple[str, int]:
    """Run a command, showing what it says; gives the last of it, and the exit status."""
    environment = {name: value for name, value in os.environ.items() if name not in _SECRETS}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(folder / "modules")}
    said = ""
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as child:  # fmt: skip
        assert isinstance(child.stdout, io.BufferedReader)
        try:
            while chunk := child.stdout.read1():  # not by lines: a progress bar has none
                text = chunk.decode("utf-8", "replace")
                sys.stderr.write(text)
                sys.stderr.flush()
                said = (said + text)[-_SAID:]
        except BaseException:
            child.kill()
            raise
    return "\n".join(line.rpartition("\r")[2] for line in said.split("\n")), child.returncode
