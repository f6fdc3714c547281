"""A model that is asked about the regions of a data set."""

from pathlib import Path

import pyarrow as pa
from accelerate import Accelerator
from datasets import Dataset

from ..data.grid import region_grid, unique_patch_names
from ..data.loaders import EmbeddedRegions, evaluation_loader
from ..data.loading import RegionData
from ..embeddings.precompute import embed_patches_once
from ..embeddings.store import EmbeddingStore
from ..weights.loading import load_image_processor, load_spider
from .predict import Answers, RegionClassifier, predict
from .settings import ModelFlags


class AskedModel:
    """A model and the data set whose regions it is asked about; each patch is embedded once.

    Args:
        accelerator: Of the run.
        settings: Which model, and how.
        data: Whose regions they are.
        stores: Folder of patch embeddings, unless the settings name one.

    Attributes:
        model: In float32, on the device of the run.
        image_processor: Its own.
    """

    def __init__(self, accelerator: Accelerator, settings: ModelFlags, data: RegionData, stores: Path) -> None:
        self.model = load_spider(settings.model, settings.revision).to(accelerator.device)
        self.image_processor = load_image_processor(settings.model, settings.revision)
        self._accelerator = accelerator
        self._settings = settings
        self._data = data
        self._stores = stores

    def store_of(self, names: pa.Array) -> EmbeddingStore:
        """The store that holds the embeddings of patches; what it lacks is embedded."""
        embedding = self._settings.embedding_settings(self._stores)
        return embed_patches_once(
            names, self._data.patches, self.model, self.image_processor, self._accelerator, embedding
        )

    def about(self, split: dict[str, Dataset], sizes: list[int]) -> Answers:
        """Its answers to all regions of a split of `matching_split`, by its name, with contexts of these sizes."""
        store = self.store_of(unique_patch_names(split))
        regions = EmbeddedRegions(region_grid(next(iter(split.values())), store.rows), store)
        loader = self._accelerator.prepare(evaluation_loader(regions, self._settings.batch_size, num_workers=0))
        classifier = RegionClassifier(self.model, normalize=None)
        return predict(self._accelerator, classifier, loader, list(dict.fromkeys(sizes)), progress="classifying")
