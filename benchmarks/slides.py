"""Whole slides, measured: `python benchmarks/slides.py {slide,hibou,gigapixel} --help`.

- `slide`: a slide and a model, our way beside the plain way, in which every region is cut and classified by itself.
- `hibou`: the same with Hibou-L of random weights in bfloat16, the plain way on some of the regions.
- `gigapixel`: a slide of 100,000 x 80,000 px, drawn here, tissue on a few percent, beside a limit of memory.

Every way runs in a process of its own. Memory is the proportional set size of that process and its readers, sampled
twice a second, since sampling slows what it samples; pages of mapped files count. Times leave out starting Python and
loading the model. `seconds` are those of reading, embedding and classifying, which both ways do.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from spider_tools import remote
from spider_tools.slides.lattice import Lattice
from spider_tools.slides.model import SlideModel
from spider_tools.slides.reader import open_slide
from spider_tools.slides.segmentation import SlideTask, segment_slide
from spider_tools.slides.settings import SlideSettings
from spider_tools.slides.tissue import find_tissue
from spider_tools.slides.view import SlideView, model_scale

CLASS_NAMES = [f"Class {number}" for number in range(13)]
TILE = 512


def load(name: str, dtype: str) -> tuple[Any, Any]:
    """A model and its image processor: a folder, or "hibou-L" for the published sizes with random weights."""
    if name != "hibou-L":
        model = remote.model_class().from_pretrained(name)
        return model, remote.image_processor_class().from_pretrained(name)
    torch.manual_seed(0)
    model = remote.model_class()(remote.config_class()(class_names=CLASS_NAMES)).eval()
    return model, remote.image_processor_class()()


def our_way(slide: Path, name: str, dtype: str, folder: Path, regions: int) -> dict[str, Any]:
    model = SlideModel(*load(name, dtype), torch.device("cpu"), dtype)
    settings = SlideSettings(name, folder, dtype=dtype, batch_size=32)
    started = time.perf_counter()
    result = segment_slide(SlideTask(slide, "slide"), model, settings)
    seconds = time.perf_counter() - started
    parts = json.loads((folder / "slide" / "slide.json").read_text())["seconds"]
    return {
        "regions": result.predicted,
        "forwards": result.embedded,
        "seconds": parts["embedding"] + parts["classification"],
        "seconds_with_tissue_pictures_and_tables": seconds,
    }


def plain_way(slide: Path, name: str, dtype: str, folder: Path, regions: int) -> dict[str, Any]:
    """Some of the regions, spread over the tissue."""
    model, image_processor = load(name, dtype)
    model.backbone.to(getattr(torch, dtype))
    opened = open_slide(slide)
    view = SlideView(opened, model_scale(opened, model.config.mpp, 0.02))
    lattice = Lattice.on(view, model.config, model.config.patch_size)
    positions = np.argwhere(find_tissue(opened, lattice).cells(lattice, 0.1))
    positions = positions[np.linspace(0, len(positions) - 1, min(regions, len(positions))).astype(int)]
    started, forwards = time.perf_counter(), 0
    for corner in lattice.corners(positions):
        pixels, mask = cut(view, corner, model.config)
        inputs = image_processor(pixels, return_tensors="pt")
        with torch.no_grad():
            model(inputs["pixel_values"].to(model.dtype), context_mask=mask)
        forwards += int(mask.sum())
    return {"regions": len(positions), "forwards": forwards, "seconds": time.perf_counter() - started}


def cut(view: SlideView, corner: np.ndarray, config: Any) -> tuple[np.ndarray, torch.Tensor]:
    """One region `(1120, 1120, 3)` around a patch, white beyond the slide, and its mask `(1, 25)`."""
    side, margin = config.region_size, config.context_size // 2 * config.patch_size
    start, end = corner - margin, corner - margin + side
    low, high = np.maximum(start, 0), np.minimum(end, view.size)
    pixels = np.full((side, side, 3), 255, dtype=np.uint8)
    inside = view.read(tuple(low.tolist()), tuple((high - low).tolist()))
    pixels[low[1] - start[1] : high[1] - start[1], low[0] - start[0] : high[0] - start[0]] = inside
    first = start[:, None] + np.arange(config.context_size) * config.patch_size
    present = (first >= 0) & (first + config.patch_size <= np.array(view.size)[:, None])
    return pixels, torch.from_numpy(np.outer(present[1], present[0]).reshape(1, -1))


def measured(way: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What a way returns, and its peak memory in MB."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, way, arguments))
    process.start()
    peak = 0
    while process.is_alive():
        peak = max(peak, memory_of(process.pid))
        time.sleep(0.5)
    if process.exitcode:
        raise SystemExit(f"{way.__name__} failed")
    return {**receiver.recv(), "peak_mb": peak / 1e6}


def _send(sender: Any, way: Callable[..., dict[str, Any]], arguments: Any) -> None:
    sender.send(way(*arguments))


def memory_of(pid: int) -> int:
    """Bytes of a process and all that it has started; pages that they share count once."""
    total = 0
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in family:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
    return total


def compare(slide: Path, name: str, dtype: str, plain_regions: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        ours = measured(our_way, slide, name, dtype, Path(folder), 0)
    plain = measured(plain_way, slide, name, dtype, Path(), plain_regions)
    per_region = [way["seconds"] / way["regions"] for way in (plain, ours)]
    forwards = [way["forwards"] / way["regions"] for way in (plain, ours)]
    return {
        "ours": ours,
        "plain": plain,
        "forwards_per_region": {"plain": forwards[0], "ours": forwards[1], "ratio": forwards[0] / forwards[1]},
        "seconds_per_region": {"plain": per_region[0], "ours": per_region[1], "ratio": per_region[0] / per_region[1]},
    }


def gigapixel(width: int, height: int, name: str, limit_gib: float, plain_regions: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gigapixel.tif"
        started = time.perf_counter()
        tissue = draw_gigapixel(path, width, height)
        drawn = {"tissue_share": tissue, "file_mb": path.stat().st_size / 1e6, "draw_s": time.perf_counter() - started}
        result = {"slide": f"{width} x {height} px", **drawn, **compare(path, name, "float32", plain_regions)}
    if result["ours"]["peak_mb"] > limit_gib * 1024**3 / 1e6:
        raise SystemExit(f"{json.dumps(result, indent=2)}\nMore than {limit_gib} GiB of memory.")
    return result


def draw_gigapixel(path: Path, width: int, height: int) -> float:
    """Write a pyramid of 0.25 um/px tile by tile, and return the share of its tiles that hold tissue."""
    from tifffile import TiffWriter

    rng = np.random.default_rng(0)
    kinds = [tissue_tile(rng) for _ in range(48)]
    rows, columns = -(-height // TILE), -(-width // TILE)
    y, x = np.mgrid[:rows, :columns] / np.array([rows, columns]).reshape(2, 1, 1)
    inside = np.zeros((rows, columns), dtype=bool)
    for center_x, center_y, radius_x, radius_y in [
        (0.2, 0.3, 0.09, 0.1),
        (0.55, 0.7, 0.12, 0.07),
        (0.85, 0.2, 0.04, 0.05),
    ]:
        inside |= ((x - center_x) / radius_x) ** 2 + ((y - center_y) / radius_y) ** 2 < 1
    kind_of = np.where(inside, rng.integers(0, len(kinds), inside.shape), -1)
    with TiffWriter(path, bigtiff=True) as file:
        for factor in (1, 4, 16, 64):
            file.write(
                pyramid_tiles(kinds, kind_of, factor, (height // factor, width // factor)),
                shape=(height // factor, width // factor, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="rgb",
                compression="deflate",
                subfiletype=int(factor > 1),
                resolution=(1e4 / 0.25 / factor,) * 2,
                resolutionunit="CENTIMETER",
                metadata=None,
            )
    return float(inside.mean())


def tissue_tile(rng: np.random.Generator) -> np.ndarray:
    """uint8 `(TILE, TILE, 3)`: nuclei-like dots on pink."""
    coarse = rng.integers(0, 60, (TILE // 8, TILE // 8, 3)).repeat(8, axis=0).repeat(8, axis=1)
    dots = rng.random((TILE // 16, TILE // 16, 1)) < rng.uniform(0.05, 0.4)
    dark = dots.repeat(16, axis=0).repeat(16, axis=1) * np.array([110, 70, 40])
    return np.clip(np.array([230, 150, 200]) - coarse - dark, 0, 255).astype(np.uint8)


def pyramid_tiles(kinds: list[np.ndarray], kind_of: np.ndarray, factor: int, shape: tuple[int, int]) -> Iterator[bytes]:
    """Encoded tiles of one level, row by row; those without tissue are encoded once."""
    small = TILE // factor
    glass = np.full((TILE, TILE, 3), 243, dtype=np.uint8)
    reduced = [kind.reshape(small, factor, small, factor, 3).mean(axis=(1, 3)).astype(np.uint8) for kind in kinds]
    encoded = {-1: zlib.compress(glass)} | (
        {number: zlib.compress(kind) for number, kind in enumerate(kinds)} if factor == 1 else {}
    )
    for row in range(-(-shape[0] // TILE)):
        for column in range(-(-shape[1] // TILE)):
            part = kind_of[row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
            if part.size == 1 or (part == -1).all():
                yield encoded[int(part.flat[0])]
                continue
            tile = glass.copy()
            for r, c in np.argwhere(part >= 0):
                tile[r * small : (r + 1) * small, c * small : (c + 1) * small] = reduced[part[r, c]]
            yield zlib.compress(tile)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("slide", "hibou", "gigapixel"))
    root = remote.REPOSITORY_ROOT
    parser.add_argument("--slide", type=Path, default=root.parent / "shared/slides/CMU-1-Small-Region.svs")
    parser.add_argument("--model", default=str(root / "demo/model"), help="of slide and gigapixel")
    parser.add_argument("--plain_regions", type=int, default=100, help="that the plain way classifies at most")
    parser.add_argument("--size", type=int, nargs=2, default=(100_000, 80_000), help="of the gigapixel slide")
    parser.add_argument("--limit_gib", type=float, default=8.0, help="of memory for the gigapixel slide")
    given = parser.parse_args()
    if given.what == "gigapixel":
        result = gigapixel(*given.size, given.model, given.limit_gib, given.plain_regions)
    elif given.what == "hibou":
        result = compare(given.slide, "hibou-L", "bfloat16", given.plain_regions)
    else:
        result = compare(given.slide, given.model, "float32", given.plain_regions)
    print(json.dumps({"threads": torch.get_num_threads(), **result}, indent=2))


if __name__ == "__main__":
    main()
