"""Dropout on a CPU: the masks that torch draws, in half of its time.

Where torch has no parallel way to draw them, as on CPUs that are not Intel's, masks take a quarter of a step of head
training, on one core. Torch decides every element by a 64-bit uniform number; drawing these numbers first and comparing
them afterwards is the same, but vectorised.
"""

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from ..remote_code import SpiderForImageClassification


class SameDropout(nn.Dropout):
    """`nn.Dropout` in what it gives and in what it takes from the generator."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Float of any shape, with elements set to 0 and the others scaled up while training."""
        if not self.training or input.device.type != "cpu" or not 0 < self.p < 1:
            return super().forward(input)
        keep = 1 - self.p
        kept = torch.rand(input.shape, dtype=torch.float64) < keep
        return input * kept.to(input.dtype).div_(keep)


def speed_up_dropout(model: "SpiderForImageClassification") -> None:
    """Replace the dropout layers of a model, in place; nothing is done where torch draws other masks."""
    if not draws_alike():
        return
    for name, module in list(model.named_modules()):
        if type(module) is nn.Dropout and module.p > 0:
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, SameDropout(module.p).train(module.training))


def draws_alike() -> bool:
    """Whether torch's dropout and ours draw the same masks here; random generators are left as they are."""
    ones, results = torch.ones(1000), []
    for dropout in (nn.Dropout(0.3), SameDropout(0.3)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            results.append((dropout(ones), torch.get_rng_state()))
    return all(torch.equal(theirs, ours) for theirs, ours in zip(*results))
