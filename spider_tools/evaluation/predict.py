"""Class probabilities for all regions of a split, by all processes, without duplicates."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from tqdm.auto import tqdm

from ..workers import worker_failures_in_words

if TYPE_CHECKING:
    from ..remote_code import SpiderForImageClassification


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model says about the regions of a split, in its order.

    Attributes:
        labels: The true classes, int64 `(regions,)`.
        probabilities: By context size, float32 `(regions, classes)`.
        unfamiliarity: With all of the context, float32 `(regions,)`; None of a model without `familiarity`.
    """

    labels: np.ndarray
    probabilities: dict[int, np.ndarray]
    unfamiliarity: Optional[np.ndarray] = None


class RegionClassifier(nn.Module):
    """Classifies the batches of `batches.py`, from embeddings or from pixels, with gradients through all of it.

    Args:
        model: Embeds patches, as bytes, and classifies grids.
    """

    def __init__(self, model: "SpiderForImageClassification") -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Logits `(regions, classes)`; a patch that regions share is embedded once."""
        return self.model(patch_embeddings=self.embed(batch), context_mask=batch["context_mask"]).logits

    def embed(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Patch embeddings `(regions, patches, hidden)` of a batch."""
        if "patch_embeddings" in batch:
            return batch["patch_embeddings"]
        embeddings = self.model.embed_patches(batch["patches"].permute(0, 3, 1, 2))
        return embeddings[batch["patch_index"].clamp(min=0)]


def context_window(patches: int, context_size: int) -> torch.Tensor:
    """bool `(patches,)`: True for the central `context_size` x `context_size` patches of a grid.

    Raises:
        ValueError: The size is even, or larger than the grid.
    """
    side = int(patches**0.5)
    if context_size % 2 == 0 or not 1 <= context_size <= side:
        raise ValueError(f"A context size must be odd and between 1 and {side}, got {context_size}.")
    margin = (side - context_size) // 2
    window = torch.zeros(side, side, dtype=torch.bool)
    window[margin : side - margin, margin : side - margin] = True
    return window.flatten()


@torch.no_grad()
def predict(
    accelerator: Accelerator, classifier: nn.Module, loader: Any, context_sizes: Sequence[int], progress: str = ""
) -> Answers:
    """Classify every region once, with contexts of one or more sizes.

    Args:
        accelerator: Gathers from all processes; every process gets everything.
        classifier: A prepared `RegionClassifier`. It is in evaluation mode afterwards.
        loader: A prepared `evaluation_loader`.
        context_sizes: Patches along one side that are not masked.
        progress: Title of the progress bar; none without it.

    Raises:
        FloatingPointError: Logits are NaN or infinite.
    """
    classifier.eval()
    plain = accelerator.unwrap_model(classifier)
    labels: list[torch.Tensor] = []
    unfamiliarity: list[torch.Tensor] = []
    probabilities: dict[int, list[torch.Tensor]] = {size: [] for size in context_sizes}
    hidden = not progress or not accelerator.is_main_process
    with (
        worker_failures_in_words(),
        tqdm(total=len(loader.dataset), desc=progress, unit="region", disable=hidden) as bar,
    ):
        for batch in loader:
            embedded = {"patch_embeddings": _with_autocast(accelerator, plain.embed, batch)}
            if plain.model.familiarity is not None:
                found = plain.model.familiarity(embedded["patch_embeddings"], batch["context_mask"])
                unfamiliarity.append(accelerator.gather_for_metrics(found).cpu())
            for size in context_sizes:
                mask = batch["context_mask"] & context_window(batch["context_mask"].shape[1], size).to(
                    batch["context_mask"].device
                )
                logits = _with_autocast(accelerator, plain, {**embedded, "context_mask": mask})
                if not bool(torch.isfinite(logits).all()):
                    raise FloatingPointError(
                        "The model gives logits that are NaN or infinite: its weights are damaged, or overflow in this "
                        "precision."
                    )
                gathered = accelerator.gather_for_metrics(logits.float().softmax(dim=-1))
                probabilities[size].append(gathered.cpu())
            labels.append(accelerator.gather_for_metrics(batch["labels"]).cpu())
            bar.update(len(labels[-1]))
    return Answers(
        torch.cat(labels).numpy(),
        {size: torch.cat(parts).numpy() for size, parts in probabilities.items()},
        torch.cat(unfamiliarity).numpy() if unfamiliarity else None,
    )


def _with_autocast(accelerator: Accelerator, function: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with accelerator.autocast():
        return function(batch)
