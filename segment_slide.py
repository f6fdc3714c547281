"""Name the tissue of whole slides: `python segment_slide.py --model M --slide S.svs --output_dir R`."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any, Optional

from spider_tools.flags import add_flags, take
from spider_tools.launching import set_up_logging
from spider_tools.slides.many import results_table, segment_slides
from spider_tools.slides.settings import SlideSettings


def parse_args(argv: Optional[Sequence[str]] = None) -> dict[str, Any]:
    """The slides and the settings that the flags give."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--slide",
        nargs="+",
        required=True,
        metavar="S",
        help="slides, folders of slides, .csv manifests (columns slide, name, mpp, mask) or .txt lists of paths",
    )
    add_flags(parser, SlideSettings, required=["model", "output_dir"])
    return vars(parser.parse_args(argv))


def main(values: dict[str, Any]) -> int:
    """Classify the slides and print what became of them; 1 if any failed."""
    results = segment_slides(values["slide"], take(SlideSettings, values))
    if results:
        print(results_table(results))
    return int(any(result.status == "failed" for result in results))


if __name__ == "__main__":
    set_up_logging()
    sys.exit(main(parse_args()))
