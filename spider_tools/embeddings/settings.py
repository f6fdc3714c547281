"""How patches are embedded, as flags."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Optional, get_args

from ..files import require_writable
from ..flags import Settings, setting

Precision = Literal["float32", "bfloat16", "float16", "int8"]


def check_precision(precision: str) -> None:
    """Refuse a precision that is unknown or whose package is not installed.

    Raises:
        ValueError: It cannot be used here.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"The dtype of a backbone must be one of {list(get_args(Precision))}, got {precision!r}.")
    if precision == "int8" and find_spec("torchao") is None:
        raise ValueError("The dtype int8 needs the package torchao (pip install torchao): it is not installed.")


@dataclass(frozen=True)
class EmbeddingSettings(Settings):
    """How patches are embedded.

    Attributes:
        folder: Of the stores; each is a subfolder.
        dtype: Of the backbone while embedding. Embeddings are float16 always.
        compile: Whether to compile the backbone. The store is the same: compiling changes no more than the rounding.
        batch_size: Patches that are read at once; through the backbone go `config.backbone_batch_size` at most.
        num_workers: Processes that read patches, for each process that embeds.
        shard_size: Most patches of a shard.
        save_every: Seconds. A run that is killed loses no more than this, and a batch, in each process.
    """

    folder: Path
    dtype: Precision = "float32"
    compile: bool = False
    batch_size: int = setting(64, at_least=1)
    num_workers: int = setting(2, at_least=0)
    shard_size: int = setting(4096, at_least=1)
    save_every: float = setting(30.0, at_least=0)

    def __post_init__(self) -> None:
        """Refuse what cannot be used here."""
        super().__post_init__()
        check_precision(self.dtype)


@dataclass(frozen=True, kw_only=True)
class EmbeddingFlags(Settings):
    """The flags of every script that fills a store, for its settings to inherit."""

    embedding_dtype: Precision = setting(
        "float32", help="of the frozen backbone while it embeds patches; int8 on a CPU, with torchao installed"
    )
    embedding_compile: bool = setting(
        False, help="compile the frozen backbone first: a minute for Hibou-L, then it embeds faster"
    )
    embedding_store: Optional[Path] = setting(None, help="folder of patch embeddings (default: in the output folder)")
    embedding_batch_size: int = setting(64, at_least=1, help="patches at once through the frozen backbone")
    num_workers: int = setting(2, at_least=0, help="processes that decode images")

    def __post_init__(self) -> None:
        """Refuse what cannot be used here."""
        super().__post_init__()
        check_precision(self.embedding_dtype)

    def embedding_settings(self, default_folder: Path) -> EmbeddingSettings:
        """The same for `embed_patches_once`, with the folder of stores if none was given."""
        return EmbeddingSettings(
            folder=self.embedding_store or default_folder,
            dtype=self.embedding_dtype,
            compile=self.embedding_compile,
            batch_size=self.embedding_batch_size,
            num_workers=self.num_workers,
        )

    def require_store_folder(self) -> None:
        """Refuse, before the work, a `--embedding_store` that cannot be made; one that is complete may be read-only.

        Raises:
            OSError: See `files.require_writable`.
        """
        if self.embedding_store is not None and not self.embedding_store.is_dir():
            require_writable(self.embedding_store, "--embedding_store")
