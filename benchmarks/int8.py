"""The backbone in int8 beside bfloat16 and float32: patches/s of Hibou-L, and what it changes in logits and accuracy.

The accuracy is that of the demo's model on its test slides, so `make demo` goes first.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from spider_tools import remote_code
from spider_tools.data.settings import DataSettings
from spider_tools.demo.synthetic import CLASS_NAMES, SyntheticSettings, write_dataset
from spider_tools.embeddings.embedder import PatchEmbedder
from spider_tools.evaluation.run import evaluate_model
from spider_tools.evaluation.settings import EvaluationSettings

from .measuring import Goal, Options, Section, alternate, comparison
from .models import SMALL, random_model

DEMO = remote_code.REPOSITORY_ROOT / "demo"
WAYS = {
    "float32": ("float32", False),
    "bfloat16": ("bfloat16", False),
    "bfloat16, compiled": ("bfloat16", True),
    "int8 (always compiled)": ("int8", True),
}


def measure(options: Options) -> list[Section]:
    if options.device.type != "cpu":
        raise SystemExit("int8 is for CPUs.")
    return [speed_and_drift(options), accuracy(options)]


@torch.no_grad()
def speed_and_drift(options: Options) -> Section:
    """Patches/s, and how far embeddings and logits are from those of float32."""
    model = random_model(SMALL if options.quick else None)
    image_processor = remote_code.image_processor_class()()
    patches = torch.randint(0, 256, (8, 224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    grid = torch.randint(0, len(patches), (64, 25), generator=torch.Generator().manual_seed(2))
    ways = {name: way for name, way in WAYS.items() if options.bfloat16 or way[0] != "bfloat16"}
    embedders = {name: PatchEmbedder(model, image_processor, options.device, *way) for name, way in ways.items()}
    embeddings = {name: embed(patches).float() for name, embed in embedders.items()}
    logits = {name: model.classify_grid(embedding[grid]) for name, embedding in embeddings.items()}
    seconds = alternate(
        {name: lambda embed=embed: embed(patches) for name, embed in embedders.items()},
        2 if options.quick else 3,
        options.device,
    )
    baseline = "bfloat16, compiled" if options.bfloat16 else "float32"
    rows = comparison(seconds, len(patches), "patch", baseline)
    for row in rows:
        row["drift of embeddings"] = drift(embeddings[row["way"]], embeddings["float32"])
        row["drift of logits"] = drift(logits[row["way"]], logits["float32"])
    faster = next(row[f"times {baseline}"] for row in rows if row["way"].startswith("int8"))
    notes = (
        f"{'A tiny backbone' if options.quick else 'Hibou-L'} and a head, of random weights, 8 patches at once, from "
        "bytes to embeddings. Drift is the root mean square of the difference from float32, as a share of the standard "
        f"deviation; for random weights, which no training has made robust.{options.left_out}"
    )
    return Section("Speed and drift", notes, rows, [Goal(f"int8, times {baseline}", faster, 1.0)])


def drift(values: torch.Tensor, exact: torch.Tensor) -> float:
    """Root mean square of the difference, as a share of the standard deviation over the batch."""
    return ((values - exact).pow(2).mean().sqrt() / (exact - exact.mean(dim=0)).pow(2).mean().sqrt()).item()


def accuracy(options: Options) -> Section:
    """The demo's accuracy with its embeddings in every precision."""
    with tempfile.TemporaryDirectory() as folder:
        model, dataset = _quick_demo(Path(folder)) if options.quick else (DEMO / "model", DEMO / "dataset")
        if not (model / "config.json").is_file():
            raise SystemExit("There is no demo model: run `make demo` first.")
        data = DataSettings(str(dataset), cache_dir=Path(folder, "cache"), skip_bad_records=options.quick)
        rows: list[dict[str, Any]] = []
        exact = np.empty(0)
        for precision in ("float32", "bfloat16", "int8"):
            report = Path(folder, precision)
            settings = EvaluationSettings(
                str(model),
                report,
                embedding_dtype=precision,
                embedding_store=Path(folder, "store"),
                num_workers=0,
                resamples=10,
                allow_subset=options.quick,
            )
            results = evaluate_model(settings, data)
            probabilities = _probabilities(report / "predictions.parquet")
            exact = exact if len(exact) else probabilities
            rows.append(
                {
                    "backbone in": precision,
                    "regions": len(probabilities),
                    "accuracy": results["metrics"]["accuracy"]["value"],
                    "other class than float32": int((probabilities.argmax(1) != exact.argmax(1)).sum()),
                    "largest change of a probability": float(np.abs(probabilities - exact).max()),
                }
            )
    return Section("Accuracy of the demo's model", "Regions of slides held out of training.", rows)


def _probabilities(path: Path) -> np.ndarray:
    """float `(regions, classes)` of a report."""
    table = pq.read_table(path)
    columns = [name for name in table.column_names if name.startswith("probability")]
    return np.stack([table[name].to_numpy() for name in columns], axis=1)


def _quick_demo(folder: Path) -> tuple[Path, Path]:
    """A model of random weights and a data set of two drawn slides."""
    dataset, saved = folder / "dataset", folder / "model"
    write_dataset(dataset, SyntheticSettings(train_slides=2, test_slides=1, lattice=9))
    config = remote_code.config_class()(class_names=list(CLASS_NAMES), backbone_config={**SMALL, "image_size": 224})
    remote_code.model_class()(config).save_pretrained(saved)
    remote_code.image_processor_class()().save_pretrained(saved)
    return saved, dataset
