"""More patches like these, and patches to annotate next, from what segment_slide.py has left.

`python -m spider_tools.retrieval index slides --index I` builds an index of the patches of classified slides, and of
the store of a data set. `query --index I --annotation A.geojson --slide S --output_dir OUT` finds the patches most like
what was drawn, or like `--class X --predictions`, `--class X --labels`, `--patch S:X,Y` or `--image FILE`. `suggest
--results slides --strategy uncertain --output_dir OUT` says what to annotate next. The results open in QuPath.
"""

import argparse
from collections.abc import Sequence
from typing import Any, Optional

from ..flags import add_flags, required_flags, take
from ..scripts import ScriptParser, run_script
from .settings import IndexSettings, QuerySettings, SuggestSettings

_SETTINGS = {"index": IndexSettings, "query": QuerySettings, "suggest": SuggestSettings}
_HELP = {
    "index": "build an index of patches",
    "query": "find the patches most like an example",
    "suggest": "say which patches to annotate next",
}


def parse_args(argv: Optional[Sequence[str]] = None) -> dict[str, Any]:
    """The command and its settings."""
    parser = ScriptParser(prog="python -m spider_tools.retrieval", description=__doc__)
    parsers = parser.add_subparsers(required=True, metavar="COMMAND", dest="command", parser_class=ScriptParser)
    commands = {name: parsers.add_parser(name, help=text) for name, text in _HELP.items()}
    commands["index"].add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="folder of a slide's results, store of embeddings (with --dataset), or folder of such",
    )
    lists = {
        "--patch": ("query", "patches", "SLIDE:X,Y", "examples by a place in them, in level-0 px"),
        "--image": ("query", "images", "FILE", "examples as images of patches at the um/px of the index"),
        "--results": ("suggest", "results", "DIR", "folders of slides' results, or folders of such (required)"),
    }
    for flag, (command, name, shown, text) in lists.items():
        commands[command].add_argument(flag, dest=name, nargs="+", default=argparse.SUPPRESS, metavar=shown, help=text)
    commands["query"].add_argument(
        "--class", dest="class_name", default=argparse.SUPPRESS, metavar="X", help="of the examples"
    )
    for name, settings in _SETTINGS.items():
        add_flags(commands[name], settings)
    values = parser.values(argv)
    absent = [name for name in required_flags(_SETTINGS[values["command"]]) if name not in values]
    if absent:
        missing = ", ".join(f"--{name}" for name in absent)
        commands[values["command"]].error(f"the following arguments are required: {missing}")
    return values


def main(values: dict[str, Any]) -> None:
    """Run a command and print what it did."""
    command = values["command"]
    settings = take(_SETTINGS[command], values)
    if command == "index":
        from .index_building import build_index, describe  # seconds of imports, which --help need not wait for

        print(f"{describe(build_index(values['sources'], settings))}\nThe index is in {settings.index}")
        return
    if command == "query":
        from .query import query_index as find
    else:
        from .suggest import suggest as find  # type: ignore[assignment]
    finding = find(settings)
    slides = len(set(finding.patches.table["slide"].to_pylist()))
    print(f"Patches found: {len(finding)}, slides: {slides}. They are in {settings.output_dir}")


if __name__ == "__main__":
    run_script(lambda argv: main(parse_args(argv)))
