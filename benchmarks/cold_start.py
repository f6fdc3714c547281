"""Cold start: importing, loading and the first answer, every way in fresh processes that run in turn.

Loading as users do, and as this project's strict `load_spider` and `load_backbone` do, beside reading the bytes of the
file once, which no way can avoid, and beside building a model of random weights that the saved ones then replace.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from spider_tools import remote_code
from spider_tools.model_folder import save_model_folder

from .measuring import Goal, Options, Section, spread
from .models import SMALL, random_model

WAYS = ("read", "ours", "naive", "project")
LABELS = {
    ("read", "read"): "reading the file's bytes into memory",
    ("read", "copy"): "safetensors, every tensor copied",
    ("ours", "load"): "`AutoModel.from_pretrained`",
    ("project", "load_spider"): "`load_spider`",
    ("project", "load_backbone"): "`load_backbone`",
    ("project", "on a backbone"): "start of train.py with `--backbone`",
    ("project", "on a model"): "start of train.py with `--init_from`, other classes",
    ("naive", "load"): "random weights, then `load_state_dict`",
}
TOLERANCE = 1e-5


def measure(options: Options) -> list[Section]:
    """Loading beside reading, and the way from the start of Python to an answer."""
    rounds = 1 if options.quick else 3
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        folder.mkdir()
        write_model(folder, options.quick)
        size = (folder / "model.safetensors").stat().st_size
        runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        # The first round, not counted, brings the files into the page cache and the compiled Python files to disk.
        for number in range(rounds if options.quick else 1 + rounds):
            for way in WAYS:
                runs[way].append(in_fresh_process(way, folder, options))
            check(runs)
            if number == 0 and not options.quick:
                runs = {way: [] for way in WAYS}
    return [loading(runs, size, not options.quick), starting(runs)]


def write_model(folder: Path, quick: bool) -> None:
    """A saved repository with Hibou-L's architecture, and its backbone alone in a folder of its own."""
    model = random_model(SMALL if quick else None)
    save_model_folder(model, remote_code.image_processor_class()(), folder)
    model.backbone.save_pretrained(folder / "backbone")


def in_fresh_process(way: str, folder: Path, options: Options) -> dict[str, Any]:
    """What `fresh_process` prints, with its code cache in the folder's parent."""
    environment = os.environ | {"HF_MODULES_CACHE": str(folder.parent / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", f"{__package__}.fresh_process", way, str(folder), options.device.type]
    finished = subprocess.run(
        command, env=environment, cwd=remote_code.REPOSITORY_ROOT, capture_output=True, text=True, check=False
    )
    if finished.returncode:
        raise RuntimeError(f"{way} failed:\n{finished.stderr}")
    return json.loads(finished.stdout)


def check(runs: dict[str, list[dict[str, Any]]]) -> None:
    """Raise if the ways do not give the same logits and the same embedding."""
    expected = runs["naive"][-1]["answers"]
    for way in ("ours", "project"):
        for what, values in runs[way][-1]["answers"].items():
            off = max(abs(a - b) for a, b in zip(values, expected[what], strict=True))
            if not off <= TOLERANCE:
                raise RuntimeError(f"The {what} of {way} is off by {off:g}, expected at most {TOLERANCE:g}.")


def loading(runs: dict[str, list[dict[str, Any]]], size: int, full_size: bool) -> Section:
    """Seconds of every way to get `size` bytes of weights into memory; of a tiny model they say nothing."""
    times = {label: [run["seconds"][step] for run in runs[way]] for (way, step), label in LABELS.items()}
    draws = {label: "yes" if any(run["draws"] for run in runs[way]) else "no" for (way, _), label in LABELS.items()}
    draws |= {label: "for the head" for (_, step), label in LABELS.items() if step.startswith("on a")}
    reading = median(times[LABELS["read", "read"]])
    rows = [
        {
            "way": label,
            "s": median(seconds),
            "spread": f"{spread(seconds):.0%}",
            "GB/s": size / 1e9 / median(seconds),
            "times reading": median(seconds) / reading,
            "draws random weights": draws[label],
        }
        for label, seconds in times.items()
    ]
    notes = (
        f"{size / 1e9:.3g} GB in float32, in the page cache; on the CPU. Loading includes reading one value of every "
        "page, since a mapped file is not read before that. Random weights are known by the state of torch's generator."
        " The bound of 2: the bytes have to come into memory once; beyond that Transformers 5 gets the halves of the "
        "SwiGLU layers, nearly half of the bytes, as views, which the model copies apart, and `load_backbone` looks at "
        "every value."
    )
    goals = [
        Goal(f"{row['way']}, as multiple of reading", row["times reading"], 2, at_least=False)
        for row in rows[2:5]
        if full_size
    ]
    drawing = sum(row["draws random weights"] == "yes" for row in rows[2:5])
    goals.append(Goal("Ways of ours that draw random weights", float(drawing), 0, at_least=False))
    return Section("Loading", notes, rows, goals)


def starting(runs: dict[str, list[dict[str, Any]]]) -> Section:
    """Seconds of each step from the start to an answer."""
    steps = list(runs["ours"][0]["seconds"])
    rows = []
    for way, label in (("ours", "`from_pretrained`"), ("naive", "random weights, then `load_state_dict`")):
        seconds = {f"{step}, s": median(run["seconds"][step] for run in runs[way]) for step in steps}
        total = sum(seconds[f"{step}, s"] for step in steps[:-1])
        rows.append({"way": label, **seconds, "import to first answer, s": total})
    notes = (
        "Import is that of torch and transformers, with the GPU's context where there is one. An answer is that about "
        "a region of one patch, without context, the processor's loading included, so that what the first one takes "
        "beyond the second is warming up."
    )
    return Section("From the start of Python to an answer", notes, rows)
