"""Weights from elsewhere, strictly: every tensor is used once and every parameter is filled.

`python -m spider_tools.weights import-spider SOURCE OUT` turns a published SPIDER checkpoint into a repository of this
project; with `--verify` it is proven against the source's own code, without, it is marked as not verified.
`python -m spider_tools.weights new --organ skin OUT` writes a repository without weights.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from ..paper_results import organ_names
from ..scripts import ScriptParser, run_script


def parse_args(argv: Optional[Sequence[str]] = None) -> dict[str, Any]:
    """The command and its arguments."""
    parser = ScriptParser(prog="python -m spider_tools.weights", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command", parser_class=ScriptParser)
    importing = commands.add_parser("import-spider", help="turn a published SPIDER checkpoint into a repository")
    importing.add_argument("source", metavar="SOURCE", help="Hub id or folder, such as histai/SPIDER-skin-model")
    importing.add_argument(
        "--backbone_heads", type=int, metavar="X", help="attention heads of its backbone, if config.json lacks them"
    )
    importing.add_argument("--heads", type=int, metavar="N", help="attention heads of its head's encoder, likewise")
    importing.add_argument("--revision", metavar="R", help="branch, tag or commit on the Hub")
    importing.add_argument(
        "--verify", action="store_true", help="hold it against the source's own code, and refuse it if they differ"
    )
    importing.add_argument(
        "--trust-source-code", "--trust_source_code", action="store_true", help="let --verify run that code, as you"
    )
    importing.add_argument(
        "--source-python", "--source_python", metavar="PATH", help="Python of an environment that the code runs in"
    )
    importing.add_argument(
        "--images", nargs="+", default=[], metavar="FILE", help="regions to compare on, beside drawn ones"
    )
    new = commands.add_parser("new", help="write configurations and code of an organ's model, without weights")
    new.add_argument("--organ", required=True, choices=organ_names(), help="gives the class names")
    for command in (importing, new):
        command.add_argument("out", metavar="OUT", type=Path, help="new folder for the repository")
    return parser.values(argv)


def main(values: dict[str, Any]) -> None:
    """Run a command and print what it did."""
    from .repositories import new_repository  # seconds of imports, which --help need not wait for

    out = values["out"]
    if values["command"] == "new":
        new_repository(values["organ"], out)
        print(f"Configurations of the {values['organ']} model, without weights, are in {out}")
    else:
        print(f"{_import(values)}\nThe model is in {out}")


def _import(values: dict[str, Any]) -> str:
    from .import_spider import Trial
    from .repositories import import_repository
    from .verification import VerificationError

    trial_flags = {"--trust-source-code": "trust_source_code", "--source-python": "source_python", "--images": "images"}
    idle = [flag for flag, name in trial_flags.items() if values[name] and not values["verify"]]
    if idle:
        raise ValueError(f"{' and '.join(idle)} say how the source's own code is run, which needs --verify.")
    trial = Trial(**{name: values[name] for name in trial_flags.values()}) if values["verify"] else None
    options = {name: values[name] for name in ("backbone_heads", "heads", "revision")}
    try:
        return import_repository(values["out"], values["source"], trial=trial, **options)
    except VerificationError as error:
        print(error.table)
        raise


if __name__ == "__main__":
    run_script(lambda argv: main(parse_args(argv)))
