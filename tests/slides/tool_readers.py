"""How CLAM and TRIDENT read the files that they take for their own, step by step."""

import numpy as np
import pytest
import torch

h5py = pytest.importorskip("h5py")


def clam_bag(features_dir, slide_id):
    """A slide of CLAM's data set after `load_from_h5(True)`: float tensor of features, array of coords."""
    with h5py.File(features_dir / "h5_files" / f"{slide_id}.h5", "r") as file:
        features, coords = file["features"][:], file["coords"][:]
    return torch.from_numpy(features), coords


def clam_patches(data_dir, slide_id, slide):
    """What CLAM reads of an OpenSlide to embed it: patches, uint8 `(n, P, P, 3)`, and their coords."""
    with h5py.File(data_dir / "patches" / f"{slide_id}.h5", "r") as file:
        level, size = file["coords"].attrs["patch_level"], file["coords"].attrs["patch_size"]
        coords = [file["coords"][number] for number in range(len(file["coords"]))]
    read = [np.asarray(slide.read_region(corner, level, (size, size)).convert("RGB")) for corner in coords]
    return np.stack(read), np.stack(coords)


def clam_stitch_sizes(data_dir, slide_id, slide):
    """Of the drawing of CLAM's patches: the name, and the side of a patch in level-0 px."""
    with h5py.File(data_dir / "patches" / f"{slide_id}.h5", "r") as file:
        attributes = dict(file["coords"].attrs)
    level = attributes["patch_level"]
    side = (np.array((attributes["patch_size"],) * 2) * slide.level_downsamples[level]).astype(np.int32)
    assert tuple(attributes["level_dim"]) == tuple(attributes["downsampled_level_dim"])
    assert tuple(attributes["level_dim"]) == slide.level_dimensions[level]
    return attributes["name"], tuple(side)


def trident_batch(path):
    """What TRIDENT gives to the encoder of a slide: features `(1, n, hidden)`, coords `(1, n, 2)`, attributes."""
    with h5py.File(path, "r") as file:
        coords, features = file["coords"][:], file["features"][:]
        attributes = dict(file["coords"].attrs)
    return {
        "features": torch.from_numpy(features).float().unsqueeze(0),
        "coords": torch.from_numpy(coords).unsqueeze(0),
        "attributes": attributes,
    }


def trident_side_level0(attributes):
    """Side of the square that TRIDENT's patcher reads, in level-0 px."""
    size, level0, target = (
        attributes.get(name, None) for name in ("patch_size", "level0_magnification", "target_magnification")
    )
    assert None not in (size, level0, target)
    return round(size * ((10 / target) / (10 / level0)))
