"""The folder of one slide: all of its files appear together, and `slide.json` last, as the sign that it is whole."""

import errno
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..files import Writer, bytes_of, text_writer, write_together
from ..probabilities import class_column, familiarity_columns, probability_columns
from .output_files import ZARR_NAME, every_file, place_of
from .predictions import SlidePredictions
from .settings import OUTPUTS, USUAL_OUTPUTS

MARKER_NAME = "slide.json"
TISSUE_NAME = "tissue.png"
_RESERVE_BYTES = 64 << 20  # for pictures, tables and polygons


def is_done(folder: Path, *requests: Any) -> bool:
    """Whether a folder holds the whole result of one of these requests, with no patch left out for damage."""
    marker = _whole_marker(folder)
    return marker is not None and marker.get("request") in _as_json(requests) and not marker.get("unreadable_patches")


def outputs_left(folder: Path, *requests: Any) -> tuple[str, ...]:
    """The outputs that an earlier run left of one of these requests, whatever outputs they name; none if not all whole.

    Asking for another output takes none of these away.
    """
    marker = _whole_marker(folder)
    request = None if marker is None else marker.get("request")
    if not isinstance(request, dict) or _without_outputs(request) not in map(_without_outputs, _as_json(requests)):
        return ()
    left = request.get("outputs", USUAL_OUTPUTS)
    return tuple(output for output in OUTPUTS if output in left) if isinstance(left, (list, tuple)) else ()


def listed_files(folder: Path) -> set[str]:
    """Names of the files that slide.json tells of, relative to the folder; none if it cannot be read."""
    listed = _marker(folder).get("outputs")
    return set(listed) if isinstance(listed, dict) else set()


def _whole_marker(folder: Path) -> Optional[dict[str, Any]]:
    """The content of slide.json, if all files that it tells of are there, as long as it says."""
    marker = _marker(folder)
    try:
        sizes = {name: _size(folder, name) for name in marker["outputs"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return marker if sizes == marker["outputs"] else None


def _size(folder: Path, name: str) -> int:
    # slide.json may come from anywhere: no other folder is walked through.
    path = place_of(folder, name)
    return bytes_of(path) if name == ZARR_NAME else path.stat().st_size


def _marker(folder: Path) -> dict[str, Any]:
    """The content of slide.json, empty if there is none that can be read."""
    try:
        marker = json.loads((folder / MARKER_NAME).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return marker if isinstance(marker, dict) else {}


def _as_json(requests: Sequence[Any]) -> list[Any]:
    return [json.loads(json.dumps(request)) for request in requests]


def _without_outputs(request: Any) -> Any:
    return {key: request[key] for key in request if key != "outputs"} if isinstance(request, dict) else request


def write_outputs(
    folder: Path, writers: Mapping[str, Writer], marker: Mapping[str, Any], others: tuple[str, ...] = ()
) -> None:
    """Write all files of a slide; none takes its place before all of them are written, and slide.json is the last.

    What an earlier result holds of outputs that this one has not is removed.

    Args:
        folder: Of the slide.
        writers: By name of the file relative to the folder, what writes it to the path that it is given.
        marker: The content of slide.json, which also gets the sizes of all files.
        others: Names of files that are there already and belong to the result.

    Raises:
        OSError: They cannot be written; what was there before stays.
    """
    sizes = {name: (folder / name).stat().st_size for name in others}

    def measured(name: str, write: Writer) -> Writer:
        def write_and_measure(path: Path) -> None:
            write(path)
            sizes[name] = bytes_of(path)

        return write_and_measure

    def write_marker(path: Path) -> None:  # after all others, whose sizes it holds
        text_writer(json.dumps({**marker, "outputs": sizes}, indent=1, ensure_ascii=False) + "\n")(path)

    def place(name: str) -> str:  # beside the folder of the slide may be others, with files of all slides
        return str(place_of(folder, name).relative_to(folder.parent))

    all_writers = {place(name): measured(name, write) for name, write in writers.items()}
    obsolete = [place(name) for name in _obsolete(folder, [*writers, *others])]
    sign = place(MARKER_NAME)
    write_together(folder.parent, {**all_writers, sign: write_marker}, sign, obsolete)


def _obsolete(folder: Path, written: Sequence[str]) -> list[str]:
    """Files of outputs that an earlier result left and this one does not write."""
    earlier = listed_files(folder)
    # In its own folder all such files are the slide's; in a folder of all slides only those that slide.json tells of.
    return [
        name
        for name in every_file(folder.name)
        if name not in written and (name in earlier if name.startswith("..") else (folder / name).exists())
    ]


def check_space(folder: Path, patches: int, bytes_per_patch: int, more_bytes: int = 0) -> None:
    """Refuse to start what the disk has no room for.

    Args:
        folder: Of the slide.
        patches: Rows of embeddings that will be written, as parts and as one file of all parts.
        bytes_per_patch: Size of one embedding.
        more_bytes: What else will hold embeddings.

    Raises:
        OSError: Less is free than that takes.
    """
    needed = patches * (bytes_per_patch + 24) + more_bytes + _RESERVE_BYTES
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
        `class`, one float column `probability: <class>` for every class, `entropy` in nat, `unfamiliarity` and
        `is_familiar`, null if the model does not know, and `tissue_share`, of its cell that is tissue.
    """
    names, corners = predictions.class_names, predictions.corners_level0
    columns = {
        "row": pa.array(predictions.positions[:, 0].astype(np.int32)),
        "column": pa.array(predictions.positions[:, 1].astype(np.int32)),
        "x_level0": pa.array(np.ascontiguousarray(corners[:, 0])),
        "y_level0": pa.array(np.ascontiguousarray(corners[:, 1])),
        "class": class_column(predictions.predicted, names),
    }
    unfamiliar = predictions.is_unfamiliar
    doubts = familiarity_columns(predictions.unfamiliarity, None if unfamiliar is None else ~unfamiliar, len(corners))
    tissue = {"tissue_share": pa.array((predictions.tissue_mm2 / predictions.cell_area_mm2).astype(np.float32))}
    return pa.table({**columns, **probability_columns(predictions.probabilities, names), **doubts, **tissue})


def table_writer(predictions: SlidePredictions) -> Writer:
    """Writes predictions.parquet."""
    return lambda path: pq.write_table(predictions_table(predictions), path)


def as_png(figure: Figure) -> bytes:
    """A picture as the content of a PNG file."""
    content = io.BytesIO()
    # `savefig` draws twice, the first time to find the layout, which drawing finds by itself.
    # Level 6, Pillow's own, takes thrice the time for a tenth less.
    FigureCanvasAgg(figure).print_png(content, pil_kwargs={"compress_level": 2})
    return content.getvalue()
