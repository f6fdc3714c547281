"""What an evaluation can be told, as the flags of evaluate.py."""

from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from ..embeddings.settings import PRECISIONS, check_precision
from ..flags import setting
from ..paper_results import organ_names


@dataclass(frozen=True)
class EvaluationSettings:
    """What to evaluate, and what to report."""

    model: str = setting(help="folder or Hub id of a SPIDER model")
    output_dir: Path = setting(help="gets the report")
    revision: Optional[str] = setting(None, help="commit of a model on the Hub")
    split: str = setting("test", help="split of the data set")
    context_sizes: Optional[tuple[str, ...]] = setting(
        None, help="contexts to compare by masking, in patches along one side, such as 5,3,1"
    )
    compare: Optional[str] = setting(None, choices=organ_names(), help="organ to show the published figures of")
    allow_subset: bool = setting(
        False, help="evaluate among the classes that model and data share, if their lists differ"
    )
    batch_size: int = setting(256, help="regions at once through the head, in each process")
    embedding_dtype: str = setting(
        "float32",
        choices=PRECISIONS,
        help="of the backbone while it embeds patches; int8 on a CPU, with torchao installed",
    )
    embedding_compile: bool = setting(
        False, help="compile the backbone first: a minute for Hibou-L, then it embeds faster"
    )
    embedding_store: Optional[Path] = setting(None, help="folder of patch embeddings (default: in the output folder)")
    embedding_batch_size: int = setting(64, help="patches at once through the backbone")
    num_workers: int = setting(2, help="processes that decode images")
    resamples: int = setting(1000, help="sets of slides that the 95% intervals come from")
    seed: int = setting(0, help="chooses these sets")

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        check_precision(self.embedding_dtype)
        for size in self.context_sizes or ():
            if not size.isdigit() or int(size) % 2 == 0:
                raise ValueError(f"--context_sizes must be odd numbers separated by commas, got {size!r}.")
        for field in ("batch_size", "embedding_batch_size", "resamples"):
            if getattr(self, field) < 1:
                raise ValueError(f"--{field} must be positive, got {getattr(self, field)}.")
