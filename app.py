"""A page that classifies regions and small slides: `python app.py --model M`, or as a Space of the Hub."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from spider_tools.flags import add_flags, take
from spider_tools.scripts import ScriptParser, run_script
from spider_tools.web_app.gradio_library import check_packages
from spider_tools.web_app.settings import AppSettings, values_around

KEPT = "What was uploaded and what came of it is removed."


def parse_args(argv: Optional[Sequence[str]] = None) -> dict[str, Any]:
    """The settings that the flags give, over those of the environment and of the file beside this one."""
    parser = ScriptParser(description=__doc__)
    add_flags(parser, AppSettings)
    given = parser.values(argv)
    values = values_around(Path(__file__).resolve().parent, given)
    if "model" not in values:
        parser.error("the following arguments are required: --model")
    return values


def main(values: dict[str, Any]) -> None:
    """Serve the page until Ctrl-C."""
    settings = take(AppSettings, values)
    check_packages()
    from spider_tools.web_app.serving import serve  # seconds of imports, which --help need not wait for

    serve(settings)


if __name__ == "__main__":
    run_script(lambda argv: main(parse_args(argv)), kept=KEPT)
