"""The regions of splits from a frozen backbone, as they are or disturbed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from accelerate import Accelerator
from datasets import Dataset

from ..data.disturbances import UNDISTURBED, Disturbance
from ..data.disturbed_patches import DisturbedPatches, turned_grid
from ..data.grid import region_grid, unique_patch_names
from ..data.loaders import EmbeddedRegions
from ..data.patches import PatchSource
from ..embeddings.precompute import embed_patches_once
from ..embeddings.settings import EmbeddingSettings

if TYPE_CHECKING:
    from ..remote_code import SpiderForImageClassification, SpiderImageProcessor


@dataclass(frozen=True)
class SplitEmbedder:
    """Embeds each unique patch once, and once more for each disturbance, into a store of its own.

    Attributes:
        source: Reads the patches.
        model: Of the backbone; it is not changed.
        image_processor: Its own.
        accelerator: Of the run; all processes share the work.
        settings: Of the stores.
    """

    source: PatchSource
    model: "SpiderForImageClassification"
    image_processor: "SpiderImageProcessor"
    accelerator: Accelerator
    settings: EmbeddingSettings

    def regions(
        self, splits: Mapping[str, Dataset], disturbance: Disturbance = UNDISTURBED
    ) -> dict[str, EmbeddedRegions]:
        """The regions of each split; what the stores have already is not embedded again.

        Args:
            splits: By name, with the columns `slide_id`, `label` and `patches`.
            disturbance: Of all patches alike; turned regions have a turned grid.

        Raises:
            ValueError: A patch cannot be read.
            OSError: Embeddings cannot be written; what was saved stays.
        """
        store = embed_patches_once(
            unique_patch_names(splits),
            DisturbedPatches(self.source, disturbance, self.model.config.mpp),
            self.model,
            self.image_processor,
            self.accelerator,
            self.settings,
        )
        return {
            name: EmbeddedRegions(turned_grid(region_grid(split, store.rows), disturbance.turn), store)
            for name, split in splits.items()
        }
