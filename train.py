"""Train SPIDER: `accelerate launch train.py --dataset D --output_dir O`."""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Optional

from spider_tools.training import TrainingSettings, train


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Read the flags; every hyper-parameter has one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    defaults = {field.name: field.default for field in fields(TrainingSettings)}
    for name, help_text in (
        ("dataset", "folder with metadata.json and images/"),
        ("output_dir", "the trained model's folder, a complete model repository"),
    ):
        parser.add_argument(f"--{name}", type=Path, required=True, help=help_text)
    for name, kind, help_text in (
        ("epochs", int, "passes over the training regions"),
        ("batch_size", int, "regions per process and step"),
        ("learning_rate", float, "peak of the AdamW learning rate"),
        ("weight_decay", float, "of AdamW"),
        ("label_smoothing", float, "of the cross entropy"),
        ("context_dropout", float, "chance that a context patch is masked"),
        ("warmup_epochs", float, "epochs of linear warm-up before the cosine"),
        ("head_dropout", float, "all three dropout rates of the head"),
        ("seed", int, "same seed, same weights, for one process on one machine"),
        ("num_workers", int, "processes that open images"),
    ):
        parser.add_argument(f"--{name}", type=kind, default=defaults[name], help=help_text)
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    """Train and say where the model is."""
    print(f"The model is in {train(TrainingSettings(**vars(args)))}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    main(parse_args())
