"""From regions of 1120 px, as PIL images, to the names of their classes.

Ours is `processor` and `model(**inputs)`. The naive loop takes region after region, as the models were published: 25
crops through a standard image processor of Transformers, a plain DINOv2 for the 25 of them at a time, the head. Beside
that: regions that overlap, with each patch embedded once (`embed_patches`, `classify_grid`); and the memory that a
region takes, which `backbone_batch_size` is to bound.
"""

import copy
import gc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from spider_tools import remote_code

from .measuring import Goal, Options, Section, alternate, comparison, peak_bytes
from .models import SMALL, PlainDinov2, random_model
from .own_process import in_own_process

PATCH, SIDE = 224, 5
REGION = PATCH * SIDE
# Without gradients the memory of a forward pass is that of its widest layer, whatever the number of layers.
ONE_LAYER_OF_HIBOU_L = {"hidden_size": 1024, "num_hidden_layers": 1, "num_attention_heads": 16, "patch_size": 14}
UNBOUNDED = 10**6
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 0.05}


@dataclass(frozen=True)
class Answer:
    """What a way says about regions: a name and logits, float32 `(num_labels,)` on the CPU, of each."""

    names: list[str]
    logits: torch.Tensor


@dataclass(frozen=True)
class Ours:
    """Our way, with a model in its dtype and on its device."""

    model: Any
    processor: Any

    def __call__(self, images: list[Image.Image]) -> Answer:
        """Name all regions in one call."""
        with torch.inference_mode():
            output = self.model(**self.inputs(images))
        return Answer(output.predicted_class_names, output.logits.float().cpu())

    def inputs(self, images: list[Image.Image]) -> Any:
        """What the processor makes of images, on the model's device: bytes, which the model normalises there."""
        inputs = self.processor(images=images, return_tensors="pt", do_rescale=False, do_normalize=False)
        if self.model.device.type == "cpu":
            return inputs
        return {name: tensor.pin_memory().to(self.model.device, non_blocking=True) for name, tensor in inputs.items()}


