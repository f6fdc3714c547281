"""What the page serves and to whom, as the flags of app.py, the environment of a Space, and the file beside it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from ..flags import Settings, setting
from ..settings_file import settings_file

SETTINGS_FILE = "app_settings.yaml"
"""What a Space has beside app.py: values of `AppSettings`."""


@dataclass(frozen=True)
class AppSettings(Settings):
    """What the page serves, and its bounds."""

    model: str = setting(help="folder or Hub id of a SPIDER model; also as SPIDER_MODEL in the environment (required)")
    revision: Optional[str] = setting(None, help="commit of a model on the Hub; also as SPIDER_REVISION")
    host: str = setting("127.0.0.1", help="address to answer on; 0.0.0.0 lets other machines ask")
    port: Optional[int] = setting(
        None, at_least=1, at_most=65535, help="port to answer on (default: the first free one from 7860 on)"
    )
    max_upload_mb: float = setting(200.0, above=0, help="largest file that may be uploaded, in MB")
    max_patches: int = setting(2000, at_least=1, help="most patches with tissue, and their context, of a slide")
    max_waiting: int = setting(16, at_least=1, help="most questions that wait for the model; more are turned away")
    keep_minutes: float = setting(60.0, above=0, help="minutes after which uploads and results are removed")

    @property
    def max_upload_bytes(self) -> int:
        """Bytes of the largest file that may be uploaded."""
        return int(self.max_upload_mb * 1e6)


def values_around(folder: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Values of `AppSettings`: flags, over the environment's, over those of the file in a folder.

    A revision belongs to the model that it is named with: that of the file does not stay where another model is given.

    Args:
        folder: Holds app.py and, in a Space, `SETTINGS_FILE`.
        given: Values of flags.

    Raises:
        ValueError: The file cannot be used.
    """
    path = folder / SETTINGS_FILE
    values = settings_file(path, [AppSettings]) if path.is_file() else {}
    asked = {name: value for name in ("model", "revision") if (value := os.environ.get(f"SPIDER_{name.upper()}"))}
    for one in (asked, given):
        if one.get("model", values.get("model")) != values.get("model"):
            values.pop("revision", None)
        values.update(one)
    return values
