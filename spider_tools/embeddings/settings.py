"""How patches are embedded, as flags."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

PRECISIONS = ("float32", "bfloat16", "float16", "int8")


def check_precision(precision: str) -> None:
    """Refuse a precision that is unknown or whose package is not installed.

    Raises:
        ValueError: It cannot be used here.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"The dtype of a backbone must be one of {list(PRECISIONS)}, got {precision!r}.")
    if precision == "int8" and find_spec("torchao") is None:
        raise ValueError("The dtype int8 needs the package torchao (pip install torchao): it is not installed.")


@dataclass(frozen=True)
class EmbeddingSettings:
    """How patches are embedded.

    Attributes:
        folder: Of the stores; each is a subfolder.
        dtype: Of the backbone while embedding, one of `embedder.PRECISIONS`. Embeddings are float16 always.
        compile: Whether to compile the backbone. The store is the same: compiling changes no more than the rounding.
        batch_size: Patches that are read at once; through the backbone go `config.backbone_batch_size` at most.
        num_workers: Processes that read patches, for each process that embeds.
        shard_size: Most patches of a shard. A run that is killed loses no more than this in each process.
    """

    folder: Path
    dtype: str = "float32"
    compile: bool = False
    batch_size: int = 64
    num_workers: int = 2
    shard_size: int = 4096

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        check_precision(self.dtype)
        for field, least in (("batch_size", 1), ("shard_size", 1), ("num_workers", 0)):
            if getattr(self, field) < least:
                raise ValueError(f"`{field}` must be at least {least}, got {getattr(self, field)}.")
