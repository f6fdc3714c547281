"""The demo itself: draw, train, evaluate, and classify regions that the model has not seen."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

from ..data.loading import load_regions
from ..data.patches import PatchSource
from ..data.settings import DataSettings
from ..files import require_writable
from ..images import DECODING_ERRORS
from ..imported_folder import import_of_folder
from ..processes import deaf_to_interrupts, ending
from ..remote_code import REPOSITORY_ROOT
from ..weights.loading import load_config
from ..weights.reading import locate
from .picture import draw_prediction
from .synthetic import SyntheticSettings, write_dataset

if TYPE_CHECKING:
    from ..remote_code import SpiderForImageClassification, SpiderProcessor

SHOWN = 12  # regions
QUICK = ("--epochs=6", "--batch_size=32")  # enough for drawings


def run_demo(folder: Path, settings: SyntheticSettings) -> None:
    """Draw the data set where it is missing, train, evaluate on the test slides and write `prediction.png`.

    Args:
        folder: Gets `dataset/`, `model/`, `report/` and `prediction.png`.
        settings: Size of the data set; one that is there already is taken as it is.
    """
    require_writable(folder, "the demo's folder")
    dataset, model_folder, report = folder / "dataset", folder / "model", folder / "report"
    if not (dataset / "metadata.json").is_file():
        print(f"Drawing {settings.train_slides + settings.test_slides} synthetic slides ...", flush=True)
        write_dataset(dataset, settings, workers=2)
    shutil.rmtree(model_folder, ignore_errors=True)
    common = [f"--dataset={dataset}", f"--cache_dir={folder / 'cache'}"]
    patch_size = settings.patch_size
    launch("train.py", "--recipe=small", *QUICK, f"--output_dir={model_folder}", f"--patch_size={patch_size}", *common)
    launch("evaluate.py", f"--model={model_folder}", f"--output_dir={report}", "--context_sizes=5,1", *common)

    model, processor = load(str(model_folder))
    data = load_regions(DataSettings(str(dataset), patch_size=patch_size, cache_dir=folder / "cache"))
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
    """Run a script of the repository, in one process.

    Raises:
        ChildProcessError: It did not end well; what is the matter it has said itself.
    """
    with deaf_to_interrupts():  # whose own advice, how to go on, is not that of the demo
        process = subprocess.Popen([sys.executable, str(REPOSITORY_ROOT / script), *flags])
    try:
        code = process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise
    if code != 0:
        raise ChildProcessError(f"{script} {ending(code)}.")


def classify_image(path: Path, model_folder: str) -> None:
    """Print the probabilities of one image and write `<name>.prediction.png` beside it.

    Raises:
        ValueError: The model is no SPIDER model, or the image cannot be used; the message names it.
        OSError: There is no such model or image.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no image {path}.")
    config = load_config(model_folder)  # which refuses in words what the Auto classes do not
    model, processor = load(model_folder)
    picture = path.with_name(path.stem + ".prediction.png")
    try:
        with Image.open(path) as image:
            outputs = draw_prediction(model, processor, image, picture)
    except DECODING_ERRORS as error:
        raise ValueError(f"{path}: {error}") from error
    probabilities = outputs.logits[0].float().softmax(dim=-1)
    for index in probabilities.argsort(descending=True).tolist():
        print(f"{probabilities[index]:6.1%}  {model.config.id2label[index]}")
    if outputs.is_familiar is not None and not bool(outputs.is_familiar[0]):
        print("The region is unlike what the model has learnt from: its class is a guess.")
    imported = import_of_folder(config, locate(model_folder))
    if imported is not None:
        print(imported["sentence"])
    print(f"picture: {picture}")


def load(model_folder: str) -> tuple["SpiderForImageClassification", "SpiderProcessor"]:
    """Model and processor, through the Auto classes."""
    model = AutoModel.from_pretrained(model_folder, trust_remote_code=True)
    return model, AutoProcessor.from_pretrained(model_folder, trust_remote_code=True)


def assemble_region(patches: PatchSource, names: Sequence[str]) -> Image.Image:
    """The region that a square grid of whole patches was cut from."""
    side = math.isqrt(len(names))
    rows = [np.hstack([patches.read(name) for name in names[i : i + side]]) for i in range(0, len(names), side)]
    return Image.fromarray(np.vstack(rows))
