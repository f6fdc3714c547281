"""The model as slides need it: patches to embeddings, grids of embeddings to logits."""

import hashlib
import json
from typing import TYPE_CHECKING, Any, Optional

import torch

from ..embeddings.embedder import PatchEmbedder, float_dtype
from ..embeddings.identity import store_content
from ..imported_folder import import_of_folder
from ..weights.loading import load_image_processor, load_spider
from ..weights.reading import locate
from .predictions import UNFAMILIAR
from .settings import SlideSettings

if TYPE_CHECKING:
    from ..remote_code import SpiderConfig, SpiderForImageClassification, SpiderImageProcessor


# Of the head, what no weight shows, and the values for which nothing is noted: results of earlier versions stay valid.
_UNSEEN_IN_WEIGHTS: dict[str, Any] = {
    "head_num_attention_heads": 1,
    "head_readout": "center",
    "head_pooler": False,
    "head_residual": False,
    "head_beside": None,
    "logit_temperature": 1.0,
    "unfamiliarity_threshold": None,
}


class SlideModel:
    """A SPIDER model whose backbone runs in a precision of its own, and whose head runs in float32.

    Args:
        model: Is changed.
        image_processor: Its own.
        device: Where both run.
        dtype: Of the backbone, a `Precision` of `embeddings.settings`.
        compiled: Whether to compile the backbone.

    Attributes:
        config: The model's configuration.
        content: What decides an embedding besides the pixels, in the form of JSON.
        head_sha256: Of the weights of the head, and of what it does with them.
        imported: What is known of its import, see `import_record.import_facts`; None if it was not imported, or not
            loaded from its folder.
    """

    def __init__(
        self,
        model: "SpiderForImageClassification",
        image_processor: "SpiderImageProcessor",
        device: torch.device,
        dtype: str = "float32",
        compiled: bool = False,
    ) -> None:
        model = model.float().eval()
        self.config = model.config
        self.content = store_content(None, model, image_processor, dtype)
        self.head_sha256 = _head_sha256(model)
        self.imported: Optional[dict[str, Any]] = None
        self._dtype = float_dtype(dtype)
        model.backbone.to(self._dtype)
        self._model = model.to(device)
        self._embed = PatchEmbedder(model, image_processor, device, dtype, compiled)
        self._device = device

    @classmethod
    def load(cls, settings: SlideSettings, device: torch.device) -> "SlideModel":
        """Load the model and its image processor.

        Raises:
            OSError: There is no such model.
            ValueError: Model and image processor do not fit each other, it has no classes, or is to abstain and cannot.
        """
        model = load_spider(settings.model, settings.revision)
        if settings.abstain:
            _check_abstains(model.config)
        image_processor = load_image_processor(settings.model, settings.revision)
        loaded = cls(model, image_processor, device, settings.dtype, settings.compile)
        loaded.imported = import_of_folder(model.config, locate(settings.model, settings.revision))
        return loaded

    @property
    def device(self) -> torch.device:
        """Where backbone and head run."""
        return self._device

    @property
    def pin_memory(self) -> bool:
        """Whether patches get to the device faster from pinned memory."""
        return self._device.type == "cuda"

    @property
    def bytes_per_patch(self) -> int:
        """Bytes of one embedding."""
        return self._dtype.itemsize * self.config.backbone_config.hidden_size

    def embed(self, patches: torch.Tensor) -> torch.Tensor:
        """Embeddings `(n, hidden)` on the device, in the backbone's dtype, of patches, uint8 `(n, P, P, 3)`."""
        return self._embed(patches)

    @torch.no_grad()
    def classify(self, patch_embeddings: torch.Tensor, context_mask: torch.Tensor) -> torch.Tensor:
        """Logits, float32 `(n, classes)` on the CPU, of embeddings `(n, context_size**2, hidden)` and their mask."""
        embeddings = patch_embeddings.to(self._device, torch.float32)
        return self._model.classify_grid(embeddings, context_mask.to(self._device)).cpu()

    @torch.no_grad()
    def patch_unfamiliarity(self, patch_embeddings: torch.Tensor) -> Optional[torch.Tensor]:
        """How unlike what the model has learnt from patches are, float32 `(n,)` on the CPU; None if it does not know.

        Args:
            patch_embeddings: Float `(n, hidden)`.
        """
        familiarity = self._model.familiarity
        return None if familiarity is None else familiarity.of_patches(patch_embeddings.to(self._device)).cpu()


def _check_abstains(config: "SpiderConfig") -> None:
    if not config.familiarity_means or config.unfamiliarity_threshold is None:
        raise ValueError(
            "--abstain needs a model that knows what is familiar, and this one does not: "
            "python -m spider_tools.calibration --familiarity teaches it."
        )
    if UNFAMILIAR in config.class_names:
        raise ValueError(f"--abstain maps a class {UNFAMILIAR!r}, and the model has one of that name: rename it.")


def _head_sha256(model: "SpiderForImageClassification") -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if not name.startswith("backbone."):
            digest.update(f"{name} {tuple(tensor.shape)} ".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy())
    # A model that was loaded with the code of its own folder may know fewer fields.
    fields = {name: getattr(model.config, name, usual) for name, usual in _UNSEEN_IN_WEIGHTS.items()}
    unusual = {name: value for name, value in fields.items() if value != _UNSEEN_IN_WEIGHTS[name]}
    if unusual:
        digest.update(json.dumps(unusual, sort_keys=True).encode())
    return digest.hexdigest()
