"""Train SPIDER: `accelerate launch train.py --dataset D --output_dir O`."""

import argparse
from collections.abc import Sequence
from typing import Any, Optional

from spider_tools.data.settings import DataSettings
from spider_tools.flags import add_flags, take
from spider_tools.launching import set_up_logging
from spider_tools.training.run import train
from spider_tools.training.settings import RECIPES, TrainingSettings


def parse_args(argv: Optional[Sequence[str]] = None) -> dict[str, Any]:
    """The recipe's settings, with what the flags say instead."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--recipe",
        choices=RECIPES,
        default="published",
        help="'published': the paper's head on a frozen Hibou-L (default); 'small': a tiny backbone from scratch",
    )
    add_flags(parser.add_argument_group("data"), DataSettings, required=["dataset"], without=["seed"])
    add_flags(parser.add_argument_group("training"), TrainingSettings, required=["output_dir"])
    given = vars(parser.parse_args(argv))
    return RECIPES[given.pop("recipe")] | given


def main(values: dict[str, Any]) -> None:
    """Train and say where the model is."""
    folder = train(take(TrainingSettings, values), take(DataSettings, values))
    if folder is not None:
        print(f"The model is in {folder}")


if __name__ == "__main__":
    set_up_logging()
    main(parse_args())
