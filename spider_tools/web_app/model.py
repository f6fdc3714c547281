"""The model of the page, loaded once for regions and slides."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..imported_folder import import_of_folder
from ..publishing.limit_sentences import limit_sentences
from ..slides.facts import model_name
from ..slides.model import SlideModel
from ..weights.loading import load_image_processor, load_spider
from ..weights.reading import locate
from .settings import AppSettings

if TYPE_CHECKING:
    from ..remote_code import SpiderForImageClassification, SpiderImageProcessor


@dataclass(frozen=True)
class AppModel:
    """A model that classifies regions and slides.

    Attributes:
        name: Hub id, or the name of the folder.
        model: In float32 and evaluation mode.
        image_processor: Its own.
        for_slides: The same model, as slides need it.
    """

    name: str
    model: "SpiderForImageClassification"
    image_processor: "SpiderImageProcessor"
    for_slides: SlideModel

    @classmethod
    def load(cls, settings: AppSettings) -> "AppModel":
        """Load the model, onto a GPU if there is one.

        Raises:
            OSError: There is no such model, or it cannot be downloaded.
            ValueError: It is no SPIDER model.
        """
        model = load_spider(settings.model, settings.revision)
        image_processor = load_image_processor(settings.model, settings.revision)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        for_slides = SlideModel(model, image_processor, device)
        folder = locate(settings.model, settings.revision)
        for_slides.imported = import_of_folder(model.config, folder)
        return cls(model_name(settings.model), model, image_processor, for_slides)

    @property
    def region(self) -> str:
        """What a region is, for people."""
        config = self.model.config
        return f"{config.region_size} x {config.region_size} px at {config.mpp:g} um/px"

    @property
    def is_calibrated(self) -> bool:
        """Whether its probabilities were fitted to regions that it has not learnt from."""
        config = self.model.config
        record = getattr(config, "calibration", None)
        return isinstance(record, dict) and bool(record.get("regions")) and config.logit_temperature != 1

    @property
    def warnings(self) -> list[str]:
        """What a visitor must know before any answer."""
        imported = self.for_slides.imported
        return [] if imported is None or imported["verified"] else [str(imported["sentence"])]

    @property
    def limits(self) -> list[str]:
        """How far its answers can be believed, as far as it says so."""
        return [text.replace("`", "") for text in limit_sentences(self.model.config.to_dict())]
