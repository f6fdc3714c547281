"""The class of every tissue patch of a slide, from the embeddings of the patches around it."""

from typing import Optional

import numpy as np
import torch

from ..slide_files.lattice import Lattice
from .model import SlideModel

_REGIONS_AT_ONCE = 256
_PATCHES_AT_ONCE = 4096


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


def unfamiliarity_of_positions(
    model: SlideModel, lattice: Lattice, tissue: np.ndarray, rows: np.ndarray, embeddings: torch.Tensor
) -> Optional[np.ndarray]:
    """How unlike what the model has learnt from the surroundings of each position are; each patch is judged once.

    Args:
        model: As the others, see `classify_positions`.
        lattice: Where the patches lie.
        tissue: Which positions.
        rows: Of the embeddings.
        embeddings: Of the patches.

    Returns:
        float32 `(n,)`; None of a model that does not know.
    """
    judged = [model.patch_unfamiliarity(chunk) for chunk in embeddings.split(_PATCHES_AT_ONCE)]
    if any(part is None for part in judged):
        return None
    of_patches = torch.cat([part for part in judged if part is not None]).numpy()
    means = []
    positions = np.argwhere(tissue)
    for start in range(0, len(positions), _REGIONS_AT_ONCE):
        regions = lattice.regions(positions[start : start + _REGIONS_AT_ONCE], rows)
        present = regions >= 0
        means.append(np.where(present, of_patches[np.maximum(regions, 0)], 0).sum(axis=1) / present.sum(axis=1))
    return np.concatenate(means).astype(np.float32)


def _check_finite(logits: np.ndarray, positions: np.ndarray) -> None:
    bad = ~np.isfinite(logits).all(axis=1)
    if bad.any():
        raise FloatingPointError(
            f"The logits of {bad.sum():,} of {len(bad):,} patches are NaN or infinite, the first at row, column = "
            f"{positions[bad][0].tolist()}, expected numbers. The weights of the model's head are damaged, or its "
            "training went astray: take an earlier checkpoint."
        )
