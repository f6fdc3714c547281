"""Synthetic H&E-like tissue in the SPIDER layout, for the demo and the tests.

Every slide is a lattice of patches with two tissue zones (stroma, muscle or fat) and islands of one patch in them.
Glands and lymphocytes look the same wherever they lie: glands in stroma are healthy and in muscle invasive,
lymphocytes in stroma are an inflammation and in fat a lymph node. So four classes form two pairs that only the
surroundings tell apart, as in real tissue.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..drawn_tissue import draw_patch
from ..files import write_text
from ..processes import process_pool

CONTEXT_RADIUS = 2  # of a 5x5 region
ZONES = ("Stroma", "Muscle", "Fat")
# (zone, island) -> class of a patch that shows the island
ISLAND_CLASSES = {
    ("Stroma", "gland"): "Gland healthy",
    ("Muscle", "gland"): "Gland invasive",
    ("Stroma", "lymphocytes"): "Inflammation",
    ("Fat", "lymphocytes"): "Lymph node",
    ("Stroma", "mucus"): "Mucus",
    ("Muscle", "mucus"): "Mucus",
    ("Fat", "mucus"): "Mucus",
}
CLASS_NAMES = sorted({*ZONES, *ISLAND_CLASSES.values()})
LOOK_ALIKES = (("Gland healthy", "Gland invasive"), ("Inflammation", "Lymph node"))


@dataclass(frozen=True)
class SyntheticSettings:
    """Size of a synthetic data set.

    Attributes:
        train_slides: Slides of the train split.
        test_slides: Slides of the test split.
        lattice: Patches along one side of a slide, at least 7; patches with a whole 5x5 context become records.
        patch_size: Side of a patch in px.
        seed: Same seed, same files.
    """

    train_slides: int = 18
    test_slides: int = 10
    lattice: int = 12
    patch_size: int = 224
    seed: int = 0


def write_dataset(folder: Path, settings: SyntheticSettings, workers: int = 1) -> None:
    """Draw slides and write `images/` and `metadata.json`, the latter last and whole, as the sign of completion.

    Args:
        folder: Written to; made if absent.
        settings: How much to draw.
        workers: Processes that draw slides side by side; the result does not depend on it.

    Raises:
        ValueError: The lattice is too small to hold records.
        WorkerError: One of the processes died.
    """
    if settings.lattice < 2 * CONTEXT_RADIUS + 3:
        raise ValueError(f"`lattice` must be at least {2 * CONTEXT_RADIUS + 3}, got {settings.lattice}.")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    total = settings.train_slides + settings.test_slides
    if workers > 1:
        with process_pool(workers) as pool:
            slides = list(pool.map(_write_slide, [folder] * total, [settings] * total, range(total)))
    else:
        slides = [_write_slide(folder, settings, number) for number in range(total)]
    write_text(folder / "metadata.json", json.dumps([record for slide in slides for record in slide], indent=1))


def _write_slide(folder: Path, settings: SyntheticSettings, number: int) -> list[dict[str, Any]]:
    """Draw slide `number`, write its patches, return its records."""
    slide_id = f"slide_{number:03d}"
    plan = SlidePlan.draw(settings, number)
    pixels = plan.paint()
    size, n = settings.patch_size, settings.lattice
    names = [[f"{slide_id}_{row:02d}_{column:02d}.jpg" for column in range(n)] for row in range(n)]
    for row in range(n):
        for column in range(n):
            tile = pixels[row * size : (row + 1) * size, column * size : (column + 1) * size]
            Image.fromarray(np.ascontiguousarray(tile)).save(folder / "images" / names[row][column], quality=90)

    split = "train" if number < settings.train_slides else "test"
    records = []
    for row in range(CONTEXT_RADIUS, n - CONTEXT_RADIUS):
        for column in range(CONTEXT_RADIUS, n - CONTEXT_RADIUS):
            if plan.class_of(row, column) is None:
                continue
            offsets = range(-CONTEXT_RADIUS, CONTEXT_RADIUS + 1)
            context = {
                f"{i + CONTEXT_RADIUS}_{j + CONTEXT_RADIUS}": names[row + i][column + j]
                for i in offsets
                for j in offsets
                if (i, j) != (0, 0)
            }
            records.append(
                {
                    "slide_id": slide_id,
                    "image_name": names[row][column],
                    "context_info": context,
                    "class": plan.class_of(row, column),
                    "split": split,
                }
            )
    return records


@dataclass
class SlidePlan:
    """What lies where on one slide, and the random state to paint it with; draw it anew to paint it again."""

    zones: tuple[str, str]
    boundary: np.ndarray  # (lattice,) columns of the first zone in each row of patches
    islands: dict[tuple[int, int], str]
    size: int
    rng: np.random.Generator

    @classmethod
    def draw(cls, settings: SyntheticSettings, number: int) -> "SlidePlan":
        """The plan of slide `number` of a data set."""
        rng = np.random.default_rng([settings.seed, number])
        n = settings.lattice
        zones = tuple(rng.choice(ZONES, size=2, replace=False).tolist())
        middle, slope = rng.uniform(n / 3, 2 * n / 3), rng.uniform(-0.3, 0.3)
        boundary = np.round(middle + slope * (np.arange(n) - n / 2)).astype(int)
        plan = cls(zones, boundary, {}, settings.patch_size, rng)
        for row in range(CONTEXT_RADIUS, n - CONTEXT_RADIUS):
            for column in range(CONTEXT_RADIUS + row % 2, n - CONTEXT_RADIUS, 2):
                zone = plan.zone(row, column)
                choices = [island for at, island in ISLAND_CLASSES if at == zone and island != "mucus"]
                if plan._surrounded(row, column):
                    plan.islands[row, column] = "mucus" if rng.random() < 0.2 else str(rng.choice(choices))
        return plan

    def zone(self, row: int, column: int) -> str:
        """The tissue around a patch's island, if it shows one."""
        return self.zones[0] if column < self.boundary[row] else self.zones[1]

    def tissue_at(self, row: int, column: int) -> str:
        """The class that a patch shows, whether or not it becomes a record."""
        zone, island = self.zone(row, column), self.islands.get((row, column))
        return zone if island is None else ISLAND_CLASSES[zone, island]

    def class_of(self, row: int, column: int) -> str | None:
        """Class of a patch that becomes a record, else None.

        Left out are patches beside a zone boundary, whose class would be a matter of taste, and half of the plain
        ones, which would outnumber the islands.
        """
        if not self._surrounded(row, column):
            return None
        return None if (row, column) not in self.islands and row % 2 else self.tissue_at(row, column)

    def _surrounded(self, row: int, column: int) -> bool:
        around = {self.zone(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)}
        return len(around) == 1

    def paint(self) -> np.ndarray:
        """The slide's pixels, uint8 `(lattice * size, lattice * size, 3)`."""
        n, size, rng = len(self.boundary), self.size, self.rng
        canvas = Image.new("RGB", (n * size, n * size))
        for row in range(n):
            for column in range(n):
                self._paint_patch(canvas, row, column)
        pixels = np.asarray(canvas, dtype=np.float32) / 255
        stain = rng.uniform(0.85, 1.2, size=3).astype(np.float32)  # slides are never stained alike
        pixels = pixels**stain + rng.normal(0, 0.015, size=pixels.shape).astype(np.float32)
        return (pixels.clip(0, 1) * 255).astype(np.uint8)

    def _paint_patch(self, canvas: Image.Image, row: int, column: int) -> None:
        island = self.islands.get((row, column))
        tile = draw_patch(self.zone(row, column) if island is None else island, self.size, self.rng)
        canvas.paste(tile, (column * self.size, row * self.size))
