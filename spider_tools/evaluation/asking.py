"""A model that is asked about the regions of a data set: as they are, in several views, and disturbed."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
from accelerate import Accelerator
from datasets import Dataset

from ..data.disturbances import DISTURBANCES, UNDISTURBED, Disturbance, views
from ..data.loaders import evaluation_loader
from ..data.loading import RegionData
from ..embeddings.precompute import embed_patches_once
from ..embeddings.store import EmbeddingStore
from ..weights.loading import load_image_processor, load_spider
from .embedded_splits import SplitEmbedder
from .predict import Answers, RegionClassifier, predict
from .settings import ModelFlags

logger = logging.getLogger(__name__)


class AskedModel:
    """Loads a model once, and asks it; each patch is embedded once for each way in which it is shown.

    Args:
        accelerator: Of the run.
        settings: Which model, and how.
        data: Whose regions it is asked about.
        stores: Folder of patch embeddings, unless the settings name one.

    Attributes:
        model: In float32, on the device of the run.
        image_processor: Its own.
    """

    def __init__(self, accelerator: Accelerator, settings: ModelFlags, data: RegionData, stores: Path) -> None:
        self.model = load_spider(settings.model, settings.revision).to(accelerator.device)
        self.image_processor = load_image_processor(settings.model, settings.revision)
        embedding = settings.embedding_settings(stores)
        self._embedder = SplitEmbedder(data.patches, self.model, self.image_processor, accelerator, embedding)
        self._accelerator = accelerator
        self._batch_size = settings.batch_size

    def store_of(self, names: pa.Array) -> EmbeddingStore:
        """The store that holds the embeddings of patches; what it lacks is embedded."""
        of = self._embedder
        return embed_patches_once(names, of.source, of.model, of.image_processor, of.accelerator, of.settings)

    def answers(self, split: Dataset, sizes: Sequence[int], number_of_views: int = 1) -> Answers:
        """What it says about all regions of a split: the mean of the probabilities that it gives to so many views.

        Args:
            split: Of `run.matching_split`.
            sizes: Contexts, in patches along one side.
            number_of_views: See `disturbances.views`; with 1 the regions are as they are, which `unfamiliarity` is of
                always.
        """
        plain = self._shown(split, sizes, UNDISTURBED)
        sums = plain.probabilities
        for view in views(number_of_views)[1:]:
            seen = self._shown(split, sizes, view).probabilities
            sums = {size: total + seen[size] for size, total in sums.items()}
        return replace(plain, probabilities={size: total / number_of_views for size, total in sums.items()})

    def answers_if_disturbed(self, split: Dataset, size: int) -> dict[str, Answers]:
        """What it says about the regions, with one context, by name of the disturbance."""
        return {disturbance.name: self._shown(split, [size], disturbance) for disturbance in DISTURBANCES}

    def _shown(self, split: Dataset, sizes: Sequence[int], disturbance: Disturbance) -> Answers:
        logger.info("asking about regions: %s", disturbance.name)
        regions = self._embedder.regions({"split": split}, disturbance)["split"]
        loader = self._accelerator.prepare(evaluation_loader(regions, self._batch_size, num_workers=0))
        classifier = RegionClassifier(self.model)
        return predict(self._accelerator, classifier, loader, list(dict.fromkeys(sizes)), progress="classifying")
