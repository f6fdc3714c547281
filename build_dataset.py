"""A data set from slides and annotations: `python build_dataset.py --slides S --annotations A --output_dir D`."""

import argparse
from collections.abc import Sequence
from typing import Any, Optional

from spider_tools.building.settings import BuildSettings
from spider_tools.flags import add_flags, take
from spider_tools.scripts import ScriptParser, run_script

KEPT = "Patches that were cut are kept; the same command goes on from them."


def parse_args(argv: Optional[Sequence[str]] = None) -> dict[str, Any]:
    """The slides and the settings that the flags give."""
    parser = ScriptParser(
        description=__doc__, required=[BuildSettings], also_required=["slides"], config_for=[BuildSettings]
    )
    parser.add_argument(
        "--slides",
        nargs="+",
        default=argparse.SUPPRESS,
        metavar="S",
        help="slides, folders of slides, or .csv or .tsv manifests (columns slide, name, mpp, patient, annotations, "
        "split, fully_annotated)",
    )
    add_flags(parser, BuildSettings)
    return parser.values(argv)


def main(values: dict[str, Any]) -> None:
    """Build the data set and print how much of what it holds."""
    settings = take(BuildSettings, values)
    from spider_tools.building.run import build_dataset  # seconds of imports, which --help need not wait for
    from spider_tools.building.upload import check_dataset_target, push_dataset

    if settings.push_to_hub is not None:
        check_dataset_target(settings)
    built = build_dataset(values["slides"], settings)
    for name, counts in sorted(built["regions"].items()):
        print(f"{name}: " + ", ".join(f"{count:,} in {split}" for split, count in sorted(counts.items())))
    print(f"{built['patches']:,} patches in {settings.output_dir}")
    if settings.push_to_hub is not None:
        print(f"uploaded to {push_dataset(settings)}")


if __name__ == "__main__":
    run_script(lambda argv: main(parse_args(argv)), kept=KEPT)
