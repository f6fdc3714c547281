"""An accelerator whose processes know of each other."""

import os
from typing import Any

from accelerate import Accelerator

from .hugging_face_home import require_hugging_face_home


def make_accelerator(**options: Any) -> Accelerator:
    """An `Accelerator` of all processes that were launched.

    Args:
        **options: Of the accelerator.

    Raises:
        ValueError: Several processes were launched, but accelerate sees one: each would do all of the work, and write
            the same files. It happens on machines without a GPU.
        OSError: The Hugging Face home cannot be written: every run of several processes or one loads remote code.
    """
    require_hugging_face_home()
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    accelerator = Accelerator(**options)
    if accelerator.num_processes != launched:
        raise ValueError(
            f"{launched} processes were launched, but they do not see each other. On a machine without a GPU set "
            "ACCELERATE_USE_CPU=true and launch with --multi_gpu, in spite of its name."
        )
    return accelerator
