"""The page on a port of this machine, with a folder of its own that goes with it."""

import logging
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .door import Door
from .drawn_examples import write_examples
from .gradio_library import load_gradio, private_gradio
from .model import AppModel
from .page import STYLE, make_page, make_theme
from .settings import AppSettings

logger = logging.getLogger(__name__)

_KEPT_UPLOADS = 10  # of the largest size, of all visitors together
_SESSIONS = 100  # whose inputs gradio remembers


def serve(settings: AppSettings) -> None:
    """Answer until the process is told to stop.

    Raises:
        ValueError: gradio is missing, or the model is none.
        OSError: The model cannot be loaded, or the port is taken.
    """
    # A Space is ended by it: files are to be removed then too.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with running(settings) as url:
            print(f"The page is at {url} (Ctrl-C ends it)", flush=True)
            threading.Event().wait()
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def running(settings: AppSettings) -> Iterator[str]:
    """The page, answering in threads of this process while the block runs; gives its URL.

    Everything that is uploaded or made lies in one temporary folder, of which gradio serves a part, and which is
    removed at the end.
    """
    with tempfile.TemporaryDirectory(prefix="spider-app-", ignore_cleanup_errors=True) as temporary:
        served, work = Path(temporary, "served"), Path(temporary, "work")
        served.mkdir()
        work.mkdir()
        with private_gradio(served):
            gradio = load_gradio()
            model = AppModel.load(settings)
            page = make_page(gradio, model, settings, work, write_examples(work / "examples", model))
            try:
                yield _launch(page, gradio, settings, served)
            finally:
                page.close(verbose=False)


def _launch(page: Any, gradio: Any, settings: AppSettings, served: Path) -> str:
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of every look at its own port
    options = _options(gradio, settings, served)
    try:
        return str(page.launch(**options)[1])
    except OSError as error:
        where = "7860 to 7959" if settings.port is None else settings.port
        raise OSError(f"No port {where} is free at {settings.host}: choose another one with --port.") from error
    except Exception as error:  # gradio raises plain ones, and those of its client
        raise OSError(f"The page did not start at {settings.host}: {error}") from error


def _options(gradio: Any, settings: AppSettings, served: Path) -> dict[str, Any]:
    from starlette.middleware import Middleware  # comes with gradio

    largest = settings.max_upload_bytes
    door = Middleware(Door, served=served, largest=largest, most=_KEPT_UPLOADS * largest)
    return dict(
        server_name=settings.host,
        server_port=settings.port,
        share=False,
        inbrowser=False,
        prevent_thread_lock=True,
        quiet=True,
        show_error=False,
        allowed_paths=[],
        blocked_paths=[],
        max_file_size=largest,
        enable_monitoring=False,
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        footer_links=["api"],
        state_session_capacity=_SESSIONS,
        app_kwargs={"middleware": [door]},
        theme=make_theme(gradio),
        css_paths=[STYLE],
    )
