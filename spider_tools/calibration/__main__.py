"""Calibrate a model: fit, on a validation split, how sure it may be and which classes it cannot rule out.

No class that it names changes. The test split is not looked at, and train only with --familiarity.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from ..data.settings import DataSettings
from ..evaluation.settings import DECIDED_BY_THE_MODEL
from ..flags import add_flags, take
from ..scripts import ScriptParser, run_script
from .settings import CalibrationSettings


def parse_args(argv: Optional[Sequence[str]] = None) -> dict[str, Any]:
    """The settings that the flags give; without --output_dir a model's own folder gets its temperature."""
    parser = ScriptParser(prog="python -m spider_tools.calibration", description=__doc__, required=[DataSettings])
    parser.add_argument("model", metavar="MODEL", help="folder or Hub id of a SPIDER model")
    add_flags(parser, CalibrationSettings, without=("model",))
    add_flags(parser, DataSettings, without=(*DECIDED_BY_THE_MODEL, "max_regions_per_class"))
    values = parser.values(argv)
    if "output_dir" not in values:
        if not Path(values["model"]).is_dir():
            parser.error(f"--output_dir is needed: {values['model']} is no folder of this machine.")
        values["output_dir"] = values["model"]
    return values


def main(values: dict[str, Any]) -> None:
    """Calibrate and print what it changed."""
    settings, data_settings = take(CalibrationSettings, values), take(DataSettings, values)
    from .run import calibrate_model  # seconds of imports, which --help need not wait for

    made = calibrate_model(settings, data_settings)
    print(f"temperature {made['temperature']:.4g}, fitted on {made['regions']:,} regions of {made['slides']:,} slides")
    for name, before in made["before"].items():
        print(f"{name.replace('_', ' ')}: {before:.4f} before, {made['after'][name]:.4f} after, on the same regions")
    if made["reason"] is not None:
        print(f"Note: {made['reason']}.")
    familiarity = made["familiarity"]
    if familiarity["threshold"] is not None:
        rate = familiarity["false_alarm_rate"]
        print(f"unfamiliar above {familiarity['threshold']:.4g}, which {rate:.0%} of the same regions exceed")
    else:
        print(f"What is unfamiliar is not known: {familiarity['reason']}. --familiarity learns it.")
    print(f"The model is in {settings.output_dir}")


if __name__ == "__main__":
    run_script(lambda argv: main(parse_args(argv)), kept="The model is as it was; the same command starts again.")
