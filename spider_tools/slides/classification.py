"""The class of every tissue patch of a slide, from the embeddings of the patches around it."""

import numpy as np
import torch

from .lattice import Lattice
from .model import SlideModel

_REGIONS_AT_ONCE = 256


def classify_positions(
    model: SlideModel, lattice: Lattice, tissue: np.ndarray, rows: np.ndarray, embeddings: torch.Tensor
) -> np.ndarray:
    """Logits of the tissue patches of a slide.

    Args:
        model: Has the head.
        lattice: Where the patches lie.
        tissue: bool of the lattice's shape, True where a patch is to be classified.
        rows: int64 of the lattice's shape, rows of `embeddings`; -1 where there is none, which nothing needs.
        embeddings: Float `(patches, hidden)`; may be mapped from a file.

    Returns:
        float32 `(n, classes)`, for the positions in row-major order. A patch of the context that lies beyond the
        slide's edge, wholly or partly, is masked, as in the image processor.

    Raises:
        FloatingPointError: Logits are NaN or infinite.
    """
    logits = []
    positions = np.argwhere(tissue)
    for start in range(0, len(positions), _REGIONS_AT_ONCE):
        regions = torch.from_numpy(lattice.regions(positions[start : start + _REGIONS_AT_ONCE], rows))
        logits.append(model.classify(embeddings[regions.clamp(min=0)], regions >= 0))
    found = torch.cat(logits).numpy()
    _check_finite(found, positions)
    return found


def _check_finite(logits: np.ndarray, positions: np.ndarray) -> None:
    bad = ~np.isfinite(logits).all(axis=1)
    if bad.any():
        raise FloatingPointError(
            f"The logits of {bad.sum():,} of {len(bad):,} patches are NaN or infinite, the first at row, column = "
            f"{positions[bad][0].tolist()}, expected numbers. The weights of the model's head are damaged, or its "
            "training went astray: take an earlier checkpoint."
        )
