"""A model that Inference Endpoints can serve: `python -m spider_tools.publishing.endpoint MODEL_FOLDER`.

Puts handler.py and requirements.txt beside the model; `python -m spider_tools.publishing ... --handler` uploads both.
"""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from ..files import replacing, require_writable
from ..scripts import ScriptParser, run_script

logger = logging.getLogger(__name__)

HANDLER, REQUIREMENTS = "handler.py", "requirements.txt"
_PASSWORD = re.compile(rb"://[^\s/@]+:[^\s/@]+@")
_REQUIREMENTS = Path(__file__).with_name("endpoint_requirements.txt")


def write_handler(folder: Path) -> dict[str, Path]:
    """Put what Inference Endpoints need beside a model; whatever is there already stays, with a warning if it differs.

    Args:
        folder: A model folder.

    Returns:
        The two files, by their names.

    Raises:
        ValueError: It is no folder of a SPIDER model, or a file that is there already holds a password.
        OSError: It cannot be written.
    """
    from ..remote_code import REPOSITORY_ROOT  # seconds of imports, which --help need not wait for
    from .model_card import read_config

    read_config(folder)
    require_writable(folder, "MODEL_FOLDER")
    files = {}
    for name, source in ((HANDLER, REPOSITORY_ROOT / HANDLER), (REQUIREMENTS, _REQUIREMENTS)):
        content, target = source.read_bytes(), folder / name
        if not target.exists():
            with replacing(target) as unfinished:
                unfinished.write_bytes(content)
        elif _PASSWORD.search(target.read_bytes()):
            raise ValueError(f"{target} holds a password in an address: take it out, or remove the file.")
        elif target.read_bytes() != content:
            logger.warning("%s is not this version's and stays as it is; remove it to have this version's", target)
        files[name] = target
    return files


def parse_args(argv: Optional[Sequence[str]] = None) -> dict[str, Any]:
    """The model folder."""
    parser = ScriptParser(prog="python -m spider_tools.publishing.endpoint", description=__doc__)
    parser.add_argument("model_folder", type=Path, help="what train.py wrote")
    return parser.values(argv)


def main(values: dict[str, Any]) -> None:
    """Write the files and say where they are."""
    files = write_handler(values["model_folder"])
    print("\n".join(map(str, files.values())))


if __name__ == "__main__":
    run_script(lambda argv: main(parse_args(argv)))
