"""A trained model goes to the Hub, in one commit: `python -m spider_tools.publishing MODEL_FOLDER org/name`."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from ..flags import add_flags, take
from .publish import publish
from .settings import PublishSettings


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Publish a model folder and print the commit."""
    parser = argparse.ArgumentParser(prog="python -m spider_tools.publishing", description=__doc__)
    parser.add_argument("model_folder", type=Path, help="what train.py wrote")
    parser.add_argument("repo_id", help="org/name on the Hub")
    add_flags(parser, PublishSettings)
    values = vars(parser.parse_args(argv))
    try:
        url = publish(values["model_folder"], values["repo_id"], take(PublishSettings, values))
    except (ValueError, OSError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    print(f"{url}\nPin it: revision={url.rsplit('/', 1)[-1]!r}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    main()
