"""Regions of drawn tissue to try the page with."""

from pathlib import Path

import numpy as np
from PIL import Image

from ..demo.synthetic import ISLAND_CLASSES, SlidePlan
from ..drawn_tissue import draw_mosaics
from .model import AppModel

# (zone, what the central patch shows, seed)
_DRAWN = (
    ("Stroma", "gland", 12),
    ("Muscle", "gland", 9),
    ("Stroma", "lymphocytes", 21),
    ("Fat", "lymphocytes", 11),
    ("Muscle", "mucus", 0),
)
_STRANGE = "Strange colours"
_SEED = 11  # with those of the regions: stains as the demo's model has seen them
_QUALITY = 90  # as the demo's data set


def write_examples(folder: Path, model: AppModel) -> list[tuple[Path, str]]:
    """Draw regions of the size that a model takes, as JPEG files.

    The tissue is that of the demo, whose model names it as the captions do; the last region is one that it should find
    unfamiliar. To any other model all of them are drawings.

    Args:
        folder: Written to; made if absent.
        model: Says how large a region is.

    Returns:
        Paths and captions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    side, size = model.model.config.context_size, model.model.config.patch_size
    regions = {
        ISLAND_CLASSES[zone, island]: _plan(zone, island, side, size, seed).paint() for zone, island, seed in _DRAWN
    }
    regions[_STRANGE] = draw_mosaics(1, side, size)[0]
    written = []
    for name, pixels in regions.items():
        path = folder / f"drawn_{name.lower().replace(' ', '_')}.jpg"
        Image.fromarray(pixels).save(path, quality=_QUALITY)
        written.append((path, name))
    return written


def _plan(zone: str, island: str, side: int, size: int, seed: int) -> SlidePlan:
    """A region in one zone, with an island in the middle and others at every second patch, as the demo's slides are."""
    rng = np.random.default_rng([_SEED, seed])
    others = [name for at, name in ISLAND_CLASSES if at == zone and name != "mucus"]
    places = [(row, column) for row in range(side) for column in range(side) if (row + column) % 2 == 0]
    islands = {place: str(rng.choice(others)) for place in places} | {(side // 2, side // 2): island}
    return SlidePlan((zone, zone), np.full(side, side), islands, size, rng)
