"""`python -m benchmarks [ROW ...]` measures and writes benchmarks/results/; see `--help`.

Every row runs in a process of its own. A row that was measured replaces its earlier figures in the report; the others
keep theirs, each with the date and the machine.
"""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

import torch

from .measuring import Options
from .report import ROWS, run

RESULTS = Path(__file__).resolve().parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n\n")[1])
    named = f"any of {', '.join(ROWS)}; by default all that can be measured"
    parser.add_argument("rows", nargs="*", metavar="ROW", help=named)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only shows that the rows work")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the report")
    given = parser.parse_args()
    unknown = sorted(set(given.rows) - set(ROWS))
    if unknown:
        parser.error(f"unknown rows {unknown}, expected any of {list(ROWS)}")
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no GPU here")
    if given.quick and given.output == RESULTS:
        parser.error("--quick measures nothing: give it an --output of its own")
    options = Options(torch.device(given.device), given.quick)
    failed = [row for row in given.rows or measurable(options) if not run(row, options, given.output)]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def measurable(options: Options) -> list[str]:
    """All rows, without int8 where it is no choice."""
    without_int8 = options.device.type != "cpu" or find_spec("torchao") is None
    if without_int8:
        print("Leaving out int8: it needs a CPU and torchao, which `make bench` has in an environment of its own.")
    return [row for row in ROWS if not (row == "int8" and without_int8)]


if __name__ == "__main__":
    main()
