"""The demo: draw tissue, train on it, and show what the model says of regions that it has not seen.

`python -m spider_tools.demo` runs all of it; with `--image` it classifies one region of the user's instead.
"""

import argparse
import json
import math
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from transformers import AutoModel, AutoProcessor

from ..data.loading import load_regions
from ..data.patches import PatchSource
from ..data.settings import DataSettings
from ..files import replacing
from ..remote_code import REPOSITORY_ROOT
from .synthetic import SyntheticSettings, write_dataset

FOLDER = REPOSITORY_ROOT / "demo"
SHOWN = 12  # regions
QUICK = ("--epochs=6", "--batch_size=32")  # enough for drawings


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the demo, or classify the image of `--image` with the model of `--model`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", type=Path, help="a region of 1120x1120 px at 0.5 um/px, or larger")
    parser.add_argument("--model", help="folder or Hub id of a SPIDER model; by default the demo's own")
    args = parser.parse_args(argv)
    if args.image is not None:
        classify_image(args.image, args.model or str(FOLDER / "model"))
    elif args.model is not None:
        parser.error("--model goes with --image; the demo itself trains its own model.")
    else:
        run_demo(FOLDER, SyntheticSettings())


def run_demo(folder: Path, settings: SyntheticSettings) -> None:
    """Draw the data set where it is missing, train, evaluate on the test slides and write `prediction.png`.

    Args:
        folder: Gets `dataset/`, `model/`, `report/` and `prediction.png`.
        settings: Size of the data set; one that is there already is taken as it is.
    """
    dataset, model_folder, report = folder / "dataset", folder / "model", folder / "report"
    if not (dataset / "metadata.json").is_file():
        print(f"Drawing {settings.train_slides + settings.test_slides} synthetic slides ...", flush=True)
        write_dataset(dataset, settings, workers=2)
    shutil.rmtree(model_folder, ignore_errors=True)
    common = [f"--dataset={dataset}", f"--cache_dir={folder / 'cache'}"]
    launch("train.py", "--recipe=small", *QUICK, f"--output_dir={model_folder}", *common)
    launch("evaluate.py", f"--model={model_folder}", f"--output_dir={report}", "--context_sizes=5,1", *common)

    model, processor = load(str(model_folder))
    data = load_regions(DataSettings(str(dataset), cache_dir=folder / "cache"))
    test = data.splits["test"]
    shown = range(0, len(test), max(1, len(test) // SHOWN))
    images = [assemble_region(data.patches, test[i]["patches"]) for i in shown]
    with torch.inference_mode():
        outputs = model(**processor(images=images, return_tensors="pt"))
    print("\nUnseen regions (slide, true class -> predicted class):")
    for i, name in zip(shown, outputs.predicted_class_names):
        print(f"  {test[i]['slide_id']}  {test.features['label'].int2str(test[i]['label']):>15} -> {name}")
    sizes = json.loads((report / "context_ablation.json").read_text(encoding="utf-8"))["context_sizes"]
    print(f"\n{len(test)} regions of {len(test.unique('slide_id'))} slides held out of training")
    print(f"accuracy with context:    {sizes['5']['metrics']['accuracy']['value']:.3f}")
    print(f"accuracy without context: {sizes['1']['metrics']['accuracy']['value']:.3f}")
    draw_prediction(model, processor, images[len(images) // 2], folder / "prediction.png")
    print(f"model:   {model_folder}\nreport:  {report}\npicture: {folder / 'prediction.png'}")


def launch(script: str, *flags: str) -> None:
    """Run a script of the repository through `accelerate launch`, in one process."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes=1", "--num_machines=1"]
    launcher += ["--mixed_precision=no", "--dynamo_backend=no"]
    subprocess.run([*launcher, str(REPOSITORY_ROOT / script), *flags], check=True)


def classify_image(path: Path, model_folder: str) -> None:
    """Print the probabilities of one image and write `<name>.prediction.png` beside it.

    Raises:
        SystemExit: The model or the image cannot be used; the message says why.
    """
    if not path.is_file():
        raise SystemExit(f"There is no image {path}.")
    if model_folder == str(FOLDER / "model") and not FOLDER.joinpath("model", "config.json").is_file():
        raise SystemExit("The demo model is not there yet: run `make demo` once, or name one with MODEL=.")
    model, processor = load(model_folder)
    picture = path.with_name(path.stem + ".prediction.png")
    try:
        with Image.open(path) as image:
            probabilities = draw_prediction(model, processor, image, picture)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path}: {error}") from error
    for index in probabilities.argsort(descending=True).tolist():
        print(f"{probabilities[index]:6.1%}  {model.config.id2label[index]}")
    print(f"picture: {picture}")


def load(model_folder: str) -> tuple[Any, Any]:
    """Model and processor, through the Auto classes."""
    model = AutoModel.from_pretrained(model_folder, trust_remote_code=True)
    return model, AutoProcessor.from_pretrained(model_folder, trust_remote_code=True)


def assemble_region(patches: PatchSource, names: Sequence[str]) -> Image.Image:
    """The region that a square grid of whole patches was cut from."""
    side = math.isqrt(len(names))
    rows = [np.hstack([patches.read(name) for name in names[i : i + side]]) for i in range(0, len(names), side)]
    return Image.fromarray(np.vstack(rows))


@torch.inference_mode()
def draw_prediction(model: Any, processor: Any, image: Image.Image, path: Path) -> torch.Tensor:
    """Write a picture of a region, the probabilities and the context attention; return the probabilities `(K,)`."""
    inputs = processor(images=image, return_tensors="pt").to(model.device)
    outputs = model(**inputs, output_attentions=True)
    probabilities = outputs.logits[0].float().softmax(dim=-1).cpu()
    side = model.config.context_size
    attention = outputs.context_attention[0].float().cpu().view(side, side)

    figure = Figure(figsize=(14, 4.6), layout="constrained")
    region_axes, bar_axes, attention_axes = figure.subplots(1, 3, width_ratios=[1, 1.1, 1])
    _draw_region(region_axes, image, model.config)
    _draw_probabilities(bar_axes, probabilities, model.config.class_names)
    shown = attention_axes.imshow(attention.numpy(), cmap="viridis", vmin=0)
    attention_axes.set_title("how much the centre looks at each patch")
    attention_axes.set_xticks([])
    attention_axes.set_yticks([])
    figure.colorbar(shown, ax=attention_axes, shrink=0.8)
    with replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=110, format="png")
    return probabilities


def _draw_region(axes: Any, image: Image.Image, config: Any) -> None:
    """The classified part of an image, with the central patch framed."""
    left, top = ((length - config.region_size) // 2 for length in image.size)
    region = image.convert("RGB").crop((left, top, left + config.region_size, top + config.region_size))
    corner = (config.region_size - config.patch_size) / 2
    x, y = (corner + config.patch_size * np.array(side) for side in ([0, 1, 1, 0, 0], [0, 0, 1, 1, 0]))
    axes.imshow(region)
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


if __name__ == "__main__":
    main()
