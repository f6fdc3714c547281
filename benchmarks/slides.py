"""Whole slides: every patch embedded once while the next ones are read, beside region by region and embeddings alone.

- Ours is `segment_slide`, as a user starts it. Its reading, embedding and classification are what the other ways do
  too; the tissue mask, pictures and tables come on top, and are told apart by what slide.json says.
- Region by region: some of the regions, each cut out and classified by itself.
- Embeddings alone: `SlideModel.embed` on the same batches, which are in memory already.

Memory is that of one run in a process of its own and its readers, Python, libraries and the model included, as the
proportional set size, sampled twice a second; those runs are not timed. What takes too long for every run:

    python -m benchmarks.slides --gigapixel     a slide of 100,000 x 80,000 px beside a limit of memory
    python -m benchmarks.slides --hibou         the real slide with Hibou-L in bfloat16
"""

import argparse
import dataclasses
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

import numpy as np
import psutil
import pyarrow.parquet as pq
import torch
from safetensors import safe_open

from spider_tools import remote_code

from .drawn_slide import draw_slide
from .measuring import Goal, Options, Section, alternate, spread
from .models import SMALL, VIT_S, random_model
from .own_process import in_own_process
from .slide_ways import Alone, Case, Ours, Places, Plain

REAL_SLIDE = remote_code.REPOSITORY_ROOT.parent / "shared/slides/CMU-1-Small-Region.svs"
GIGAPIXEL = (100_000, 80_000)
DRAWN = (16_000, 12_000)
WAYS = PLAIN, OURS, ALONE = "region by region", "ours", "embeddings alone"
# Largest difference of probabilities, and of embeddings as a share of the largest one: batches of another size round
# differently.
TOLERANCES = {"float32": 1e-4, "bfloat16": 0.05}


def measure(options: Options) -> list[Section]:
    """The real slide, where it is there, and a drawn one."""
    if options.quick:
        with drawn((3_600, 3_000)) as path:
            case = Case(path, SMALL, options.device, batch_size=16, regions=2, rounds=1, memory=False)
            return [compare(case, "A drawn slide, a small backbone", bound=None)]
    case = full_case(options.device)
    named = "Hibou-L in bfloat16" if case.backbone is None else "ViT-S in float32"
    sections = []
    if REAL_SLIDE.exists():
        sections.append(compare(case, f"A real slide, {named}"))
    # A GPU is through the smaller one in a second.
    size = GIGAPIXEL if options.device.type == "cuda" else DRAWN
    with drawn(size) as path:
        sections.append(compare(dataclasses.replace(case, slide=path, rounds=2), f"A drawn slide, {named}"))
        small = dataclasses.replace(case, slide=path, backbone=SMALL, dtype="float32", regions=20)
        sections.append(compare(small, "A drawn slide, a small backbone", bound=None))
    if not REAL_SLIDE.exists():
        note = "The real slide was not measured: it is not on this machine. "
        sections[0] = dataclasses.replace(sections[0], notes=note + sections[0].notes)
    return sections


def full_case(device: torch.device, hibou: bool = False) -> Case:
    """The real slide with what a device is used for: Hibou-L on a GPU, less than that on a CPU unless `hibou`."""
    if device.type == "cuda":
        return Case(REAL_SLIDE, None, device, "bfloat16", batch_size=256, workers=os.cpu_count() or 2, regions=50)
    if hibou:
        return Case(REAL_SLIDE, None, device, "bfloat16", regions=2, rounds=2)
    return Case(REAL_SLIDE, VIT_S, device)


