"""What a URL names: a slide to download, under a name that is checked as those of files are."""

import os
from pathlib import Path
from typing import Any

from .addresses import file_of_url, local_path, problem_of_url, protocol_of, public_address
from .task import SlideTask, checked_name


def task_of_url(url: str, name: str, source: Any) -> SlideTask:
    """The slide of a URL; one of `file://` is one of this computer.

    Args:
        url: Of a file.
        name: Of its folder of results; "" for that of the file.
        source: What gives the name, for messages.

    Raises:
        ValueError: A name cannot be used.
    """
    if protocol_of(url) == "file":
        path = local_path(url)
        return SlideTask(path, checked_name(name or path.stem, source))
    file = file_of_url(url)
    problem = problem_of_url(url)
    if problem and not file:
        file = "slide"
    if not file:
        raise ValueError(f"{public_address(url)} names no file. The URL of a folder ends with a slash.")
    stem = os.path.splitext(file)[0]
    task = SlideTask(Path(file), checked_name(name or stem, source), problem=problem, url=url)
    checked_name(file, source)  # under which it is downloaded
    return task
