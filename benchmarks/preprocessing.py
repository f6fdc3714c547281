"""Regions of 1120 px to normalised patches: a PIL image, an array, and a batch of arrays, all uint8.

Ours is beside what others do, which is 25 crops through a standard image processor of Transformers, one call each or
one call for all, and `unfold`; and beside what no way can avoid: to copy the bytes, to widen the copy to float32 in new
memory and to normalise it there. That copy is not tiled and takes the bytes for three planes, its fastest layout; so
its values are as many as ours, not the same. As bytes, ours leaves widening and normalising to the model. On a GPU
every way leaves its patches there; all but the crops send bytes.
"""

import gc
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from spider_tools import remote_code

from .measuring import Goal, Options, Section, Way, alternate, comparison, peak_bytes
from .regions import PATCH, REGION, SIDE, cut, stock_processor, tissue

CROPS = ("25 crops, a call each", "25 crops, one call")
COPIES = ("copy and normalise", "copy and normalise, huge pages")
TOLERANCE = 1e-5
NOTES = (
    "The crops' result is one tensor, as ours is; the goal is for the faster of the two. The copies write into new "
    "memory as any function that returns a tensor does, which the kernel clears page by page: into pages of PyTorch's "
    "choice, or huge ones, of which NumPy asks Linux for some, as ours does; the goal is for the faster of the two. "
    "In memory that is kept, without new pages, they show the limit of a function that returns none. Bytes are what "
    "do_rescale=False, do_normalize=False gives, for the model to normalise on its device."
)
BYTES = {"do_rescale": False, "do_normalize": False}


@dataclass(frozen=True)
class Regions:
    """Regions as a user holds them.

    Attributes:
        title: What they are.
        content: A PIL image, or uint8 `(1120, 1120, 3)` or `(B, 1120, 1120, 3)`.
        device: Where the patches are wanted.
    """

    title: str
    content: Any
    device: torch.device

    def pixels(self) -> torch.Tensor:
        """Uint8 `(B, 1120, 1120, 3)` on the device; the array itself where there is one, on a CPU."""
        array = np.array(self.content) if isinstance(self.content, Image.Image) else self.content
        pixels = torch.from_numpy(array).view(-1, REGION, REGION, 3)
        return pixels if self.device.type == "cpu" else pixels.pin_memory().to(self.device, non_blocking=True)

    def at_hand(self) -> Any:
        """What ours is given: the content itself, on a GPU its pixels there."""
        return self.content if self.device.type == "cpu" else self.pixels()

    def copied(self) -> torch.Tensor:
        """The pixels, always copied once."""
        is_array = isinstance(self.content, np.ndarray)
        return self.pixels().clone() if is_array and self.device.type == "cpu" else self.pixels()

    def crops(self) -> list[Any]:
        """All patches, region by region, row by row."""
        if isinstance(self.content, Image.Image):
            return cut(self.content, SIDE)
        corners = [(row * PATCH, column * PATCH) for row in range(SIDE) for column in range(SIDE)]
        regions = self.content.reshape(-1, REGION, REGION, 3)
        return [region[y : y + PATCH, x : x + PATCH] for region in regions for y, x in corners]


def measure(options: Options) -> list[Section]:
    """Memory, then time, for every kind of input."""
    images = tissue(2 if options.quick else 8 if options.device.type == "cpu" else 32)
    arrays = np.stack([np.asarray(image) for image in images])
    inputs = [
        Regions("A PIL image", images[0], options.device),
        Regions("An array", arrays[0], options.device),
        Regions(f"A batch of {len(arrays)} arrays", arrays, options.device),
    ]
    used = memory(inputs[-1], len(arrays))  # first, since memory that was freed may be used again unseen
    return [*(speed(regions, options) for regions in inputs), used]


def speed(regions: Regions, options: Options) -> Section:
    """Every way with the same regions, in turn."""
    count = 1 if np.ndim(regions.content) < 4 else len(regions.content)
    ways = ways_of(regions)
    check(ways)
    rounds = 1 if options.quick else 25 if count == 1 else 7
    seconds = alternate(ways, rounds, options.device, warm_up=0 if options.quick else 3)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    crops, copy = (min(names, key=lambda name: medians.get(name, float("inf"))) for names in (CROPS, COPIES))
    goals = [
        Goal(f"{regions.title}: ours, times {crops}", medians[crops] / medians["ours"], 15),
        Goal(f"{regions.title}: time of ours, as multiple of {copy}", medians["ours"] / medians[copy], 1.5, False),
        Goal(f"{regions.title}: ours as bytes, times {crops}", medians[crops] / medians["ours, bytes"], 15),
        Goal(f"{regions.title}: bytes, as multiple of {copy}", medians["ours, bytes"] / medians[copy], 1.5, False),
    ]
    return Section(regions.title, NOTES, comparison(seconds, count, "region", crops), [] if options.quick else goals)


