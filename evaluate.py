"""Evaluate SPIDER: `accelerate launch evaluate.py --model M --dataset D --split test --output_dir R`."""

import argparse
from collections.abc import Sequence
from typing import Any, Optional

from spider_tools.data.settings import DataSettings
from spider_tools.evaluation.run import evaluate_model
from spider_tools.evaluation.settings import EvaluationSettings
from spider_tools.evaluation.tables import headline_table
from spider_tools.flags import add_flags, take
from spider_tools.launching import set_up_logging

# The model knows these; --seed is one flag for everything.
_NO_FLAGS = ("context_size", "patch_size", "class_names", "seed")


def parse_args(argv: Optional[Sequence[str]] = None) -> dict[str, Any]:
    """The settings that the flags give."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_flags(parser.add_argument_group("data"), DataSettings, required=["dataset"], without=_NO_FLAGS)
    add_flags(parser.add_argument_group("evaluation"), EvaluationSettings, required=["model", "output_dir"])
    return vars(parser.parse_args(argv))


def main(values: dict[str, Any]) -> None:
    """Evaluate and print the headline figures."""
    results = evaluate_model(take(EvaluationSettings, values), take(DataSettings, values))
    if results is not None:
        print(headline_table(results))


if __name__ == "__main__":
    set_up_logging()
    main(parse_args())
