"""Weights from elsewhere, strictly: every tensor is used once and every parameter is filled.

`python -m spider_tools.weights import-spider SOURCE OUT` turns a published SPIDER checkpoint into a repository of this
project, `python -m spider_tools.weights new --organ skin OUT` writes one without weights.
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
    new = commands.add_parser("new", help="write configurations and code of an organ's model, without weights")
    new.add_argument("--organ", required=True, choices=organ_names(), help="gives the class names")
    for command in (importing, new):
        command.add_argument("out", metavar="OUT", type=Path, help="new folder for the repository")
    return parser.values(argv)


def main(values: dict[str, Any]) -> None:
    """Run a command and print what it did."""
    from .repositories import import_repository, new_repository  # seconds of imports, which --help need not wait for

    out = values["out"]
    if values["command"] == "new":
        new_repository(values["organ"], out)
        print(f"Configurations of the {values['organ']} model, without weights, are in {out}")
    else:
        report = import_repository(values["source"], out, values["backbone_heads"])
        print(f"{report}\nThe model is in {out}")


if __name__ == "__main__":
    run_script(lambda argv: main(parse_args(argv)))
