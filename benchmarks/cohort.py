"""A cohort of drawn slides, two of them broken: `python -m benchmarks.cohort --output FOLDER`.

Not a row of `python -m benchmarks`: it prints the seconds of whole commands of segment_slide.py.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from spider_tools import remote_code

from .drawn_slide import draw_slide
from .models import SMALL, random_model


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cohort", description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="folder that does not exist yet")
    parser.add_argument("--slides", type=int, default=20, help="how many, the two broken ones included")
    parser.add_argument("--px", type=int, default=6000, help="side of the first slide; each is a little wider")
    given = parser.parse_args()
    slides, model = given.output / "slides", given.output / "model"
    slides.mkdir(parents=True)
    paths = [slides / f"slide_{number:02d}.tif" for number in range(given.slides)]
    for number, path in enumerate(paths):
        draw_slide(path, given.px + 64 * number, given.px)
    broken = [paths[given.slides // 3], paths[-1]]
    contents = [path.read_bytes() for path in broken]
    for path, content in zip(broken, contents):
        path.write_bytes(content[: len(content) // 2])
    random_model(SMALL).save_pretrained(model)
    processor = remote_code.processor_class()(remote_code.image_processor_class()())
    processor.save_pretrained(model)

    def command(results: str, *flags: Any) -> list[str]:
        words = ["--model", model, "--slide", slides, "--output_dir", given.output / results, *flags]
        return [sys.executable, "segment_slide.py", *map(str, words)]

    _measure("one process", command("one"))
    _measure("the same again", command("one"))
    _measure("--retry_failed, still broken", command("one", "--retry_failed"))
    for path, content in zip(broken, contents):
        path.write_bytes(content)
    _measure("--retry_failed, mended", command("one", "--retry_failed"))
    _measure("one process, --stage_dir", command("staged", "--stage_dir", given.output / "fast"))
    _measure("two processes side by side", *[command("two", "--num_workers", 0)] * 2)


def _measure(title: str, *commands: list[str]) -> None:
    """Print how long commands take side by side, and what the first of them says at the end."""
    started = time.perf_counter()
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    running = [subprocess.Popen(words, cwd=remote_code.REPOSITORY_ROOT, env=environment, **pipes) for words in commands]
    said = [process.communicate()[0] for process in running]
    print(f"{title}: {time.perf_counter() - started:.1f} s", flush=True)
    for text in said:
        lines = text.splitlines()
        table_end = next((n for n, line in enumerate(lines) if " done, " in line), len(lines))
        print("".join(f"    {line}\n" for line in lines[table_end:]), end="", flush=True)


if __name__ == "__main__":
    main()
