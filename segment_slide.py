"""Name the tissue of whole slides: `python segment_slide.py --model M --slide S.svs --output_dir R`."""

import argparse
from collections.abc import Sequence
from typing import Any, Optional

from spider_tools.flags import add_flags, take
from spider_tools.scripts import ScriptParser, run_script
from spider_tools.slides.settings import SlideSettings

KEPT = "Slides that are done and patch embeddings saved so far are kept; the same command goes on from them."


def parse_args(argv: Optional[Sequence[str]] = None) -> dict[str, Any]:
    """The slides and the settings that the flags give."""
    parser = ScriptParser(description=__doc__, required=[SlideSettings], also_required=["slide"])
    parser.add_argument(
        "--slide",
        nargs="+",
        default=argparse.SUPPRESS,
        metavar="S",
        help="slides, folders of slides (each DICOM series in one is a slide), .csv or .tsv manifests (columns slide, "
        "name, mpp, mask), .txt lists of paths, or URLs (https, s3, gs, ...; a folder ends with a slash)",
    )
    add_flags(parser, SlideSettings)
    return parser.values(argv)


def main(values: dict[str, Any]) -> int:
    """Classify the slides and print what became of them; 1 if any failed."""
    settings = take(SlideSettings, values)
    from spider_tools.cohorts.many import segment_slides  # seconds of imports, which --help need not wait for
    from spider_tools.slides.results import summary

    results = segment_slides(values["slide"], settings)
    if results:
        print(summary(results))
    return int(any(result.status == "failed" for result in results))


if __name__ == "__main__":
    run_script(lambda argv: main(parse_args(argv)), kept=KEPT)
