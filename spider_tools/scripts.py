"""How every script reads its flags, and how it ends: with what it made, or with one sentence and exit code 2.

Ctrl-C ends it with one sentence too, and exit code 130.
"""

import argparse
import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, Optional

from .flags import required_flags
from .plain_text import escaped
from .processes import lost_process
from .settings_file import settings_file

# What the rooms raise for what a user can mend; its message is written for the user.
FORESEEN = (ValueError, OSError, FloatingPointError)

NOTHING_HALF_DONE = "Files are written whole or not at all; the same command starts again."
_STOPPED = 130  # what shells give for a program that SIGINT has ended


class ScriptParser(argparse.ArgumentParser):
    """A parser with `--debug`, and on request with `--config`.

    Args:
        required: Settings classes whose fields without a default must be given.
        also_required: Other flags that must be, whose default is `argparse.SUPPRESS`.
        config_for: Settings classes whose fields `--config` may hold; none for a script without that flag.
        without: Fields that it may not hold.
    """

    def __init__(
        self,
        *args: Any,
        required: Sequence[type] = (),
        also_required: Sequence[str] = (),
        config_for: Sequence[type] = (),
        without: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._without = tuple(without)
        # Not required for argparse: a settings file may hold them, and a mistyped flag is told first.
        own = [name for settings_class in required for name in required_flags(settings_class)]
        self._required = [*also_required, *own]
        self._config_for = tuple(config_for)
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")
        if config_for:
            self.add_argument(
                "--config", type=Path, metavar="FILE", help="YAML file of settings, or a run's settings.json; flags win"
            )

    def values(self, argv: Optional[Sequence[str]] = None) -> dict[str, Any]:
        """What the flags say, over what the settings file says.

        Raises:
            ValueError: The settings file cannot be used.
            SystemExit: A flag is unknown or wrong, or a required setting is missing; the message is on stderr.
        """
        given = vars(self.parse_args(argv))
        config, _ = given.pop("config", None), given.pop("debug")
        if config is not None:
            given = settings_file(config, self._config_for, self._without) | given
        absent = [f"--{name}" for name in self._required if name not in given]
        if absent:
            self.error(f"the following arguments are required: {', '.join(absent)}")
        return given


def run_script(
    main: Callable[[Sequence[str]], Optional[int]], argv: Optional[Sequence[str]] = None, kept: str = NOTHING_HALF_DONE
) -> NoReturn:
    """Run a script and end its process; what the console cannot show of its output is escaped.

    Args:
        main: Takes the command line without the program; returns an exit code, None for 0.
        argv: The command line, by default that of this process. With `--debug` in it, errors keep their traceback.
        kept: What is told after Ctrl-C: what of the work is kept, and how to go on. It is true whenever that comes.

    Raises:
        SystemExit: Always. The code is 2 after an error that the user can mend, whose message is on stderr, and 130
            after Ctrl-C.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        # Class names and paths may hold what a console cannot show. `\xe9` is better than no result after all the work.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("accelerate").setLevel(logging.WARNING)  # it tells of every file that it writes
    try:
        code = main(argv)
    except (*FORESEEN, RuntimeError) as error:
        told = _sentence(error) if isinstance(error, FORESEEN) else lost_process(error)
        if told is None or "--debug" in argv:
            raise
        print(f"{_program()}: error: {told}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        if "--debug" in argv:
            raise
        _tell_stopped(kept)
        sys.exit(_STOPPED)
    sys.exit(code or 0)


def _tell_stopped(kept: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # launchers send it once more
    logging.disable(logging.INFO)  # torch tells of its caches at the end, if it was being imported
    if os.environ.get("RANK", "0") == "0":  # of processes that were launched together one speaks
        # A progress bar, and what the terminal shows of the keys, have left the line open.
        print(f"\n{_program()}: stopped by Ctrl-C. {kept}", file=sys.stderr, flush=True)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # whoever cannot wait for the end of what runs beside


def _program() -> str:
    """How the user called this: a script, or a package with -m."""
    name = os.path.basename(sys.argv[0])
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.parent}" if name == "__main__.py" and spec is not None else name


def _sentence(error: BaseException) -> str:
    """What an error says; operating systems name the file that it is about apart from it."""
    text = str(error).strip() or type(error).__name__
    if isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.filename}: {error.strerror}"
    return "\n".join(escaped(line) for line in text.splitlines())