@dataclass(frozen=True)
class Naive:
    """The loop over regions, so many patches at a time in the backbone; published are the 25 of a region."""

    model: Any
    stock_processor: Any
    patches_at_once: int = SIDE**2

    def __call__(self, images: list[Image.Image]) -> Answer:
        """Name region by region."""
        answers = [self._name(image) for image in images]
        return Answer([name for name, _ in answers], torch.stack([logits for _, logits in answers]))

    def _name(self, image: Image.Image) -> tuple[str, torch.Tensor]:
        backbone = PlainDinov2(self.model.backbone)
        pixels = self.stock_processor(cut(image, SIDE), return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            pixels = pixels.to(self.model.device, self.model.dtype)
            embeddings = torch.cat([backbone(part) for part in pixels.split(self.patches_at_once)])
            logits = self.model.classify_grid(embeddings[None])[0]
        return self.model.config.class_names[int(logits.argmax())], logits.float().cpu()


def cut(image: Image.Image, side: int) -> list[Image.Image]:
    """The patches of an image of `side` patches each way, row by row."""
    corners = [(column * PATCH, row * PATCH) for row in range(side) for column in range(side)]
    return [image.crop((x, y, x + PATCH, y + PATCH)) for x, y in corners]


def stock_processor() -> Any:
    """A standard image processor of Transformers with our normalisation, for patches that are cut already."""
    from transformers import BitImageProcessor

    ours = remote_code.image_processor_class()()
    return BitImageProcessor(
        do_resize=False, do_center_crop=False, image_mean=ours.image_mean, image_std=ours.image_std
    )


def tissue(count: int, side: int = SIDE) -> list[Image.Image]:
    """Images of `side` patches each way, textured, every patch of a colour of its own."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(count):
        colours = rng.integers(60, 230, (side, 1, side, 1, 3))
        blocks = colours + rng.integers(-40, 26, (side, 28, side, 28, 3))
        pixels = blocks.reshape(side * 28, side * 28, 3).astype(np.uint8).repeat(8, axis=0).repeat(8, axis=1)
        images.append(Image.fromarray(pixels))
    return images


def measure(options: Options) -> list[Section]:
    """Speed by batch, speed where regions overlap, memory by batch."""
    on_gpu = options.device.type == "cuda"
    sections = []
    torch.backends.cudnn.allow_tf32 = False  # float32 is to be float32
    if on_gpu and not options.quick:
        model = random_model(None, options.device)
        sections.append(speed(options, "Hibou-L", gpu_ways(model), [1, 2, 4, 8, 16, 32, 64]))
        model = model.bfloat16()
    else:
        model = random_model(SMALL, options.device)
        batches = [1] if options.quick else [1, 2, 4, 8, 16, 32, 64]
        ways = cpu_ways(model, options.bfloat16)
        sections.append(speed(options, "a backbone of two narrow layers", ways, batches))
    sections.append(overlap(options, model))
    sections.append(memory(options))
    if not on_gpu and not options.quick:
        sections.insert(1, speed(options, "Hibou-L", cpu_ways(random_model(), options.bfloat16), [1]))
    return sections


def cpu_ways(model: Any, bfloat16: bool = True) -> dict[str, Any]:
    """The naive loop, the first, and ours."""
    processor = remote_code.processor_class()(remote_code.image_processor_class()())
    ways = {"the naive loop": Naive(model, stock_processor()), "ours, float32": Ours(model, processor)}
    if bfloat16:
        ways["ours, bfloat16"] = Ours(copy.deepcopy(model).bfloat16(), processor)
    return ways


def gpu_ways(model: Any) -> dict[str, Any]:
    """As on a CPU, and the naive loop in bfloat16, and our backbone compiled."""
    ways = cpu_ways(model)
    half = ways["ours, bfloat16"]
    compiled = copy.deepcopy(half.model)
    # Every batch is a multiple of it, so that there is one shape to compile.
    compiled.config.backbone_batch_size = SIDE**2
    compiled.backbone.compile(dynamic=False)
    return {
        **ways,
        "the naive loop, bfloat16": Naive(half.model, stock_processor()),
        "ours, bfloat16, compiled": Ours(compiled, half.processor),
    }


def speed(options: Options, backbone: str, ways: dict[str, Any], batches: list[int]) -> Section:
    """Time of batches, all ways in turn."""
    baseline = next(iter(ways))
    rows, drift = [], 0.0
    for batch in batches:
        images = tissue(batch)
        answers: dict[str, Answer] = {}
        # On a CPU Hibou-L takes half a minute for a region, and large batches long enough: their first run counts.
        warm_up = options.device.type == "cuda" or (batch < 16 and batches != [1])
        if warm_up:
            answers |= {name: way(images) for name, way in ways.items()}
            drift = max(drift, agree(answers, ways, baseline))
        timed = {name: partial(_remember, answers, name, way, images) for name, way in ways.items()}
        rounds = 1 if options.quick else max(3, 12 // batch) if warm_up else 2
        seconds = alternate(timed, rounds, options.device, warm_up=0)
        drift = max(drift, agree(answers, ways, baseline))
        rows += [{"regions at once": batch, **row} for row in comparison(seconds, batch, "region", baseline)]
    notes = (
        f"{backbone[0].upper()}{backbone[1:]}, random weights; from PIL images to `predicted_class_names`. A batch "
        "takes as many times the ms as it has regions. The naive loop embeds 25 patches at a time, in float32 where "
        "nothing else is said. In float32 all names are the same and logits within "
        f"{TOLERANCES[torch.float32]:g}; no way is off by more than {drift:.2g}.{options.left_out}"
    )
    return Section(f"Regions through {backbone}", notes, rows)


def _remember(answers: dict[str, Answer], name: str, way: Callable[..., Answer], images: list[Image.Image]) -> None:
    answers[name] = way(images)


def agree(answers: dict[str, Answer], ways: dict[str, Any], baseline: str) -> float:
    """Raise if a way differs from the baseline by more than rounding; returns how far the logits are off."""
    reference, furthest = answers[baseline], 0.0
    for name, answer in answers.items():
        dtype = ways[name].model.dtype
        off = float((answer.logits - reference.logits).abs().max())
        if not off <= TOLERANCES[dtype] or (dtype == torch.float32 and answer.names != reference.names):
            raise RuntimeError(f"{name} is off by {off:g}: {answer.names}, {baseline} gives {reference.names}.")
        furthest = max(furthest, off)
    return furthest


def overlap(options: Options, model: Any) -> Section:
    """Regions on a lattice whose stride is a patch: each has 24 of its 25 patches in common with others."""
    lattice = 3 if options.quick else 8
    slide = tissue(1, lattice + SIDE - 1)[0]
    ours = Ours(model, remote_code.processor_class()(remote_code.image_processor_class()()))
    patches = Ours(model, remote_code.processor_class()(remote_code.image_processor_class()(context_size=1)))
    naive = Naive(model, stock_processor())
    corners = [(column * PATCH, row * PATCH) for row in range(lattice) for column in range(lattice)]

    def regions() -> list[Image.Image]:
        return [slide.crop((x, y, x + REGION, y + REGION)) for x, y in corners]

    ways = {
        "the naive loop": lambda: naive(regions()),
        "ours, region by region": lambda: ours(regions()),
        "ours, each patch once": lambda: each_patch_once(patches, slide, lattice),
    }
    answers = {name: way() for name, way in ways.items()}
    drift = agree(answers, dict(zip(ways, (naive, ours, patches))), next(iter(ways)))
    seconds = alternate(ways, 1 if options.quick else 2, options.device, warm_up=0)
    rows = comparison(seconds, lattice**2, "region", next(iter(ways)))
    embedded = [lattice**2 * SIDE**2] * 2 + [(lattice + SIDE - 1) ** 2]
    rows = [{"way": row["way"], "patches embedded": count, **row} for row, count in zip(rows, embedded)]
    saved = embedded[0] / embedded[-1]
    gain = rows[-1]["regions/s"] / rows[1]["regions/s"]
    dtype = str(model.dtype).removeprefix("torch.")
    notes = (
        f"A lattice of {lattice}x{lattice} regions, {PATCH} px apart, on one image in memory, {dtype}. Embedding each "
        f"patch once takes {saved:.3g} times fewer patches. Logits are off by at most {drift:.2g}."
    )
    goal = Goal("Gain over region by region, as a share of the patches that are saved", gain / saved, 0.8)
    return Section("Regions that overlap", notes, rows, [goal])


def each_patch_once(patches: Ours, slide: Image.Image, lattice: int) -> Answer:
    """What a user does with `embed_patches` and `classify_grid`; `patches` has a processor with context_size 1."""
    side = lattice + SIDE - 1
    model = patches.model
    with torch.inference_mode():
        pixels = patches.inputs(cut(slide, side))["pixel_values"]
        grid = model.embed_patches(pixels[:, 0]).view(side, side, -1)
        windows = grid.unfold(0, SIDE, 1).unfold(1, SIDE, 1).permute(0, 1, 3, 4, 2)
        logits = model.classify_grid(windows.reshape(lattice**2, SIDE**2, -1))
    names = [model.config.class_names[index] for index in logits.argmax(dim=-1).tolist()]
    return Answer(names, logits.float().cpu())


def memory(options: Options) -> Section:
    """Peak memory of small and larger batches, each in a process of its own, and what one more region takes."""
    few, many = (1, 2) if options.quick else (4, 8)
    bounds = {"ours": 64, "ours, backbone_batch_size unbounded": UNBOUNDED, "the naive loop": 0}
    if options.device.type == "cpu":  # where the model takes few at once whatever the bound
        del bounds["ours, backbone_batch_size unbounded"]
    rows = []
    for way, bound in list(bounds.items())[: 1 if options.quick else None]:
        peaks = [in_own_process(_peak, bound, batch, options) for batch in (few, many)]
        slope = (peaks[1] - peaks[0]) / (many - few)
        sizes = {f"MB for {batch} regions": peak / 1e6 for batch, peak in zip((few, many), peaks)}
        rows.append({"way": way, **sizes, "MB per further region": slope / 1e6})
    pixels = SIDE**2 * 3 * PATCH**2 * 4 / 1e6
    notes = (
        "One layer of Hibou-L's width in float32: without gradients, further layers take no more than their weights. "
        "Peak memory from the images to the names, beyond what was in use before; on a CPU the process's, else the "
        f"GPU's. A region's pixels would be {pixels:.1f} MB of it in float32; ours takes them as bytes, a quarter."
    )
    slope = rows[0]["MB per further region"] / pixels
    goal = Goal("Memory of a further region of ours, as multiple of its pixels in float32", slope, 1.5, at_least=False)
    return Section("Memory", notes, rows, [] if options.quick else [goal])


def _peak(bound: int, batch: int, options: Options) -> float:
    """Bytes that one batch takes at most, with `backbone_batch_size=bound`, or in the naive loop if that is 0."""
    model = random_model(SMALL if options.quick else ONE_LAYER_OF_HIBOU_L, options.device)
    images = tissue(batch)
    way: Any = Naive(model, stock_processor())
    if bound:
        model.config.backbone_batch_size = bound
        way = Ours(model, remote_code.processor_class()(remote_code.image_processor_class()()))
    with torch.inference_mode():
        model.embed_patches(torch.zeros(1, 3, PATCH, PATCH, device=options.device))
    gc.collect()
    return peak_bytes(lambda: way(images), options.device)
