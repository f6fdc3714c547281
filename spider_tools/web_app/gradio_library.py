"""The library gradio, which is an extra of this package, kept from talking to others."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Of others; what they would allow, or send, is nobody's business.
_UNSET = (
    "GRADIO_ALLOWED_PATHS",
    "GRADIO_BLOCKED_PATHS",
    "GRADIO_DEBUG",
    "GRADIO_HOT_RELOAD",
    "GRADIO_MCP_SERVER",
    "GRADIO_NUM_PORTS",
    "GRADIO_SERVER_NAME",
    "GRADIO_SERVER_PORT",
    "GRADIO_SHARE",
    "GRADIO_VIBE_MODE",
    "GRADIO_WATCH_DEMO_NAME",
    "GRADIO_WATCH_DEMO_PATH",
    "GRADIO_WATCH_DIRS",
    "GRADIO_WATCH_MODULE_NAME",
)
_PACKAGES = {"gradio": "app", "openslide": "slides", "shapely": "slides", "tifffile": "slides"}  # and their extras


def check_packages() -> None:
    """Refuse to begin without a package that the page needs; costs no import.

    Raises:
        ValueError: One is not installed.
    """
    for name, extra in _PACKAGES.items():
        if find_spec(name) is None:
            raise ValueError(
                f'The page needs the package {name}, which is not installed: pip install "spider-pathology[app,slides]"'
                f" (it is of the extra {extra})."
            )


def load_gradio() -> Any:
    """The library.

    Raises:
        ValueError: It is not installed, or does not go with what is.
    """
    check_packages()
    try:
        import gradio
    except ImportError as error:
        raise ValueError(f"The package gradio cannot be used here: {error}. It needs Transformers 5.") from error
    if not gradio.__version__.startswith("6."):
        raise ValueError(f'The page needs gradio 6, got {gradio.__version__}: pip install "gradio>=6,<7".')
    return gradio


@contextmanager
def private_gradio(served: Path) -> Iterator[None]:
    """Have gradio keep all files in one folder and tell nobody of its use, while the block runs.

    It reads the environment when it is imported, when a page is made and whenever a file is asked for.

    Args:
        served: The one folder whose files it serves.
    """
    wanted = {
        "GRADIO_TEMP_DIR": str(served),
        "GRADIO_EXAMPLES_CACHE": str(served / "examples"),  # else a folder of the working directory
        "GRADIO_ANALYTICS_ENABLED": "False",
    }
    # It looks at its own port through whatever proxy it is told of.
    direct = ",".join(filter(None, (os.environ.get("NO_PROXY"), "127.0.0.1,localhost,0.0.0.0")))
    wanted |= {"NO_PROXY": direct, "no_proxy": direct}
    before = {name: os.environ.get(name) for name in (*wanted, *_UNSET)}
    os.environ.update(wanted)
    for name in _UNSET:
        os.environ.pop(name, None)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
