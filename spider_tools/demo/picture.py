"""A picture of one region: what the model says of it, and where it looked."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from ..files import replacing
from ..images import to_rgb

if TYPE_CHECKING:
    from ..remote_code import SpiderConfig, SpiderForImageClassification, SpiderOutput, SpiderProcessor


@torch.inference_mode()
def draw_prediction(
    model: "SpiderForImageClassification", processor: "SpiderProcessor", image: Image.Image, path: Path
) -> "SpiderOutput":
    """Write a picture of a region, the probabilities and the context attention; return what the model says of it."""
    inputs = processor(images=image, return_tensors="pt").to(model.device)
    outputs = model(**inputs, output_attentions=True)
    probabilities = outputs.logits[0].float().softmax(dim=-1).cpu()
    side = model.config.context_size
    attention = outputs.context_attention[0].float().cpu().view(side, side)

    figure = Figure(figsize=(14, 4.6), layout="constrained")
    region_axes, bar_axes, attention_axes = figure.subplots(1, 3, width_ratios=[1, 1.1, 1])
    _draw_region(region_axes, image, model.config)
    _draw_probabilities(bar_axes, probabilities, model.config.class_names)
    if outputs.is_familiar is not None and not bool(outputs.is_familiar[0]):
        bar_axes.set_xlabel("unlike what the model has learnt from: a guess", color="#b03000")
    shown = attention_axes.imshow(attention.numpy(), cmap="viridis", vmin=0)
    attention_axes.set_title("how much the centre looks at each patch")
    attention_axes.set_xticks([])
    attention_axes.set_yticks([])
    figure.colorbar(shown, ax=attention_axes, shrink=0.8)
    with replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=110, format="png")
    return outputs


def _draw_region(axes: Any, image: Image.Image, config: "SpiderConfig") -> None:
    """The classified part of an image, with the central patch framed."""
    left, top = ((length - config.region_size) // 2 for length in image.size)
    region = image.crop((left, top, left + config.region_size, top + config.region_size))
    corner = (config.region_size - config.patch_size) / 2
    x, y = (corner + config.patch_size * np.array(side) for side in ([0, 1, 1, 0, 0], [0, 0, 1, 1, 0]))
    axes.imshow(to_rgb(region))
    axes.plot(x, y, color="black", linewidth=2)
    axes.set_title(f"region, {config.region_size} px at {config.mpp} um/px")
    axes.set_axis_off()


def _draw_probabilities(axes: Any, probabilities: torch.Tensor, class_names: Sequence[str]) -> None:
    shown = probabilities.argsort(descending=True)[:8].flip(0)
    names = [textwrap.fill(class_names[i], 24) for i in shown.tolist()]
    axes.barh(names, probabilities[shown].numpy(), color="#4878a8")
    axes.set_xlim(0, 1)
    axes.set_xlabel("probability")
    axes.set_title(f"centre: {class_names[int(probabilities.argmax())]}")
