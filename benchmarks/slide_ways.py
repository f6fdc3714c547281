"""Three ways of working on a slide: as the tool does it, region by region, and the embeddings alone."""

import hashlib
import json
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch

from spider_tools import remote_code
from spider_tools.slide_files.lattice import Lattice
from spider_tools.slide_files.reader import open_slide
from spider_tools.slide_files.view import SlideView, model_scale
from spider_tools.slide_sources.finding import SlideTask
from spider_tools.slides.embedding import in_reading_order
from spider_tools.slides.model import SlideModel
from spider_tools.slides.one import map_slide
from spider_tools.slides.settings import SlideSettings
from spider_tools.tissue.tissue_mask import find_tissue

from .models import random_model


@dataclass(frozen=True)
class Case:
    """A slide and a model.

    Attributes:
        slide: The file.
        backbone: Its architecture, None for Hibou-L.
        dtype: Of the backbone.
        device: Where the model runs.
        batch_size: Patches at once, in ours and in the embeddings alone.
        workers: Processes that read, in ours.
        regions: That the plain way classifies, spread over the tissue.
        rounds: Timed runs of each way.
        memory: Whether to measure memory, for which ways run once in processes of their own.
    """

    slide: Path
    backbone: Optional[dict[str, Any]]
    device: torch.device
    dtype: str = "float32"
    batch_size: int = 64
    workers: int = 2
    regions: int = 3
    rounds: int = 3
    memory: bool = True


class Ours:
    """`segment_slide`, into a folder of its own every time."""

    def __init__(self, case: Case) -> None:
        model = random_model(case.backbone)
        self.model = SlideModel(model, remote_code.image_processor_class()(), case.device, case.dtype)
        self.case = case
        self.seconds: list[float] = []  # of reading, embedding and classification, run by run

    def __call__(self) -> None:
        """Leave nothing."""
        with tempfile.TemporaryDirectory() as folder:
            self.write_to(Path(folder))

    def write_to(self, folder: Path) -> dict[str, Any]:
        """Leave the results in `folder`/slide."""
        settings = SlideSettings(
            "random weights",
            folder,
            dtype=self.case.dtype,
            batch_size=self.case.batch_size,
            num_workers=self.case.workers,
        )
        result = map_slide(SlideTask(self.case.slide, "slide"), self.model, settings)
        parts = json.loads((folder / "slide" / "slide.json").read_text())["seconds"]
        self.seconds.append(parts["embedding"] + parts["classification"])
        return {"predicted": result.predicted, "embedded": result.embedded}


class Alone:
    """The model's embeddings of batches in memory, the same as ours makes: of patches that are alike, only one.

    Attributes:
        rows: Which of the places' corners are embedded, int64.
    """

    def __init__(self, model: SlideModel, places: "Places", batch_size: int) -> None:
        patches = [places.view.read((x, y), (places.side, places.side)) for x, y in places.corners.tolist()]
        first: dict[bytes, int] = {}
        for row, patch in enumerate(patches):
            first.setdefault(hashlib.sha256(patch).digest(), row)
        self.rows = np.array(list(first.values()))
        self.batches = torch.from_numpy(np.stack([patches[row] for row in self.rows])).split(batch_size)
        if model.pin_memory:
            self.batches = [batch.pin_memory() for batch in self.batches]
        self.model = model

    def __call__(self) -> None:
        """Embed all of them."""
        for batch in self.batches:
            embeddings = self.model.embed(batch)
        embeddings.cpu()


class Plain:
    """Some of the regions, each cut out and classified by itself, as the models were published."""

    def __init__(self, case: Case, places: "Places") -> None:
        self.model = random_model(case.backbone, case.device)
        self.model.backbone.to(getattr(torch, case.dtype))
        self.image_processor = remote_code.image_processor_class()()
        self.places = places
        chosen = np.linspace(0, len(places.positions) - 1, min(case.regions, len(places.positions)))
        self.chosen = chosen.astype(int)
        self.embedded = 0  # in the last run

    def __call__(self) -> np.ndarray:
        """Probabilities `(regions, classes)` of the chosen positions."""
        self.embedded, logits = 0, []
        config = self.model.config
        for corner in self.places.lattice.corners(self.places.positions[self.chosen]):
            pixels, mask = cut(self.places.view, corner, config)
            inputs = self.image_processor(pixels, return_tensors="pt")["pixel_values"]
            with torch.no_grad():
                output = self.model(inputs.to(self.model.device, self.model.dtype), context_mask=mask)
            logits.append(output.logits.float().cpu())
            self.embedded += int(mask.sum())
        return torch.cat(logits).softmax(dim=-1).numpy()


@dataclass(frozen=True)
class Places:
    """Where the patches of a slide are for a model of this configuration."""

    slide_file: Path
    config: Any

    @cached_property
    def view(self) -> SlideView:
        """The slide at the model's um/px."""
        slide = open_slide(self.slide_file)
        return SlideView(slide, model_scale(slide, self.config.mpp, SlideSettings.mpp_tolerance))

    @cached_property
    def lattice(self) -> Lattice:
        """Patches side by side."""
        return Lattice.on(self.view, self.config, self.side)

    @cached_property
    def positions(self) -> np.ndarray:
        """Of the tissue, int64 `(n, 2)` as row, column."""
        return np.argwhere(self._cells)

    @cached_property
    def corners(self) -> np.ndarray:
        """Of the patches to embed, int64 `(n, 2)` as x, y, in the order in which ours reads them."""
        return in_reading_order(self.lattice.corners(np.argwhere(self.lattice.with_context(self._cells))))

    @property
    def side(self) -> int:
        """Of a patch in px."""
        return self.config.patch_size

    @cached_property
    def _cells(self) -> np.ndarray:
        return find_tissue(self.view.slide, self.lattice).cells(self.lattice, SlideSettings.min_tissue)


def cut(view: SlideView, corner: np.ndarray, config: Any) -> tuple[np.ndarray, torch.Tensor]:
    """One region `(1120, 1120, 3)` around a patch, white beyond the slide, and its mask `(1, 25)`."""
    side, margin = config.region_size, config.context_size // 2 * config.patch_size
    start, end = corner - margin, corner - margin + side
    low, high = np.maximum(start, 0), np.minimum(end, view.size)
    pixels = np.full((side, side, 3), 255, dtype=np.uint8)
    inside = view.read(tuple(low.tolist()), tuple((high - low).tolist()))
    pixels[low[1] - start[1] : high[1] - start[1], low[0] - start[0] : high[0] - start[0]] = inside
    first = start[:, None] + np.arange(config.context_size) * config.patch_size
    present = (first >= 0) & (first + config.patch_size <= np.array(view.size)[:, None])
    return pixels, torch.from_numpy(np.outer(present[1], present[0]).reshape(1, -1))
