"""The folder of one slide: all of its files appear together, and `slide.json` last, as the sign that it is whole."""

import errno
import io
import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..files import replacing
from .classification import SlidePredictions

MARKER_NAME = "slide.json"
TISSUE_NAME = "tissue.png"
_RESERVE_BYTES = 64 << 20  # for pictures, tables and polygons


def is_done(folder: Path, request: Mapping[str, Any]) -> bool:
    """Whether a folder holds the whole result of this request."""
    try:
        marker = json.loads((folder / MARKER_NAME).read_text(encoding="utf-8"))
        sizes = {name: (folder / name).stat().st_size for name in marker["outputs"]}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False
    return marker["request"] == json.loads(json.dumps(request)) and sizes == marker["outputs"]


def write_outputs(
    folder: Path, writers: Mapping[str, Callable[[Path], Any]], marker: Mapping[str, Any], others: tuple[str, ...] = ()
) -> None:
    """Write all files of a slide; none takes its place before all of them are written.

    Args:
        folder: Of the slide.
        writers: By name of the file, what writes it to the path that it is given.
        marker: The content of slide.json, which also gets the sizes of all files.
        others: Names of files that are there already and belong to the result.

    Raises:
        OSError: They cannot be written; what was there before stays.
    """
    with ExitStack() as stack:
        # The stack unwinds from its end: the marker takes its name last.
        unfinished_marker = stack.enter_context(replacing(folder / MARKER_NAME))
        sizes = {name: (folder / name).stat().st_size for name in others}
        for name, write in writers.items():
            unfinished = stack.enter_context(replacing(folder / name))
            write(unfinished)
            sizes[name] = unfinished.stat().st_size
        content = {**marker, "outputs": sizes}
        unfinished_marker.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        # From here to the end the folder holds a mixture of two results, and must not look whole.
        (folder / MARKER_NAME).unlink(missing_ok=True)


def check_space(folder: Path, patches: int, bytes_per_patch: int) -> None:
    """Refuse to start what the disk has no room for.

    Args:
        folder: Of the slide.
        patches: Rows of embeddings that will be written, as parts and as one file of all parts.
        bytes_per_patch: Size of one embedding.

    Raises:
        OSError: Less is free than that takes.
    """
    needed = patches * (bytes_per_patch + 24) + _RESERVE_BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"{patches:,} rows of embeddings need {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free",
            str(folder),
        )


def predictions_table(predictions: SlidePredictions) -> pa.Table:
    """One row per prediction.

    Returns:
        `row` and `column` of the lattice, `x_level0` and `y_level0`, the upper left corner of the patch in level-0 px,
        `class`, one float column `probability: <class>` for every class, and `entropy` in nat.
    """
    names = pa.array(list(predictions.class_names), pa.string())
    corners = predictions.corners_level0
    columns = {
        "row": pa.array(predictions.positions[:, 0].astype(np.int32)),
        "column": pa.array(predictions.positions[:, 1].astype(np.int32)),
        "x_level0": pa.array(np.ascontiguousarray(corners[:, 0])),
        "y_level0": pa.array(np.ascontiguousarray(corners[:, 1])),
        "class": pa.DictionaryArray.from_arrays(pa.array(predictions.predicted.astype(np.int32)), names),
    }
    for number, name in enumerate(predictions.class_names):
        columns[f"probability: {name}"] = pa.array(np.ascontiguousarray(predictions.probabilities[:, number]))
    columns["entropy"] = pa.array(predictions.entropy)
    return pa.table(columns)


def table_writer(predictions: SlidePredictions) -> Callable[[Path], Any]:
    """Writes predictions.parquet."""
    return lambda path: pq.write_table(predictions_table(predictions), path)


def text_writer(text: str) -> Callable[[Path], Any]:
    """Writes a UTF-8 file."""
    return lambda path: path.write_text(text, encoding="utf-8")


def bytes_writer(content: bytes) -> Callable[[Path], Any]:
    """Writes bytes as they are."""
    return lambda path: path.write_bytes(content)


def as_png(figure: Figure) -> bytes:
    """A picture as the content of a PNG file."""
    content = io.BytesIO()
    # `savefig` draws twice, the first time to find the layout, which drawing finds by itself.
    FigureCanvasAgg(figure).print_png(content)
    return content.getvalue()
