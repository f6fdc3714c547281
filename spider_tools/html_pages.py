"""HTML pages from templates: what is put into them is escaped, and a name that is missing is an error."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

import jinja2


def page_environment(folder: Path, finalize: Optional[Callable[[Any], Any]] = None) -> jinja2.Environment:
    """Where the templates of a folder are found.

    Args:
        folder: Holds them.
        finalize: Changes every value before it is escaped, as names of slides and classes, which come from anywhere.
    """
    return jinja2.Environment(
        autoescape=True,
        finalize=finalize,
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
