"""A process that opens slides before this one does: what crashes OpenSlide ends that process, and one slide fails.

Run as `python -m spider_tools.slide_files.probe`, it reads a path in JSON per line, and answers each when it has
survived.
"""

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Optional

import openslide

from .slide_error import SlideError
from .tiff_layout import read_layout
from .tiff_slide import TiffSlide

_MOST_SECONDS = 600.0  # a slide on a slow network may take a minute
_SURVIVED = "survived"
_KILLED = "crashes a process (SIGKILL)"
_PX = 8


def check_survives(path: Path) -> None:
    """Have another process open a slide and read a little of every level.

    What OpenSlide says against it is not told here: only whether the process lived through it.

    Raises:
        SlideError: It did not, or it came to no end.
    """
    ending = PROBE.ending(path)
    if ending:
        likely = "it is damaged. Copy it anew, or convert it."
        if ending == _KILLED:  # which no damage does by itself
            likely = "memory ran out, which a damaged file can cause too. Lower --num_workers, or copy the slide anew."
        raise SlideError(f"{path} {ending} when OpenSlide opens it, most likely because {likely}")


class Probe:
    """The other process, started when it is first needed and again when it has died."""

    def __init__(self) -> None:
        self._process: Optional[subprocess.Popen[str]] = None
        self._owner = 0

    @property
    def pid(self) -> Optional[int]:
        """Of the process, None while there is none."""
        return None if self._process is None else self._process.pid

    def ending(self, path: Path) -> str:
        """How the process ended over a slide; "" if it lives on."""
        process = self._living()
        watch = threading.Timer(_MOST_SECONDS, process.kill)
        watch.start()
        try:
            process.stdin.write(json.dumps(str(path.absolute())) + "\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            answer = process.stdout.readline()  # type: ignore[union-attr]
        except BrokenPipeError:
            answer = ""
        finally:
            in_time = watch.is_alive()
            watch.cancel()
        if answer.strip() == _SURVIVED:
            return ""
        code = process.wait()
        self.close()
        return _words(code) if in_time else f"takes more than {_MOST_SECONDS:.0f} s"

    def close(self) -> None:
        """End the process."""
        if self._process is not None and self._owner == os.getpid():
            self._process.kill()
            self._process.communicate()
        self._process = None

    def _living(self) -> "subprocess.Popen[str]":
        # A process that was forked from the owner must not speak on the owner's pipes.
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            self.close()
            package = str(Path(__file__).parents[2])
            paths = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "PYTHONPATH": paths, "PYTHONIOENCODING": "utf-8"},
            )
            self._owner = os.getpid()
        return self._process


def _words(code: int) -> str:
    if 0 <= code < 256:  # Python ended it in order: this process will meet the error itself, and tell it
        return ""
    if code >= 256:  # of Windows
        return f"crashes a process (status {code:#x})"
    with contextlib.suppress(ValueError):
        return f"crashes a process ({signal.Signals(-code).name})"
    return f"crashes a process (signal {-code})"


def _read_a_little(path: str) -> None:
    try:
        vendor = _read_with_openslide(path)
    except openslide.OpenSlideError:
        vendor = ""
    if vendor in ("", "generic-tiff"):
        _read_with_tifffile(Path(path))


def _read_with_tifffile(path: Path) -> None:
    layout = read_layout(path)
    if layout is None:
        return
    slide = TiffSlide(path, layout.decoded(path), {})
    for number, level in enumerate(slide.levels):
        width, height = level.size
        slide.read_level(
            number, (width // 2, height // 2), (min(_PX, width - width // 2), min(_PX, height - height // 2))
        )


def _read_with_openslide(path: str) -> str:
    """Read, and return the vendor."""
    with openslide.OpenSlide(path) as slide:
        for level, (width, height) in enumerate(slide.level_dimensions):
            factor = slide.level_downsamples[level]
            for share in (0.0, 0.5):
                corner = (int(width * share * factor), int(height * share * factor))
                slide.read_region(corner, level, (min(_PX, width), min(_PX, height)))
        return slide.properties[openslide.PROPERTY_NAME_VENDOR]


def _serve() -> None:
    for line in sys.stdin:
        # The process that asked gets the error itself.
        with contextlib.suppress(openslide.OpenSlideError, OSError, ValueError, MemoryError):
            _read_a_little(json.loads(line))
        print(_SURVIVED, flush=True)


PROBE = Probe()
"""The one that this process uses."""

atexit.register(PROBE.close)

if __name__ == "__main__":
    _serve()
