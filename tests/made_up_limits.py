"""Something for a tiny model to remember of its own limits."""

import torch
from tiny_spider import CLASS_NAMES

CLASSES = len(CLASS_NAMES)


def random_state(model, seed=0):
    """Fill what a model remembers: a covariance that is none of the simple ones, and other scores for each class."""
    generator = torch.Generator().manual_seed(seed)
    familiarity, sets = model.familiarity, model.class_sets
    for tensor in familiarity.buffers():
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    scores = sets.scores.shape[1]
    sets.scores.copy_((torch.rand(CLASSES, scores, generator=generator) * 1e4).round().sort().values / 1e4)
    sets.scores[0, 3:] = float("inf")
    sets.p_values.copy_(torch.linspace(1, 0.05, scores + 1).expand(CLASSES, -1))