@contextmanager
def drawn(size: tuple[int, int]) -> Iterator[Path]:
    """A drawn slide of this size in px, while it is needed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "drawn.tif"
        draw_slide(path, *size)
        yield path


def compare(case: Case, title: str, bound: Optional[float] = 1.15) -> Section:
    """All ways on one slide.

    Args:
        case: The slide and the model.
        title: Of the table.
        bound: How many times the seconds of the embeddings alone ours may take, None for no goal.
    """
    run = with_peak if case.memory else _in_this_process
    with tempfile.TemporaryDirectory() as folder:
        counts, ours_bytes = run(_run_ours, case, Path(folder))
        _, plain_bytes = run(_run_plain, dataclasses.replace(case, regions=1))
        ours = Ours(case)
        places = Places(case.slide, ours.model.config)
        plain, alone = Plain(case, places), Alone(ours.model, places, case.batch_size)
        if counts["embedded"] < len(alone.rows):
            raise RuntimeError(f"ours embedded {counts['embedded']} patches, expected {len(alone.rows)}")
        check_agreement(Path(folder) / "slide", plain, alone, TOLERANCES[case.dtype])
    seconds = alternate(dict(zip(WAYS, (plain, ours, alone))), case.rounds, case.device, warm_up=0)
    predicted, embedded, regions = counts["predicted"], counts["embedded"], len(plain.chosen)
    rows = [
        _row(f"{PLAIN}, {regions} of them", (regions, plain.embedded), seconds[PLAIN], plain_bytes),
        _row("ours: reading, embedding, classification", (predicted, embedded), ours.seconds, None),
        _row("ours with tissue, pictures and tables", (predicted, embedded), seconds[OURS], ours_bytes),
        _row(ALONE, (predicted, len(alone.rows)), seconds[ALONE], None),
    ]
    for row in rows:
        row["times embeddings alone"] = row["ms per predicted patch"] / rows[-1]["ms per predicted patch"]
    text = "reading, embedding and classification, times the embeddings alone"
    goals = [] if bound is None else [Goal(text, rows[1]["times embeddings alone"], bound, at_least=False)]
    return Section(title, _notes(case, places), rows, goals)


def check_agreement(folder: Path, plain: Plain, alone: Alone, tolerance: float) -> None:
    """Refuse to time ways that say different things.

    Args:
        folder: With the results of ours.
        plain: Is run, and its probabilities are compared.
        alone: Its first batch is embedded and compared.
        tolerance: See `TOLERANCES`.

    Raises:
        RuntimeError: They differ.
    """
    table = pq.read_table(folder / "predictions.parquet")
    columns = [name for name in table.column_names if name.startswith("probability: ")]
    ours = np.stack([table[name].to_numpy() for name in columns], axis=1)[plain.chosen]
    with safe_open(folder / "embeddings.safetensors", framework="pt") as file:
        saved, xy = file.get_tensor("embeddings").float(), file.get_tensor("xy").numpy()
    if not np.array_equal(xy[np.lexsort(xy.T)], plain.places.corners[np.lexsort(plain.places.corners.T)]):
        raise RuntimeError(f"ours embedded other patches: {len(xy)}, expected {len(plain.places.corners)}")
    row_of = {(x, y): row for row, (x, y) in enumerate(xy.tolist())}
    first = [row_of[x, y] for x, y in plain.places.corners[alone.rows[: len(alone.batches[0])]].tolist()]
    embeddings = alone.model.embed(alone.batches[0]).float().cpu()
    differences = {
        "probabilities, region by region": float(np.abs(plain() - ours).max()),
        "embeddings": float((embeddings - saved[first]).abs().max() / saved.abs().max()),
    }
    if not max(differences.values()) <= tolerance:
        raise RuntimeError(f"differences to ours: {differences}, allowed {tolerance}")


def with_peak(function: Callable[..., Any], *arguments: Any) -> tuple[Any, int]:
    """What a function returns in a new process, and the peak memory of that process and its children in bytes.

    Raises:
        RuntimeError: It failed.
    """
    peaks = [0]
    result = in_own_process(function, *arguments, watch=lambda pid: peaks.append(memory_of(pid)))
    return result, max(peaks)


def memory_of(pid: Optional[int]) -> int:
    """Bytes of a process and all that it has started; pages that they share count once, pages of mapped files too."""
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for process in family:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
    return total


def gigapixel(limit_gib: float, device: torch.device) -> Section:
    """Ours on a slide of eight gigapixels, with a small backbone, which leaves the most to reading and memory."""
    with drawn(GIGAPIXEL) as path, tempfile.TemporaryDirectory() as folder:
        case = dataclasses.replace(full_case(device), slide=path, backbone=SMALL, dtype="float32")
        counts, peak = with_peak(_run_ours, case, Path(folder))
    patches = (counts["predicted"], counts["embedded"])
    rows = [
        _row("ours: reading, embedding, classification", patches, [counts["seconds"]], None),
        _row("ours with tissue, pictures and tables", patches, [counts["whole"]], peak),
    ]
    notes = f"{GIGAPIXEL[0]} x {GIGAPIXEL[1]} px at 0.25 um/px, a small backbone, {case.workers} readers, one run."
    return Section("A drawn slide of eight gigapixels", notes, rows, [Goal("GiB", peak / 2**30, limit_gib, False)])


def _run_ours(case: Case, folder: Path) -> dict[str, Any]:
    ours = Ours(case)
    started = time.perf_counter()
    counts = ours.write_to(folder)
    return {**counts, "seconds": ours.seconds[0], "whole": time.perf_counter() - started}


def _run_plain(case: Case) -> None:
    Plain(case, Places(case.slide, random_model(case.backbone).config))()


def _in_this_process(function: Callable[..., Any], *arguments: Any) -> tuple[Any, None]:
    return function(*arguments), None


def _row(way: str, patches: tuple[int, int], seconds: list[float], peak: Optional[int]) -> dict[str, Any]:
    """Of the table; `patches` are those that got a class, and those that went through the backbone for it."""
    predicted, embedded = patches
    return {
        "way": way,
        "predicted": predicted,
        "embedded": embedded,
        "forwards per predicted patch": embedded / predicted,
        "s": statistics.median(seconds),
        "spread": f"{spread(seconds):.0%}",
        "ms per predicted patch": statistics.median(seconds) / predicted * 1e3,
        "peak MB": "" if peak is None else peak / 1e6,
    }


def _notes(case: Case, places: Places) -> str:
    (width, height), mpp = places.view.slide.size, places.view.slide.mpp
    return (
        f"{width} x {height} px of {mpp[0]:g} um/px, read from level {places.view.level} at {places.view.mpp[0]:g} "
        f"um/px; batches of {case.batch_size}, {case.workers} readers beside {torch.get_num_threads()} threads of the "
        f"backbone; {case.rounds} rounds. A forward is one patch through the backbone, where {len(places.corners)} "
        "patches are needed; of those that are alike, such as blank ones, ours and the embeddings alone take one."
    )


def main() -> None:
    """Print what takes too long for every run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slides", description="Whole slides, the long runs.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--gigapixel", action="store_true", help="a slide of 100,000 x 80,000 px beside a limit of memory"
    )
    what.add_argument("--hibou", action="store_true", help="the real slide with Hibou-L in bfloat16")
    parser.add_argument("--limit_gib", type=float, default=8.0, help="of memory for the gigapixel slide")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    given = parser.parse_args()
    device = torch.device(given.device)
    if given.hibou and not Options(device).bfloat16:
        parser.error("--hibou: this CPU is slow in bfloat16")
    if given.hibou:
        section = compare(full_case(device, hibou=True), "A real slide, Hibou-L in bfloat16")
    else:
        section = gigapixel(given.limit_gib, device)
    print(section.markdown())
    sys.exit(0 if all(goal.met for goal in section.goals) else "A goal was missed.")


if __name__ == "__main__":
    main()
