"""Whether training ever went through a layer."""

import math

import torch


def looks_untrained(weight: torch.Tensor, bias: torch.Tensor, initializer_range: float = 0.02) -> bool:
    """Whether a linear layer is as BERT initialises it: a bias of exactly 0, weights of the normal distribution.

    A layer that takes part in training has another bias after its first step. One that does not gets no gradient, and
    then neither the optimiser nor weight decay touch it.

    Args:
        weight: Float `(out, in)`.
        bias: Float `(out,)`.
        initializer_range: Standard deviation of the weights.
    """
    values = weight.double().flatten()
    # Six standard errors of the mean and of the standard deviation of so many normal values.
    tolerance = 6 * initializer_range / math.sqrt(len(values))
    fresh_weights = abs(float(values.mean())) < tolerance and abs(float(values.std()) - initializer_range) < tolerance
    return fresh_weights and not bool(bias.any())


def row_looks_untrained(row: torch.Tensor, initializer_range: float = 0.02) -> bool:
    """Whether a row of an embedding may be as BERT initialises it, perhaps shrunk by weight decay.

    An embedding has one gradient for all rows, so that decay reaches those that nobody reads too.

    Args:
        row: Float `(width,)`.
        initializer_range: Standard deviation of fresh values.
    """
    values = row.double()
    tolerance = 6 * initializer_range / math.sqrt(len(values))
    deviation = float((values**2).mean().sqrt())
    return abs(float(values.mean())) < tolerance and deviation < initializer_range + tolerance
