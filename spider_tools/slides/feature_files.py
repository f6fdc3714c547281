"""HDF5 files that CLAM and TRIDENT read as if they had written them.

`h5_files/<slide>.h5` is what CLAM's data sets (after `load_from_h5(True)`) and TRIDENT take for features, and
`patches/<slide>.h5` what CLAM takes for patches, to embed or to draw them. `patch_size` counts px at the target
magnification for TRIDENT and px of a level for CLAM, so that one file cannot serve both where px are resampled.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import __version__
from ..slide_files.slide_error import SlideError
from .output_files import COORDS_FOLDER, FEATURES_FOLDER
from .patch_features import PatchFeatures

_UM_AT_1X = 10  # per px: what 20x and 40x stand for where a scanner's px have 0.5 and 0.25 um
_WRITTEN_BY = "spider_tools"


def write_features(path: Path, features: PatchFeatures) -> None:
    """Write the embeddings of the patches that were named.

    | dataset | content | attributes |
    |---|---|---|
    | features | float32 `(n, hidden)` | name, savetodir, encoder |
    | coords | int64 `(n, 2)`, upper left corners as x, y in level-0 px | TRIDENT's, and CLAM's if px are a level's |
    """
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs[_WRITTEN_BY] = __version__
        dataset = file.create_dataset("features", (len(features), features.hidden_size), "float32")
        for chunk, embeddings in features.blocks():
            dataset[chunk] = embeddings
        shared = {"name": features.name, "savetodir": FEATURES_FOLDER}
        dataset.attrs.update({**shared, "encoder": features.model})
        coords = file.create_dataset("coords", data=features.corners_level0)
        level = {} if features.level is None else _level_attributes(features)
        coords.attrs.update({**level, **_trident_attributes(features), **shared})


def write_coords(path: Path, features: PatchFeatures) -> None:
    """Write the places of the patches that were named, as CLAM does before it embeds them.

    `coords` is as in `write_features`, with CLAM's attributes: `patch_size` px of `patch_level` are one patch, which is
    level 0 where the px for the model are resampled.
    """
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs[_WRITTEN_BY] = __version__
        coords = file.create_dataset("coords", data=features.corners_level0)
        coords.attrs.update(
            {**_level_attributes(features), "name": features.name, "save_path": COORDS_FOLDER, **_mpp(features)}
        )


def check_not_foreign(path: Path) -> None:
    """Refuse to write over a file that another program has left.

    Raises:
        SlideError: There is one.
    """
    import h5py

    if not path.exists():
        return
    try:
        with h5py.File(path, "r") as file:
            ours = _WRITTEN_BY in file.attrs
    except OSError:
        ours = False
    if not ours:
        raise SlideError(
            f"{path} is not of segment_slide.py, and --outputs h5 would replace it. Move it away, or choose another "
            "--output_dir."
        )


def _trident_attributes(features: PatchFeatures) -> Mapping[str, Any]:
    lattice = features.predictions.lattice
    target = max(1, round(_UM_AT_1X / features.mpp[0]))
    level0 = target * lattice.scale[0]
    return {
        "patch_size": lattice.patch_size,
        "patch_size_level0": features.side_level0,
        "level0_magnification": int(level0) if level0 == int(level0) else level0,
        "target_magnification": target,
        "overlap": lattice.patch_size - lattice.stride,
        "level0_width": features.size[0],
        "level0_height": features.size[1],
        **_mpp(features),
    }


def _level_attributes(features: PatchFeatures) -> Mapping[str, Any]:
    """What CLAM notes of the level whose px are to be read."""
    lattice = features.predictions.lattice
    resampled = features.level is None
    size = features.size if resampled else features.level_size
    return {
        "patch_size": features.side_level0 if resampled else lattice.patch_size,
        "patch_level": 0 if resampled else features.level,
        "downsample": (1.0, 1.0) if resampled else lattice.scale,
        "level_dim": size,
        "downsampled_level_dim": size,
    }


def _mpp(features: PatchFeatures) -> Mapping[str, Any]:
    """No other program's: um per px of a patch, x and y."""
    return {"mpp": features.mpp}