def ways_of(regions: Regions) -> dict[str, Way]:
    """The crops, unfold, ours, and the copies."""
    processor, stock, device = remote_code.image_processor_class()(), stock_processor(), regions.device
    mean, std = (
        torch.tensor(values, device=device).view(3, 1, 1) for values in (processor.image_mean, processor.image_std)
    )
    ours = partial(processor, return_tensors="pt")
    ways: dict[str, Way] = {
        CROPS[0]: lambda: torch.cat([_patches(stock, crop) for crop in regions.crops()]).to(device),
        CROPS[1]: lambda: _patches(stock, regions.crops()).to(device),
        "unfold": lambda: unfolded(regions.pixels(), mean, std),
        "ours": lambda: ours(regions.at_hand())["pixel_values"],
        "ours, bytes": lambda: ours(regions.at_hand(), **BYTES)["pixel_values"],
    }
    if isinstance(regions.content, np.ndarray):
        planes = regions.pixels().permute(0, 3, 1, 2).contiguous()
        ways["ours, channels first"] = lambda: ours(planes)["pixel_values"]
        ways["ours, bytes, channels first"] = lambda: ours(planes, **BYTES)["pixel_values"]
    kept = torch.empty(regions.pixels().numel(), device=device)
    rooms: dict[str, Callable[[int], torch.Tensor]] = {
        COPIES[0]: partial(torch.empty, device=device),
        COPIES[1]: lambda size: torch.from_numpy(np.empty(size, dtype=np.float32)),
        "copy and normalise, in memory that is kept": lambda size: kept,
    }
    if device.type != "cpu":
        del rooms[COPIES[1]]
    bounds = {name: partial(copy_and_normalise, regions, mean * 255, std * 255, room) for name, room in rooms.items()}
    return {**ways, **bounds, "copy of the bytes": regions.copied}


def _patches(stock: Any, crops: Any) -> torch.Tensor:
    return stock(crops, return_tensors="pt")["pixel_values"]


def unfolded(pixels: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Patches `(B, 25, 3, 224, 224)`: normalise, then cut."""
    normalised = pixels.permute(0, 3, 1, 2).float().div_(255).sub_(mean).div_(std)
    tiles = normalised.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)
    return tiles.permute(0, 2, 3, 1, 4, 5).reshape(len(pixels), SIDE**2, 3, PATCH, PATCH)


def copy_and_normalise(
    regions: Regions, shift: torch.Tensor, scale: torch.Tensor, room: Callable[[int], torch.Tensor]
) -> torch.Tensor:
    """As many values as there are bytes, in the room for so many floats."""
    planes = regions.copied().view(-1, 3, REGION, REGION)
    return room(planes.numel()).view(planes.shape).copy_(planes).sub_(shift).div_(scale)


def check(ways: dict[str, Way]) -> None:
    """Refuse to compare ways whose patches differ by more than rounding."""
    expected = ways["ours"]().view(-1, 3, PATCH, PATCH)
    for name in (name for name in ways if not name.startswith("copy")):
        patches = ways[name]().view(expected.shape)
        if patches.dtype == torch.uint8:
            stated = remote_code.image_processor_class()()
            mean, std = (torch.tensor(values).view(3, 1, 1) for values in (stated.image_mean, stated.image_std))
            patches = (patches.cpu() / 255 - mean) / std
        difference = (patches - expected.to(patches.device)).abs().max().item()
        if not difference < TOLERANCE:
            raise RuntimeError(f"The patches of {name!r} differ from ours by {difference:.2g}.")


def memory(regions: Regions, count: int) -> Section:
    """Peak memory of a batch, beyond what was in use before, for every way that cuts patches."""
    ways = ways_of(regions)
    result = ways["ours"]().numel() * 4
    rows = []
    for name in (*CROPS[::-1], "unfold", "ours", "ours, bytes"):
        gc.collect()
        peak = peak_bytes(ways[name], regions.device)
        rows.append({"way": name, "MB per region": peak / count / 1e6, "times the patches": peak / result})
    notes = (
        f"Peak beyond what was in use before, of {regions.title[0].lower()}{regions.title[1:]}; the patches themselves "
        f"are {result / count / 1e6:.1f} MB per region. On a CPU it is the process's memory, else the GPU's."
    )
    return Section("Memory", notes, rows)
