"""The patches of a slide as AnnData, which scanpy and squidpy read."""

from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from .output_files import column_key
from .outputs import predictions_table
from .patch_features import PatchFeatures


def write_h5ad(path: Path, features: PatchFeatures) -> None:
    """Write what `as_anndata` makes as one HDF5 file."""
    _write(features, "write_h5ad", path)


def write_zarr(path: Path, features: PatchFeatures) -> None:
    """Write what `as_anndata` makes as a folder of zarr."""
    _write(features, "write_zarr", path)


def as_anndata(features: PatchFeatures) -> Any:
    """The patches that were named, one observation each.

    | part | content |
    |---|---|
    | X | embeddings, float32 `(n, hidden)` |
    | obs | the columns of predictions.parquet; `class` is categorical, with all classes of the model |
    | obsm | `spatial`, float64 `(n, 2)`, centres as x, y in level-0 px; `probabilities`, float32 `(n, classes)` |
    | uns | `spider`: slide, model, class_names, um/px and sizes |

    Observations are called `<slide>-<x>-<y>` by the upper left px of the patch at the model's um/px: a patch has the
    same name whatever the stride. In names of columns `%2F` stands for a slash, see `output_files.column_key`.

    Returns:
        An `anndata.AnnData`, which holds all embeddings in memory.
    """
    import anndata
    import pandas as pd

    predictions = features.predictions
    embeddings = np.empty((len(features), features.hidden_size), dtype=np.float32)
    for chunk, block in features.blocks():
        embeddings[chunk] = block
    observations = predictions_table(predictions).to_pandas()
    # Texts as objects: not every version of anndata writes those of pandas 3.
    classes = pd.Index(predictions.class_names, dtype=object)
    observations["class"] = pd.Categorical.from_codes(predictions.predicted, categories=classes)
    observations["is_familiar"] = observations["is_familiar"].astype("boolean")  # which may be unknown
    observations.columns = pd.Index([column_key(name) for name in observations.columns], dtype=object)
    corners = predictions.lattice.corners(predictions.positions).tolist()
    observations.index = pd.Index([f"{features.name}-{x}-{y}" for x, y in corners], dtype=object)
    variables = pd.Index([f"embedding_{number}" for number in range(features.hidden_size)], dtype=object)
    return anndata.AnnData(
        X=embeddings,
        obs=observations,
        var=pd.DataFrame(index=variables),
        obsm={"spatial": predictions.centers_level0, "probabilities": predictions.probabilities},
        uns={"spider": _about(features)},
    )


def _about(features: PatchFeatures) -> dict[str, Any]:
    lattice = features.predictions.lattice
    return {
        "slide": features.name,
        "slide_size_level0": list(features.size),
        "mpp_level0": list(features.predictions.mpp),
        "mpp": list(features.mpp),
        "patch_size": lattice.patch_size,
        "stride": lattice.stride,
        "class_names": list(features.predictions.class_names),
        "model": features.model,
        "spider_tools": __version__,
    }


def _write(features: PatchFeatures, method: str, path: Path) -> None:
    getattr(as_anndata(features), method)(path)
