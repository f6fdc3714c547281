"""Which files `--outputs` leaves, by the names that the tools that read them expect."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..probabilities import probability_name
from ..slide_files.slide_error import SlideError
from .settings import OUTPUTS

GEOJSON_NAME = "prediction.geojson"
TABLE_NAME = "predictions.parquet"
H5AD_NAME = "predictions.h5ad"
ZARR_NAME = "predictions.zarr"
FEATURES_FOLDER = "h5_files"
"""Beside the folders of the slides: CLAM and TRIDENT look for a file of every slide's name in one folder."""
COORDS_FOLDER = "patches"
"""Likewise, of what CLAM calls patches."""
SHARED_FOLDERS = (FEATURES_FOLDER, COORDS_FOLDER)
_MOST_NAME_BYTES = 255  # of a file or folder, on most file systems


def files_of(output: str, slide_name: str) -> list[str]:
    """Names of the files of one output, relative to the folder of the slide."""
    return {
        "geojson": [GEOJSON_NAME],
        "parquet": [TABLE_NAME],
        "h5": [f"../{folder}/{slide_name}.h5" for folder in SHARED_FOLDERS],
        "h5ad": [H5AD_NAME],
        "zarr": [ZARR_NAME],
    }[output]


def place_of(folder: Path, name: str) -> Path:
    """Where a file lies that is named relative to the folder of a slide, also where that is a link to another place."""
    return folder.parent / os.path.normpath(f"{folder.name}/{name}")


def every_file(slide_name: str) -> list[str]:
    """Names of the files of all outputs, relative to the folder of the slide."""
    return [name for output in OUTPUTS for name in files_of(output, slide_name)]


def check_shared_folders(output_dir: Path, slide_name: str, marker_name: str) -> None:
    """Refuse that a folder be one slide's and that of the files of all slides at once.

    Args:
        output_dir: Holds both.
        slide_name: Of the slide whose files are to be written.
        marker_name: Of the file that makes a folder one of a slide.

    Raises:
        SlideError: It would be.
    """
    if slide_name.casefold() in SHARED_FOLDERS:
        raise SlideError(
            f"A slide cannot be called {slide_name!r} with --outputs h5, whose files lie in the folders "
            f"{' and '.join(SHARED_FOLDERS)}. Give it another name in the column `name` of a manifest."
        )
    for folder in SHARED_FOLDERS:
        if (output_dir / folder / marker_name).exists():
            raise SlideError(
                f"{output_dir / folder} holds the results of a slide of that name, and --outputs h5 puts files of all "
                "slides there. Choose another --output_dir."
            )


def check_class_names(class_names: Sequence[str], outputs: Sequence[str]) -> None:
    """Refuse classes of whose names zarr cannot make the names of folders.

    Raises:
        ValueError: There is one.
    """
    for name in class_names if "zarr" in outputs else ():
        size = len(column_key(probability_name(name)).encode())
        if size > _MOST_NAME_BYTES:
            raise ValueError(
                f"--outputs zarr makes a folder of the name of every class, and that of {name[:40]!r}... would have "
                f"{size} bytes, expected {_MOST_NAME_BYTES} at most. Take h5ad."
            )


def column_key(name: str) -> str:
    """A column's name as a key of h5ad and zarr, in which a slash would begin another group: `%2F` stands for it.

    So that no two names get one key, `%25` stands for a percent sign.
    """
    return re.sub("[%/\0]", lambda found: f"%{ord(found[0]):02X}", name)
