"""What is exported, and how, as flags."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Optional

from ..flags import Settings, setting

Format = Literal["onnx", "torch"]
Precision = Literal["float32", "float16", "bfloat16", "int8"]
_PRECISIONS = {"onnx": ("float32", "float16", "int8"), "torch": ("float32", "float16", "bfloat16")}


@dataclass(frozen=True)
class ExportSettings(Settings):
    """Which model becomes graphs, where they go, in which format and precision.

    Attributes:
        model: Folder or Hub id of a SPIDER model.
        out: A new or empty folder.
    """

    model: str
    out: Path
    format: Format = setting("onnx", help="onnx for onnxruntime, torch for PyTorch alone (torch.export)")
    dtype: Precision = setting(
        "float32", help="of the patch encoder; the head stays in float32. int8 for onnx only, bfloat16 for torch only"
    )
    revision: Optional[str] = setting(None, help="commit of a model on the Hub")

    def __post_init__(self) -> None:
        """Refuse a precision that the format does not run in."""
        super().__post_init__()
        possible = _PRECISIONS[self.format]
        if self.dtype not in possible:
            raise ValueError(f"--format {self.format} goes with --dtype {', '.join(possible)}, got {self.dtype}.")
