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
        unfamiliarity (`torch.FloatTensor` of shape `(batch,)`, of a model that has `familiarity`): How unlike what the
            model has learnt from the region is, from 0; about 1 is usual.
        is_familiar (`torch.BoolTensor` of shape `(batch,)`, where the configuration has `unfamiliarity_threshold`):
            Whether `unfamiliarity` is at most that. The class of a region that is not is a guess at best.
        class_p_values (`torch.FloatTensor` of shape `(batch, num_labels)`, of a model that has `class_sets`): How
            plausible each class is, in (0, 1]; see `prediction_sets`.
        class_names (`tuple[str, ...]`): All class names, in the order of the logits.
        predicted_class_names (`list[str]` of length `batch`): Name of the predicted class of each region.
    """

    loss: Optional[torch.FloatTensor] = None
    logits: Optional[torch.FloatTensor] = None
    label: Optional[torch.LongTensor] = None
    context_attention: Optional[torch.FloatTensor] = None
    unfamiliarity: Optional[torch.FloatTensor] = None
    is_familiar: Optional[torch.BoolTensor] = None
    class_p_values: Optional[torch.FloatTensor] = None

    class_names: ClassVar[tuple[str, ...]] = ()

    @property
    def predicted_class_names(self) -> list[str]:
        """Name of the predicted class of each region, `batch` strings."""
        return [] if self.label is None else [self.class_names[i] for i in self.label.tolist()]

    def prediction_sets(self, alpha: float = 0.1) -> list[list[str]]:
        """The classes that cannot be ruled out, by region, the most probable first.

        Of regions like those that the sets were fitted to, at most a share `alpha` of each class is given a set without
        its true class. A set may hold no class, where none is plausible, and holds every class of which fewer than
        about `1 / alpha` regions or slides were there to fit to.

        Args:
            alpha: Share of wrong sets that is accepted, in (0, 1).

        Raises:
            ValueError: `alpha` is out of range, or the model has no `class_sets`.
        """
        if not 0 < alpha < 1:
            raise ValueError(f"`alpha` must lie between 0 and 1, got {alpha!r}.")
        if self.class_p_values is None or self.logits is None:
            raise ValueError("The model has nothing to make prediction sets of: `class_p_values` is None.")
        order = self.logits.argsort(dim=-1, descending=True).tolist()
        plausible = (self.class_p_values > alpha).tolist()
        return [[self.class_names[k] for k in row if kept[k]] for row, kept in zip(order, plausible)]

    def __getitem__(self, key: Any) -> Any:
        """Field by name, `"predicted_class_names"` included, or by index of `to_tuple`."""
        return self.predicted_class_names if key == "predicted_class_names" else super().__getitem__(key)

    def __reduce__(self) -> tuple:
        """Pickle the names with the tensors; the type itself is made anew where it is read."""
        return _rebuild_output, (self.class_names, dict(self))


_OUTPUT_TYPES: dict[tuple[str, ...], type[SpiderOutput]] = {}


def output_type(class_names: Iterable[str]) -> type[SpiderOutput]:
    """The `SpiderOutput` whose logits are of these classes; always the same type for the same names.

    The model makes it when it is built. No graph can be traced that first makes such a type: after a change
    of the names, call the model once before.
    """
    names = tuple(class_names)
    if names not in _OUTPUT_TYPES:
        # Transformers registers types by name, and a saved graph finds its own by that: one for each list of names.
        fields = {"class_names": names, "__qualname__": "SpiderOutput"}
        _OUTPUT_TYPES[names] = type(f"SpiderOutput{names!r}", (SpiderOutput,), fields)
    return _OUTPUT_TYPES[names]


def _rebuild_output(class_names: tuple[str, ...], fields: dict[str, torch.Tensor]) -> SpiderOutput:
    return output_type(class_names)(**fields)
