"""The demo: draw tissue, train on it, and show what the model says of regions that it has not seen.

`python -m spider_tools.demo` runs all of it, in the folder `demo`; with `--image` it classifies one region of the
user's instead.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from ..scripts import ScriptParser, run_script

FOLDER = Path("demo")
KEPT = "A data set that was drawn whole is kept; the same command makes the rest anew."


def parse_args(argv: Optional[Sequence[str]] = None) -> dict[str, Any]:
    """Image and model, if they were given."""
    parser = ScriptParser(prog="python -m spider_tools.demo", description=__doc__)
    parser.add_argument("--image", type=Path, help="a region of 1120x1120 px at 0.5 um/px, or larger")
    parser.add_argument("--model", help="folder or Hub id of a SPIDER model; by default the demo's own")
    values = parser.values(argv)
    if values["model"] is not None and values["image"] is None:
        parser.error("--model goes with --image; the demo itself trains its own model.")
    return values


def main(values: dict[str, Any]) -> None:
    """Run the demo, or classify the image of `--image` with the model of `--model`."""
    from .run import classify_image, run_demo  # seconds of imports, which --help need not wait for
    from .synthetic import SyntheticSettings

    if values["image"] is None:
        run_demo(FOLDER, SyntheticSettings())
        return
    own = FOLDER / "model"
    if values["model"] is None and not (own / "config.json").is_file():
        raise ValueError("The demo model is not there yet: run `make demo` once, or name one with MODEL=.")
    classify_image(values["image"], values["model"] or str(own))


if __name__ == "__main__":
    run_script(lambda argv: main(parse_args(argv)), kept=KEPT)
