"""Train SPIDER: `accelerate launch train.py --dataset D --output_dir O`."""

import argparse
from collections.abc import Sequence
from typing import Any, Optional

from spider_tools.data.settings import DataSettings
from spider_tools.flags import add_flags, take
from spider_tools.scripts import ScriptParser, run_script
from spider_tools.training.settings import RECIPES, TrainingSettings, recipe_settings

KEPT = (
    "Embeddings and checkpoints saved so far are kept: --resume_from_checkpoint latest goes on from the last "
    "checkpoint; where there is none yet, the same command goes on from the embeddings."
)


def parse_args(argv: Optional[Sequence[str]] = None) -> dict[str, Any]:
    """The recipe's settings, with what the settings file and the flags say instead."""
    classes = (DataSettings, TrainingSettings)
    parser = ScriptParser(description=__doc__, required=classes, config_for=classes)
    parser.add_argument(
        "--recipe",
        choices=RECIPES,
        default=argparse.SUPPRESS,
        help="'published': the paper's head on a frozen Hibou-L (default); 'small': a tiny backbone from scratch",
    )
    add_flags(parser.add_argument_group("data"), DataSettings, without=["seed"])
    add_flags(parser.add_argument_group("training"), TrainingSettings)
    given = parser.values(argv)
    return recipe_settings(given.pop("recipe", None)) | given


def main(values: dict[str, Any]) -> None:
    """Train and say where the model is."""
    settings, data_settings = take(TrainingSettings, values), take(DataSettings, values)
    from spider_tools.training.run import train  # seconds of imports, which --help and a wrong flag need not wait for

    folder = train(settings, data_settings)
    if folder is not None:
        print(f"The model is in {folder}")


if __name__ == "__main__":
    run_script(lambda argv: main(parse_args(argv)), kept=KEPT)
