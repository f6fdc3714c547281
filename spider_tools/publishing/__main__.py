"""A trained model goes to the Hub, in one commit: `python -m spider_tools.publishing MODEL_FOLDER org/name`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from ..flags import add_flags, take
from ..scripts import ScriptParser, run_script
from .settings import PublishSettings

KEPT = "On the Hub there is all of the model or nothing; the same command goes on: what has arrived is not sent again."


def parse_args(argv: Optional[Sequence[str]] = None) -> dict[str, Any]:
    """The model folder, the repository and the settings that the flags give."""
    parser = ScriptParser(prog="python -m spider_tools.publishing", description=__doc__)
    parser.add_argument("model_folder", type=Path, help="what train.py wrote")
    parser.add_argument("repo_id", help="org/name on the Hub")
    add_flags(parser, PublishSettings)
    return parser.values(argv)


def main(values: dict[str, Any]) -> None:
    """Publish a model folder and print the commit."""
    settings = take(PublishSettings, values)
    from .publish import publish  # seconds of imports, which --help need not wait for

    url = publish(values["model_folder"], values["repo_id"], settings)
    print(f"{url}\nPin it: revision={url.rsplit('/', 1)[-1]!r}")
    if settings.space is not None:
        print(f"Space: {url.split(values['repo_id'])[0]}spaces/{settings.space}")


if __name__ == "__main__":
    run_script(lambda argv: main(parse_args(argv)), kept=KEPT)
