"""Write a model as two graphs, patch encoder and head, for onnxruntime or for PyTorch alone.

The graphs are held against the model on drawn tissue; where they drift too far nothing is written.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from ..flags import add_flags, take
from ..scripts import ScriptParser, run_script
from .settings import ExportSettings


def parse_args(argv: Optional[Sequence[str]] = None) -> dict[str, Any]:
    """The model, the folder and the settings that the flags give."""
    parser = ScriptParser(prog="python -m spider_tools.export", description=__doc__)
    parser.add_argument("model", metavar="MODEL", help="folder or Hub id of a SPIDER model")
    parser.add_argument("out", metavar="OUT", type=Path, help="new or empty folder for the graphs")
    add_flags(parser, ExportSettings)
    return parser.values(argv)


def main(values: dict[str, Any]) -> None:
    """Export and print how far the graphs lie from the model."""
    settings = take(ExportSettings, values)
    from .drift import DriftError  # seconds of imports, which --help need not wait for
    from .run import export_model

    try:
        made = export_model(settings)
    except DriftError as error:
        print(error.table)
        raise
    print(f"{made['table']}\nThe graphs are in {settings.out}; its README.md runs them.")


if __name__ == "__main__":
    run_script(lambda argv: main(parse_args(argv)))
