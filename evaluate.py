"""Evaluate SPIDER: `accelerate launch evaluate.py --model M --dataset D --split test --output_dir R`."""

from collections.abc import Sequence
from typing import Any, Optional

from spider_tools.data.settings import DataSettings
from spider_tools.evaluation.settings import DECIDED_BY_THE_MODEL, EvaluationSettings
from spider_tools.flags import add_flags, take
from spider_tools.scripts import ScriptParser, run_script

KEPT = "Patch embeddings saved so far are kept; the same command goes on from them."


def parse_args(argv: Optional[Sequence[str]] = None) -> dict[str, Any]:
    """The settings that the settings file and the flags give."""
    classes = (DataSettings, EvaluationSettings)
    parser = ScriptParser(description=__doc__, required=classes, config_for=classes, without=DECIDED_BY_THE_MODEL)
    add_flags(parser.add_argument_group("data"), DataSettings, without=[*DECIDED_BY_THE_MODEL, "seed"])
    add_flags(parser.add_argument_group("evaluation"), EvaluationSettings)
    return parser.values(argv)


def main(values: dict[str, Any]) -> None:
    """Evaluate and print the headline figures."""
    settings, data_settings = take(EvaluationSettings, values), take(DataSettings, values)
    from spider_tools.evaluation.run import evaluate_model  # seconds of imports, which --help need not wait for
    from spider_tools.evaluation.tables import headline_table

    results = evaluate_model(settings, data_settings)
    if results is not None:
        print(headline_table(results))


if __name__ == "__main__":
    run_script(lambda argv: main(parse_args(argv)), kept=KEPT)
