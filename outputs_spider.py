"""What SPIDER answers: tensors, and the names of the classes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Optional

import torch
from transformers.utils import ModelOutput


@dataclass
class SpiderOutput(ModelOutput):
    """Output of `SpiderForImageClassification`: tensors, and the names of the classes.

    Whatever gathers, pads, unbatches or moves outputs (DataParallel, accelerate, pipelines) rebuilds them from their
    type and their tensors, and breaks on strings. So the names belong to the type: see `output_type`.

    Attributes:
        loss (`torch.FloatTensor` of shape `()`, with `labels`): Mean cross entropy.
        logits (`torch.FloatTensor` of shape `(batch, num_labels)`): Scores before the softmax.
        label (`torch.LongTensor` of shape `(batch,)`): Index of the predicted class.
        context_attention (`torch.FloatTensor` of shape `(batch, context_size**2)`, with `output_attentions`):
            How much the token that the class is read from (see `head_readout` of the configuration, by default the
            centre) looks at each patch in the head's last layer, averaged over its attention heads. Rows sum to 1; a
            missing patch gets 0.
        class_names (`tuple[str, ...]`): All class names, in the order of the logits.
        predicted_class_names (`list[str]` of length `batch`): Name of the predicted class of each region.
    """

    loss: Optional[torch.FloatTensor] = None
    logits: Optional[torch.FloatTensor] = None
    label: Optional[torch.LongTensor] = None
    context_attention: Optional[torch.FloatTensor] = None

    class_names: ClassVar[tuple[str, ...]] = ()

    @property
    def predicted_class_names(self) -> list[str]:
        """Name of the predicted class of each region, `batch` strings."""
        return [] if self.label is None else [self.class_names[i] for i in self.label.tolist()]

    def __getitem__(self, key: Any) -> Any:
        """Field by name, `"predicted_class_names"` included, or by index of `to_tuple`."""
        return self.predicted_class_names if key == "predicted_class_names" else super().__getitem__(key)

    def __reduce__(self) -> tuple:
        """Pickle the names with the tensors; the type itself is made anew where it is read."""
        return _rebuild_output, (self.class_names, dict(self))


_OUTPUT_TYPES: dict[tuple[str, ...], type[SpiderOutput]] = {}


def output_type(class_names: Iterable[str]) -> type[SpiderOutput]:
    """The `SpiderOutput` whose logits are of these classes; always the same type for the same names."""
    names = tuple(class_names)
    if names not in _OUTPUT_TYPES:
        _OUTPUT_TYPES[names] = type(SpiderOutput.__name__, (SpiderOutput,), {"class_names": names})
    return _OUTPUT_TYPES[names]


def _rebuild_output(class_names: tuple[str, ...], fields: dict[str, torch.Tensor]) -> SpiderOutput:
    return output_type(class_names)(**fields)
