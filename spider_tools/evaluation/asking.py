"""A model that is asked about the regions of one split: as they are, in several views, and disturbed."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from datasets import Dataset

from ..data.disturbances import DISTURBANCES, UNDISTURBED, Disturbance, views
from ..data.loaders import evaluation_loader
from ..data.loading import RegionData
from ..weights.loading import load_image_processor, load_spider
from .embedded_splits import SplitEmbedder
from .predict import RegionClassifier, predict
from .settings import ModelFlags

logger = logging.getLogger(__name__)


class AskedModel:
    """Loads a model once, and asks it; each patch is embedded once for each way in which it is shown.

    Args:
        accelerator: Of the run.
        settings: Which model, and how.
        data: Whose split it is.
        split: Of `run.matching_split`.
        stores: Folder of patch embeddings, unless the settings name one.
    """

    def __init__(
        self, accelerator: Accelerator, settings: ModelFlags, data: RegionData, split: Dataset, stores: Path
    ) -> None:
        model = load_spider(settings.model, settings.revision).to(accelerator.device)
        processor = load_image_processor(settings.model, settings.revision)
        embedding = settings.embedding_settings(stores)
        self._embedder = SplitEmbedder(data.patches, model, processor, accelerator, embedding)
        self._classifier = RegionClassifier(model, normalize=None)
        self._accelerator, self._split, self._batch_size = accelerator, split, settings.batch_size

    def predict(self, sizes: Sequence[int], number_of_views: int = 1) -> tuple[np.ndarray, dict[int, np.ndarray]]:
        """The mean of the probabilities that the model gives to so many views of each region.

        Args:
            sizes: Contexts, in patches along one side.
            number_of_views: See `disturbances.views`; with 1 the regions are as they are.

        Returns:
            See `predict`.
        """
        labels, sums = self._predict(sizes, UNDISTURBED)
        for view in views(number_of_views)[1:]:
            for size, probabilities in self._predict(sizes, view)[1].items():
                sums[size] = sums[size] + probabilities
        return labels, {size: total / number_of_views for size, total in sums.items()}

    def predict_disturbed(self, size: int) -> dict[str, np.ndarray]:
        """Probabilities, float32 `(regions, classes)`, with one context, by name of the disturbance."""
        return {disturbance.name: self._predict([size], disturbance)[1][size] for disturbance in DISTURBANCES}

    def _predict(self, sizes: Sequence[int], shown: Disturbance) -> tuple[np.ndarray, dict[int, np.ndarray]]:
        logger.info("asking about regions: %s", shown.name)
        regions = self._embedder.regions({"split": self._split}, shown)["split"]
        loader = self._accelerator.prepare(evaluation_loader(regions, self._batch_size, num_workers=0))
        different = list(dict.fromkeys(sizes))
        return predict(self._accelerator, self._classifier, loader, different, progress="classifying")
