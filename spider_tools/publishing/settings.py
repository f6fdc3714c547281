"""How a model is published, as flags."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from ..flags import Settings, setting


@dataclass(frozen=True)
class PublishSettings(Settings):
    """Where and how a model is published.

    Attributes:
        token: Of an account that may write to the repository. By default that of `hf auth login` or `HF_TOKEN`. It has
            no flag: other users of a machine can read command lines.
    """

    private: bool = setting(False, help="make a new repository private, and refuse one that is public")
    exist_ok: bool = setting(False, help="publish into a repository that has files already, README.md included")
    results: Optional[Path] = setting(None, help="folder of an evaluation (default: MODEL_FOLDER/evaluation)")
    branch: str = setting("main", help="branch of the repository, made if absent")
    handler: bool = setting(False, help="upload handler.py and requirements.txt too: Inference Endpoints serve by them")
    license: Optional[str] = setting(
        None, help="of the weights, as the Hub spells it (default: cc-by-nc-4.0 if SPIDER data or models made them)"
    )
    space: Optional[str] = setting(
        None, help="org/name of a Space that shows the model, made if absent: app.py as a page of the Hub"
    )
    token: Optional[str] = field(default=None, repr=False)
