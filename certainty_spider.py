"""What a model remembers of regions, so that it can say when it does not know: tensors that travel with its weights."""

from typing import Any, Optional

import torch
from torch import nn


class _Remembered(nn.Module):
    """Tensors that stay in float32 whatever the model's dtype: distances and ranks do not survive rounding."""

    def _apply(self, fn: Any, recurse: bool = True) -> "_Remembered":
        exact = dict(self.named_buffers())
        super()._apply(fn, recurse)
        for name, tensor in exact.items():
            moved = getattr(self, name)
            if moved.dtype != tensor.dtype:
                setattr(self, name, tensor.to(moved.device))
        return self

    def forget(self) -> None:
        """Fill all with NaN, so that nothing is familiar and no class plausible until somebody says what is."""
        for tensor in self.buffers():
            tensor.fill_(float("nan"))

    def _make_room(self, **shapes: tuple[int, ...]) -> None:
        for name, shape in shapes.items():
            self.register_buffer(name, torch.empty(shape, dtype=torch.float32))
        self.forget()


class Familiarity(_Remembered):
    """How far embeddings lie from those that the model has learnt from.

    The distance of a patch is that of Mahalanobis to the nearest of some means, all with one covariance (Lee et al., "A
    simple unified framework for detecting out-of-distribution samples and adversarial attacks", NeurIPS 2018), divided
    by the square root of the number of dimensions: about 1 for what resembles the regions that it was fitted to. That
    of a region is the mean over its patches.

    Args:
        hidden_size: Of the embeddings.
        means: Number of means.

    Attributes:
        center: Float32 `(hidden_size,)`, taken off embeddings.
        whitening: Float32 `(hidden_size, hidden_size)`: what is left, times this, has the identity for covariance.
        means: Float32 `(means, hidden_size)`, in the space after both.
    """

    center: torch.Tensor
    whitening: torch.Tensor
    means: torch.Tensor

    def __init__(self, hidden_size: int, means: int) -> None:
        super().__init__()
        self._make_room(center=(hidden_size,), whitening=(hidden_size, hidden_size), means=(means, hidden_size))

    def of_patches(self, patch_embeddings: torch.Tensor) -> torch.Tensor:
        """Distances, float32 `(...)`, at least 0, of embeddings, float `(..., hidden_size)`."""
        with torch.autocast(patch_embeddings.device.type, enabled=False):
            whitened = (patch_embeddings.float() - self.center) @ self.whitening
            products = whitened @ self.means.T
            squares = whitened.square().sum(-1, keepdim=True) - 2 * products + self.means.square().sum(-1)
        return (squares.amin(-1).clamp(min=0) / patch_embeddings.shape[-1]).sqrt()

    def forward(self, patch_embeddings: torch.Tensor, context_mask: Optional[torch.Tensor] = None) -> torch.Tensor:
        """Distances of regions, float32 `(batch,)`.

        Args:
            patch_embeddings: Float `(batch, patches, hidden_size)`.
            context_mask: Bool `(batch, patches)`, True where a patch is present; others are not counted.
        """
        return mean_of_present(self.of_patches(patch_embeddings), context_mask)


def mean_of_present(values: torch.Tensor, context_mask: Optional[torch.Tensor]) -> torch.Tensor:
    """Mean over patches, float `(batch,)`, of values `(batch, patches)` where the mask, bool alike or None, is True."""
    if context_mask is None:
        return values.mean(dim=1)
    mask = context_mask.to(values.device)
    return values.masked_fill(~mask, 0).sum(dim=1) / mask.sum(dim=1)


class ClassSets(_Remembered):
    """Which classes are plausible: p-values by conformal prediction, for each class by itself (Mondrian).

    Of regions that the model has not learnt from, it remembers by class how improbable it found their true class. A
    class is as plausible for another region as regions of that class were found as improbable (Vovk, Gammerman and
    Shafer, "Algorithmic learning in a random world", 2005).

    Args:
        classes: Number of classes.
        scores: Most scores that are remembered of a class.

    Attributes:
        scores: Float32 `(classes, scores)`, ascending: see `improbability`; infinity where a class has fewer.
        p_values: Float32 `(classes, scores + 1)`: that of a region whose score exceeds so many of them.
    """

    scores: torch.Tensor
    p_values: torch.Tensor

    def __init__(self, classes: int, scores: int) -> None:
        super().__init__()
        self._make_room(scores=(classes, scores), p_values=(classes, scores + 1))

    def forward(self, probabilities: torch.Tensor) -> torch.Tensor:
        """p-values, float32 `(batch, classes)` in (0, 1], of probabilities, float of the same shape."""
        scores = improbability(probabilities).T.contiguous()
        scores = scores.to(self.scores.device)
        if torch.compiler.is_compiling():  # ONNX has no such search
            exceeded = (self.scores[:, :, None] < scores[:, None]).sum(dim=1)
        else:
            exceeded = torch.searchsorted(self.scores, scores)
        return self.p_values.gather(1, exceeded).T


def improbability(probabilities: torch.Tensor) -> torch.Tensor:
    """1 - p, float32, in steps of 1e-4: finer differences are those of rounding, on another device or in a batch."""
    return ((1 - probabilities.float()) * 1e4).round() / 1e4
